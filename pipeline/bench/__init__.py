"""Benchmarks: ``python -m pipeline.bench cache``."""
