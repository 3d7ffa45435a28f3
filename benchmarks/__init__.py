"""Measure what the docs quote: ``python -m benchmarks.speed``."""
