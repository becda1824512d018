"""The rate limit's arithmetic, with a clock that tests set."""

import random

import pytest
from easel_contract.server_config import RateLimitConfig
from easel_server.broker.rate import decide_rate, interval_microseconds

SECOND = 1_000_000


@pytest.mark.parametrize("requests_per_minute", [1, 7, 60, 997, 100_000])
@pytest.mark.parametrize("burst", [1, 5])
def test_the_limit_holds_and_what_is_told_is_true(requests_per_minute: int, burst: int) -> None:
    rate = RateLimitConfig(requests_per_minute=requests_per_minute, burst=burst)
    chance = random.Random(requests_per_minute * burst)  # noqa: S311 (arrivals, not secrets)
    arrival, now, passed = 0, 1_700_000_000 * SECOND, 0
    start = now
    for _ in range(500):
        decision, arrival = decide_rate(arrival, now, rate)
        passed += decision.allowed
        if not decision.allowed:
            wait = round(decision.retry_after_seconds * SECOND)
            assert not decide_rate(arrival, now + wait - 1, rate)[0].allowed
            assert decide_rate(arrival, now + wait, rate)[0].allowed
        now += chance.randrange(2 * interval_microseconds(rate))
    assert passed <= burst + (now - start) / interval_microseconds(rate) + 1


def test_a_clock_that_was_set_back_blocks_nobody_for_longer_than_a_burst() -> None:
    rate = RateLimitConfig(requests_per_minute=60, burst=2)
    decision, _ = decide_rate(arrival=10**15, now=10**12, rate=rate)
    assert not decision.allowed
    assert decision.retry_after_seconds <= 1
