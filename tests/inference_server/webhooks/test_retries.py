"""Retries of webhooks."""

from easel_server.webhooks.deliverer import DELAYS_SECONDS, MAX_ATTEMPTS, retry_delay_seconds


def test_delays_grow_and_end() -> None:
    delays = [retry_delay_seconds(attempt, 0.0) for attempt in range(1, MAX_ATTEMPTS + 1)]
    assert delays[:4] == [5, 30, 120, 600]
    assert delays[-1] is None
    assert sorted(DELAYS_SECONDS) == list(DELAYS_SECONDS)


def test_chance_lengthens_a_delay_by_a_fifth_at_the_most() -> None:
    assert retry_delay_seconds(2, 0.999) is not None
    assert 30 < (retry_delay_seconds(2, 0.999) or 0) < 36
