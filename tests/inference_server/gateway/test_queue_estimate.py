"""How long a request will wait."""

import math

import pytest
from easel_server.gateway.queue_estimate import Capacity, predict_wait_seconds
from hypothesis import given
from hypothesis import strategies as st

AMOUNTS = st.floats(min_value=0, max_value=1e6)
COUNTS = st.integers(min_value=0, max_value=100)


@pytest.mark.parametrize(
    ("gpu_seconds_ahead", "capacity", "expected"),
    [
        (0.0, Capacity(1, 1, 60.0), 0.0),
        (30.0, Capacity(1, 1, 60.0), 30.0),
        (30.0, Capacity(3, 3, 60.0), 10.0),
        (0.0, Capacity(0, 2, 60.0), 60.0),
        (100.0, Capacity(0, 2, 60.0), 110.0),
        (100.0, Capacity(0, 0, 60.0), math.inf),
        (100.0, Capacity(2, 4, 60.0), 50.0),
        (320.0, Capacity(2, 4, 60.0), 110.0),
        (100.0, Capacity(4, 2, 60.0), 25.0),
    ],
    ids=[
        "nothing is ahead of it",
        "one worker does what is ahead",
        "three share it",
        "from zero it takes as long as a start",
        "and then as long as the work",
        "nobody will ever come",
        "what is ahead is done before others have started",
        "others join in once they have started",
        "more are there than the service may have",
    ],
)
def test_the_wait_is(gpu_seconds_ahead: float, capacity: Capacity, expected: float) -> None:
    assert predict_wait_seconds(gpu_seconds_ahead, capacity) == pytest.approx(expected)


@given(AMOUNTS, AMOUNTS, COUNTS, COUNTS, AMOUNTS)
def test_more_work_never_waits_less(less: float, more: float, workers: int, most: int, start_seconds: float) -> None:
    capacity = Capacity(workers, most, start_seconds)
    waits = [predict_wait_seconds(amount, capacity) for amount in sorted((less, more))]
    assert waits[0] <= waits[1] + 1e-6


@given(AMOUNTS, COUNTS, COUNTS, AMOUNTS)
def test_another_worker_never_makes_it_longer(
    gpu_seconds_ahead: float, workers: int, most: int, start_seconds: float
) -> None:
    now = predict_wait_seconds(gpu_seconds_ahead, Capacity(workers, most, start_seconds))
    with_another = predict_wait_seconds(gpu_seconds_ahead, Capacity(workers + 1, most, start_seconds))
    assert with_another <= now + 1e-6
