"""A request, its parameters, its job and its cost: values and rules. No I/O, no clock, no torch."""
