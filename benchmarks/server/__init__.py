"""``make bench-server``: the data plane under load, each figure as a ratio within one run.

See docs/contributors/benchmarks.md.
"""
