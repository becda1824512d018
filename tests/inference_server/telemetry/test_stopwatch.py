"""Time that something went on, whoever held the watch."""

import pytest
from easel_server.telemetry.metrics import Stopwatch


class Clock:
    now = 50.0

    def __call__(self) -> float:
        return self.now


def test_it_runs_while_anybody_holds_it_and_counts_each_second_once() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    clock.now += 5
    assert watch.seconds == 0
    with watch.running():
        clock.now += 1
        assert watch.seconds == 1
        with watch.running():
            clock.now += 2
        clock.now += 4
    clock.now += 100
    assert watch.seconds == 7
    with watch.running():
        clock.now += 1
    assert watch.seconds == 8


def test_an_error_stops_it() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    with pytest.raises(KeyError), watch.running():
        raise KeyError
    clock.now += 1
    assert watch.seconds == 0
