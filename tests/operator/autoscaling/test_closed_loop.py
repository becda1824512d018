"""The planner with a queue, pods and an autoscaler around it, over seeds: it reaches enough pods, and comes back."""

import math

import pytest
from easel_operator.autoscaling.replay.choice import Basis
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operator.autoscaling.closed_loop import AUTOSCALER_SECONDS, TICK_SECONDS, ClosedLoop
from tests.operator.autoscaling.support import NO_HEADROOM, build_settings

SEEDS = st.integers(0, 1 << 30)
# Loads in pods kept busy, between whole numbers, so that "enough pods" has one meaning.
LOADS = st.integers(2, 9).map(lambda pods: pods - 0.5)


@settings(max_examples=12, deadline=None)
@given(
    load=LOADS,
    service_seconds=st.sampled_from([2.0, 4.0, 10.0]),
    cold_start_seconds=st.sampled_from([5.0, 40.0, 90.0]),
    target=st.none() | st.integers(1, 6),
    seed=SEEDS,
)
def test_a_step_of_load_gets_enough_pods_in_bounded_time(
    load: float, service_seconds: float, cold_start_seconds: float, target: int | None, seed: int
) -> None:
    loop = ClosedLoop(
        build_settings(max_replicas=60, min_replicas=1, target_queue_depth=target),
        service_seconds=service_seconds,
        cold_start_seconds=cold_start_seconds,
        seed=seed,
    )
    enough = math.ceil(load)
    # The mean of the last five minutes shows the load within a minute or two, and the backlog sooner than that.
    bound = 180 + 2 * (cold_start_seconds + AUTOSCALER_SECONDS) + TICK_SECONDS
    while len(loop.ready) < enough and loop.seconds < bound:
        loop.run(TICK_SECONDS, load / service_seconds)
    assert len(loop.ready) >= enough


@pytest.mark.parametrize("cold_start_seconds", [5.0, 30.0, 90.0])
def test_a_step_of_load_does_not_order_its_backlog_twice(cold_start_seconds: float) -> None:
    loop = ClosedLoop(
        build_settings(max_replicas=60, min_replicas=1),
        service_seconds=4,
        cold_start_seconds=cold_start_seconds,
        seed=1,
    )
    loop.run(1200, 3.4 / 4)
    # By the time that the first pods are ready, 3.4 pods' work of a cold start waits; twice that is ample.
    assert max(level for _, level in loop.desired) <= 4 + 2 * 3.4 * (cold_start_seconds + 15) / 20


@settings(max_examples=8, deadline=None)
@given(load=LOADS, minimum=st.integers(0, 2), seed=SEEDS)
def test_when_the_load_is_gone_the_minimum_is_reached(load: float, minimum: int, seed: int) -> None:
    loop = ClosedLoop(
        build_settings(max_replicas=60, min_replicas=minimum),
        service_seconds=4,
        cold_start_seconds=20,
        seed=seed,
        choice=NO_HEADROOM,
    )
    loop.run(600, load / 4)
    while loop.waiting or any(pod.jobs for pod in loop.pods):
        loop.run(TICK_SECONDS, 0)
        assert loop.seconds < 1200, "the backlog must be worked off"
    loop.run(300 + AUTOSCALER_SECONDS + 4 * TICK_SECONDS, 0)
    assert len(loop.pods) == minimum
    assert len(loop.latencies) == loop.submitted


CONSTANT_LOADS = {
    "3.4 pods": (0.85, 4.0, 20.0),
    "3.4 pods, slow start": (0.85, 4.0, 90.0),
    "6.8 pods": (1.7, 4.0, 20.0),
    "6.8 pods, slow start": (1.7, 4.0, 90.0),
    "1.3 pods of long jobs": (0.13, 10.0, 20.0),
}


