"""The operator with a thousand services: what its scaling loop takes."""
