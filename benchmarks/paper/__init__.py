"""Run the paper's studies at a chosen scale: ``python -m benchmarks.paper --help``."""