@pytest.mark.parametrize("is_paced", [True, False], ids=["paced", "by chance"])
@pytest.mark.parametrize(
    ("rate", "service_seconds", "cold_start_seconds"), CONSTANT_LOADS.values(), ids=CONSTANT_LOADS.keys()
)
def test_a_constant_load_does_not_flap(
    rate: float, service_seconds: float, cold_start_seconds: float, *, is_paced: bool
) -> None:
    loop = ClosedLoop(
        build_settings(max_replicas=40, min_replicas=1, scale_down_after_seconds=None),
        service_seconds=service_seconds,
        cold_start_seconds=cold_start_seconds,
        seed=2,
        is_paced=is_paced,
    )
    loop.run(6600, rate)
    # In 40 minutes. A pod that isn't always needed may come and go with its work; by chance the work of two minutes,
    # which is what the planner goes by, swings by a pod or two.
    assert loop.changes(since=4200) <= 20
    late = [seconds for at, seconds in loop.latencies if at > 4200 and seconds > 30]
    # The budget is kept over days; in 40 minutes of a load that just fits the pods, chance has more room.
    assert len(late) < 0.1 * len(loop.latencies)
    pod_seconds = AUTOSCALER_SECONDS * sum(replicas for at, replicas in loop.ordered if at > 4200)
    assert pod_seconds < 1.8 * 2400 * rate * service_seconds


def test_a_new_service_has_head_room_until_it_is_known_not_to_need_it() -> None:
    loop = ClosedLoop(build_settings(), service_seconds=4, cold_start_seconds=20, seed=4, is_paced=True)
    pods, bases = [], []
    for seconds in (1800, 2400):
        loop.run(seconds, 3.4 / 4)
        pods.append(len(loop.pods))
        bases.append(loop.bank.choice.basis)
    assert (bases, pods) == ([Basis.FIRST, Basis.BUDGET], [5, 4])


def test_no_data_holds_the_pods_through_an_outage_of_an_hour() -> None:
    loop = ClosedLoop(build_settings(max_replicas=20), service_seconds=4, cold_start_seconds=20, seed=7)
    loop.run(600, 1.5)
    pods = len(loop.pods)
    held = loop.desired[-1][1]
    loop.has_data = False
    loop.run(3600, 0)
    assert {level for at, level in loop.desired if at > 600} == {held}
    assert len(loop.pods) in (pods, held)
    loop.has_data = True
    loop.run(900, 0)
    assert len(loop.pods) == 0


def test_a_cluster_without_room_gets_no_more_orders() -> None:
    loop = ClosedLoop(
        build_settings(max_replicas=50, min_replicas=1), service_seconds=4, cold_start_seconds=20, seed=3, room=3
    )
    loop.run(300, 3.0)
    ordered = loop.desired[-1][1]
    loop.run(300, 3.0)
    assert loop.desired[-1][1] == ordered
    assert loop.decision is not None
    assert loop.decision.is_limited_by_capacity
    loop.room = 50
    loop.run(300, 3.0)
    assert len(loop.ready) >= 12


def test_an_idle_service_sleeps_and_wakes_on_its_first_request() -> None:
    loop = ClosedLoop(build_settings(max_replicas=20), service_seconds=4, cold_start_seconds=30, seed=5)
    loop.run(400, 0)
    assert len(loop.pods) == 0
    loop.waiting.append(loop.seconds)
    loop.submitted += 1
    loop.run(TICK_SECONDS + AUTOSCALER_SECONDS + 30 + 10, 0)
    assert [seconds for _, seconds in loop.latencies] == [pytest.approx(44, abs=12)]


def test_the_demonstration_goes_from_no_pod_to_its_maximum_and_back() -> None:
    """The settings of examples/tiny.yaml under the demo's burst: 120 requests at once."""
    tiny = build_settings(
        max_replicas=4,
        target_queue_depth=2,
        target_latency_seconds=10,
        scale_down_after_seconds=15,
        scale_to_zero_after_seconds=30,
    )
    loop = ClosedLoop(tiny, service_seconds=1.0, cold_start_seconds=8, seed=11)
    loop.run(120, 0)
    assert len(loop.pods) == 0
    loop.waiting.extend([loop.seconds] * 120)
    loop.submitted += 120
    loop.run(TICK_SECONDS + AUTOSCALER_SECONDS, 0)
    assert len(loop.pods) == 4
    loop.run(120, 0)
    assert (len(loop.latencies), len(loop.pods)) == (120, 0)
