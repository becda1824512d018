"""Headroom by replay: the service's own arrivals run through shadow fleets of fixed settings, and the best is used."""
