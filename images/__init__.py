"""Builds the container images. Standard library only, so that a bare Python with an engine beside it is enough."""
