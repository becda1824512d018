"""``make bench-adapters``: LoRAs on the engine, what a switch takes and what they cost.

See docs/contributors/benchmarks.md.
"""
