"""Benchmarks: each writes a table and benchmarks/results/NAME.json."""
