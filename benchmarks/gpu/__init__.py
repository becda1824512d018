"""``make bench-gpu``: the published models at full width on a GPU, with random weights.

See docs/contributors/benchmarks.md.
"""
