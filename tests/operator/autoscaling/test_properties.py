"""What holds for any sequence of observations."""

from dataclasses import replace
from random import Random

from easel_contract.resource import ScalingSpec, ScheduleSpec
from easel_operator.autoscaling.cold_starts import REMEMBERED_STARTS
from easel_operator.autoscaling.forecast.rates import MAX_LEAD_MINUTES
from easel_operator.autoscaling.observation import Observation, QueueReading, observe
from easel_operator.autoscaling.planner import Plan, PlannerState, begin_state, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operator.autoscaling.support import START, after, build_observation, build_pods, build_sample

SPECS = st.builds(
    lambda minimum, more, depth, down, zero, schedules: ScalingSpec(
        min_replicas=minimum,
        max_replicas=max(1, minimum + more),
        target_queue_depth=depth,
        scale_down_after_seconds=down,
        scale_to_zero_after_seconds=zero,
        schedules=tuple(
            schedule.model_copy(update={"min_replicas": min(schedule.min_replicas, max(1, minimum + more))})
            for schedule in schedules
        ),
    ),
    st.integers(0, 5),
    st.integers(0, 30),
    st.none() | st.integers(1, 8),
    st.sampled_from([None, 0, 20, 60]),
    st.sampled_from([None, 0, 60, 300]),
    st.sampled_from([(), (ScheduleSpec(name="noon", cron="1 12 * * *", duration_minutes=1, min_replicas=7),)]),
)
QUEUES = st.builds(
    QueueReading,
    st.integers(0, 200),
    st.integers(0, 20),
    st.none() | st.floats(0, 3600),
    st.none() | st.floats(0, 5000),
    st.none() | st.floats(0, 100),
)
PODS = st.builds(
    lambda ready, ages, unschedulable, is_rolling_out: build_pods(
        ready, len(ages), unschedulable, ages=tuple(ages), is_rolling_out=is_rolling_out
    ),
    st.integers(0, 20),
    st.lists(st.floats(0, 4000), max_size=5),
    st.sampled_from([0, 0, 0, 2]),
    st.sampled_from([False, False, False, True]),
)
OBSERVATIONS = st.builds(
    lambda queue, pods, arrivals, finished, late, idle: replace(
        build_observation(
            pods=pods, arrivals=arrivals, finished=finished, late=late * finished, idle_pods=min(idle, pods.ready)
        ),
        queue=queue,
    ),
    st.none() | QUEUES,
    PODS,
    st.none() | st.floats(0, 20),
    st.sampled_from([0.0, 1.0, 5.0]),
    st.floats(0, 1),
    st.integers(0, 20),
)
SEQUENCES = st.lists(OBSERVATIONS, min_size=1, max_size=40)


def step(observation: Observation, state: PlannerState, spec: ScalingSpec, seconds: float) -> Plan:
    now = after(seconds)
    return plan(replace(observation, at=now), state, spec, now)


def carry(spec: ScalingSpec, sequence: list[Observation], seeded: int) -> tuple[PlannerState, float]:
    state, seconds = begin_state(seeded, START), 0.0
    for observation in sequence:
        seconds += 2.5
        state = step(observation, state, spec, seconds).state
    return state, seconds + 2.5


@settings(max_examples=200, deadline=None)
@given(spec=SPECS, sequence=SEQUENCES, seeded=st.integers(0, 40))
def test_never_above_the_maximum_or_below_the_minimum(
    spec: ScalingSpec, sequence: list[Observation], seeded: int
) -> None:
    state = begin_state(seeded, START)
    for number, observation in enumerate(sequence):
        decision = step(observation, state, spec, 2.5 * (number + 1))
        assert spec.min_replicas <= decision.desired_replicas <= spec.max_replicas
        assert decision.desired_replicas == max(decision.proposals.values())
        assert decision.sentence.startswith(f"{decision.desired_replicas} pod")
        state = decision.state


