"""Schedulers of diffusers, by the names of samplers."""
