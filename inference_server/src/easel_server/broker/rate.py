"""The generic cell rate algorithm, which limits like a token bucket and stores one time an owner. Pure.

https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm; ``lua/take.lua`` is the same on the server.
"""

from easel_contract.server_config import RateLimitConfig

from easel_server.broker.interface import RateDecision

MICROSECONDS_PER_MINUTE = 60_000_000


def interval_microseconds(rate: RateLimitConfig) -> int:
    """Time between two requests at exactly the limit, rounded up, so that the limit is never exceeded."""
    return -(-MICROSECONDS_PER_MINUTE // rate.requests_per_minute)


def decide_rate(arrival: int, now: int, rate: RateLimitConfig) -> tuple[RateDecision, int]:
    """The decision, and the new theoretical arrival time to store (unchanged by a refusal). Microseconds."""
    interval = interval_microseconds(rate)
    # Never further ahead than a full burst, even if the clock was set back since.
    next_arrival = min(max(now, arrival), now + rate.burst * interval) + interval
    early = next_arrival - rate.burst * interval - now
    if early > 0:
        return RateDecision(False, rate.burst, 0, early / 1_000_000), arrival
    return RateDecision(True, rate.burst, -early // interval, 0.0), next_arrival
