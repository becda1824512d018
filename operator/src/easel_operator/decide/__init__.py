"""Decisions: a frozen snapshot in, a frozen plan out. Pure: no await, clock, randomness, logging or client."""
