"""Pods for a backlog, against the definition written out, and what it means for a user."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from easel_operator.autoscaling.backlog import count_pods
from hypothesis import given
from hypothesis import strategies as st

MOST = 40


@dataclass(frozen=True)
class Backlog:
    gpu_seconds: float
    arriving: float
    ready: int
    starting_ages_seconds: Sequence[float]
    cold_start_seconds: float
    drain_seconds: float

    def count_pods(self, most: int) -> int:
        rests = [max(0.0, self.cold_start_seconds - age) for age in self.starting_ages_seconds]
        return count_pods(
            self.gpu_seconds, self.arriving, self.ready, rests, self.cold_start_seconds, self.drain_seconds, most
        )


BACKLOGS = st.builds(
    Backlog,
    gpu_seconds=st.floats(0, 2000),
    arriving=st.floats(0, 8),
    ready=st.integers(0, 8),
    starting_ages_seconds=st.lists(st.floats(0, 120), max_size=6).map(lambda ages: sorted(ages, reverse=True)),
    cold_start_seconds=st.sampled_from([1.0, 30.0, 90.0]),
    drain_seconds=st.floats(1, 100),
)


def count_as_defined(backlog: Backlog) -> int:
    start = backlog.cold_start_seconds
    rests = [0.0] * backlog.ready + [max(0.0, start - age) for age in backlog.starting_ages_seconds]

    def is_enough(pods: int, at: float) -> bool:
        done = sum(max(0.0, at - rest) for rest in rests[:pods])
        left = max(0.0, backlog.gpu_seconds + backlog.arriving * at - done)
        return pods >= backlog.arriving + left / backlog.drain_seconds - 1e-9

    kept = (pods for pods in range(len(rests) + 1) if is_enough(pods, rests[pods - 1] if pods else 0.0))
    ordered = (pods for pods in range(MOST) if is_enough(pods, start))
    return max(next(kept, len(rests)), next(ordered, MOST))


@given(BACKLOGS)
def test_the_count_is_the_one_defined(backlog: Backlog) -> None:
    assert backlog.count_pods(MOST) == count_as_defined(backlog)


def test_a_backlog_that_the_ready_pods_work_off_meanwhile_orders_none() -> None:
    # Two pods do 180 GPU-seconds in the time that a third would take to start.
    assert Backlog(170.0, 0.0, 2, (), cold_start_seconds=90.0, drain_seconds=20.0).count_pods(MOST) == 2
    assert Backlog(300.0, 0.0, 2, (), cold_start_seconds=90.0, drain_seconds=20.0).count_pods(MOST) == 6


def test_pods_that_were_ordered_are_not_taken_back_before_they_have_worked() -> None:
    backlog = 320.0
    ordered = Backlog(backlog, 0.0, 0, (), cold_start_seconds=90.0, drain_seconds=40.0).count_pods(MOST)
    assert ordered == math.ceil(backlog / 40)
    for age in range(0, 91, 10):
        loading = Backlog(backlog, 0.0, 0, (float(age),) * ordered, cold_start_seconds=90.0, drain_seconds=40.0)
        assert loading.count_pods(MOST) == ordered, age
