"""Guarded HTTP to the outside: to URLs that others give, at public addresses only, within bounds."""