@settings(max_examples=200, deadline=None)
@given(spec=SPECS, sequence=SEQUENCES, last=OBSERVATIONS, fewer=st.integers(0, 200), more=st.integers(0, 200))
def test_a_deeper_queue_never_gets_fewer_pods(
    spec: ScalingSpec, sequence: list[Observation], last: Observation, fewer: int, more: int
) -> None:
    state, seconds = carry(spec, sequence, seeded=3)
    desired = [
        step(replace(last, queue=QueueReading(waiting, 2, 5.0)), state, spec, seconds).desired_replicas
        for waiting in sorted((fewer, more))
    ]
    assert desired == sorted(desired)


@settings(max_examples=200, deadline=None)
@given(spec=SPECS, sequence=SEQUENCES, last=OBSERVATIONS, less=st.floats(0, 5000), more=st.floats(0, 5000))
def test_more_work_never_gets_fewer_pods(
    spec: ScalingSpec, sequence: list[Observation], last: Observation, less: float, more: float
) -> None:
    state, seconds = carry(spec, sequence, seeded=3)
    desired = [
        step(replace(last, queue=QueueReading(9, 2, 5.0, work, 3.0)), state, spec, seconds).desired_replicas
        for work in sorted((less, more))
    ]
    assert desired == sorted(desired)


@settings(max_examples=200, deadline=None)
@given(spec=SPECS, sequence=SEQUENCES, blind=st.integers(1, 30))
def test_never_down_on_missing_data(spec: ScalingSpec, sequence: list[Observation], blind: int) -> None:
    state, seconds = carry(spec, sequence, seeded=3)
    before = state.desired_replicas
    missing = build_observation(None)
    for number in range(blind):
        decision = step(missing, state, spec, seconds + 2.5 * number)
        assert decision.desired_replicas == before
        state = decision.state


MAX_UNSET_SECONDS = 3600  # a cold start of a minute, and the largest margin for lateness


@settings(max_examples=60, deadline=None)
@given(spec=SPECS, sequence=SEQUENCES)
def test_idle_ends_at_the_minimum(spec: ScalingSpec, sequence: list[Observation]) -> None:
    state, seconds = carry(spec, sequence, seeded=3)
    limits = (spec.scale_down_after_seconds, spec.scale_to_zero_after_seconds)
    longest = sum(MAX_UNSET_SECONDS if limit is None else limit for limit in limits)
    for number in range(int(longest / 10) + 30):  # and until the schedule is over
        idle = replace(build_observation(0, arrivals=0.0), elapsed_seconds=10.0)
        decision = step(idle, state, spec, seconds + 10.0 * number)
        state = decision.state
    assert decision.desired_replicas == spec.min_replicas


@settings(max_examples=100, deadline=None)
@given(spec=SPECS, sequence=SEQUENCES)
def test_the_memory_of_a_service_is_bounded(spec: ScalingSpec, sequence: list[Observation]) -> None:
    seeded = 3  # pods of before maxReplicas was lowered: one number more to remember
    state, _ = carry(spec, sequence, seeded=seeded)
    assert all(len(window.recommendations) <= max(spec.max_replicas, seeded) + 1 for window in state.windows.values())
    assert len(state.forecast.rates.said) <= MAX_LEAD_MINUTES + 1
    assert len(state.cold_starts.seconds) <= REMEMBERED_STARTS


@settings(max_examples=100, deadline=None)
@given(
    readings=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 50)), min_size=1, max_size=8), shuffled=st.randoms()
)
def test_the_order_of_samples_does_not_matter_and_the_freshest_counts(
    readings: list[tuple[int, int]], shuffled: Random
) -> None:
    samples = [
        build_sample(f"pod-{number}", after(age), queue=QueueReading(waiting, 0))
        for number, (age, waiting) in enumerate(readings)
    ]
    in_order = observe(samples, None, build_pods(), after(4))
    shuffled.shuffle(samples)
    assert observe(samples, None, build_pods(), after(4)).queue == in_order.queue
    freshest = max(age for age, _ in readings)
    assert in_order.queue in [QueueReading(waiting, 0) for age, waiting in readings if age == freshest]
