"""The broker: the only shared state of the data plane. Every transition of a job is made here, atomically."""
