"""``make bench-engine``: the engine beside the stock call and other ways to batch, on a CPU.

See docs/contributors/benchmarks.md.
"""
