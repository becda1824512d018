"""Builders of a service's children: values in, manifests out. Pure: no I/O, clock or randomness."""
