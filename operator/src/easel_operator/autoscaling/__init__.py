"""How many workers a service needs. Pure: values in, frozen values out; no await, clock, randomness, logging."""
