"""Discrete-event simulation of a service: no clock, no cluster, and no chance but from a seed that is passed in."""
