"""Step-level batching: jobs that share the calls of a denoiser."""
