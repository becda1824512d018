"""The only place that imports torch, diffusers, transformers and accelerate."""
