"""What training costs: memory and time of steps."""
