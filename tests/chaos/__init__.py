"""Runs that are killed, stopped and starved at any moment."""
