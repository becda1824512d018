"""Operators that die, are frozen, are uninstalled: on a cluster of their own, with two of them."""
