"""What holds for any sequence of observations."""

from dataclasses import replace

from easel_contract.resource import ScalingSpec
from easel_operator.autoscaling.observation import Observation, QueueReading
from easel_operator.autoscaling.planner import History, begin_history, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operator.autoscaling.support import START, after, build_observation, build_pods

SPECS = st.builds(
    lambda minimum, more, depth, down, zero: ScalingSpec(
        min_replicas=minimum,
        max_replicas=max(1, minimum + more),
        target_queue_depth=depth,
        scale_down_after_seconds=down,
        scale_to_zero_after_seconds=zero,
    ),
    st.integers(0, 5),
    st.integers(0, 30),
    st.integers(1, 8),
    st.sampled_from([0, 20, 60]),
    st.sampled_from([0, 60, 300]),
)
OBSERVATIONS = st.builds(
    lambda depth, running, p95, oldest, ready, starting, unschedulable, arrivals, finished, idle: build_observation(
        depth,
        running=min(running, depth or 0),
        p95=p95,
        oldest=oldest,
        pods=build_pods(ready, starting, unschedulable),
        arrivals=arrivals,
        finished=finished,
        idle_workers=min(idle, ready),
    ),
    st.none() | st.integers(0, 200),
    st.integers(0, 20),
    st.none() | st.floats(0, 600),
    st.none() | st.floats(0, 3600),
    st.integers(0, 20),
    st.integers(0, 5),
    st.sampled_from([0, 0, 0, 2]),
    st.none() | st.floats(0, 20),
    st.sampled_from([0.0, 1.0, 5.0]),
    st.integers(0, 20),
)
SEQUENCES = st.lists(OBSERVATIONS, min_size=1, max_size=40)


def carry(spec: ScalingSpec, sequence: list[Observation], seeded: int) -> tuple[History, float]:
    history, seconds = begin_history(seeded, START), 0.0
    for observation in sequence:
        seconds += 2.5
        history = plan(observation, history, spec, after(seconds)).history
    return history, seconds + 2.5


@settings(max_examples=200, deadline=None)
@given(spec=SPECS, sequence=SEQUENCES, seeded=st.integers(0, 40))
def test_never_above_the_maximum_or_below_the_minimum(
    spec: ScalingSpec, sequence: list[Observation], seeded: int
) -> None:
    history = begin_history(seeded, START)
    for number, observation in enumerate(sequence):
        decision = plan(observation, history, spec, after(2.5 * (number + 1)))
        assert spec.min_replicas <= decision.desired_replicas <= spec.max_replicas
        assert decision.desired_replicas == max(decision.proposals.values())
        assert decision.sentence.startswith(f"{decision.desired_replicas} pod")
        history = decision.history


@settings(max_examples=200, deadline=None)
@given(spec=SPECS, sequence=SEQUENCES, last=OBSERVATIONS, fewer=st.integers(0, 200), more=st.integers(0, 200))
def test_a_deeper_queue_never_gets_fewer_pods(
    spec: ScalingSpec, sequence: list[Observation], last: Observation, fewer: int, more: int
) -> None:
    history, seconds = carry(spec, sequence, seeded=3)
    desired = [
        plan(replace(last, queue=QueueReading(waiting, 2, 5.0)), history, spec, after(seconds)).desired_replicas
        for waiting in sorted((fewer, more))
    ]
    assert desired == sorted(desired)


@settings(max_examples=200, deadline=None)
@given(spec=SPECS, sequence=SEQUENCES, blind=st.integers(1, 30))
def test_never_down_on_missing_data(spec: ScalingSpec, sequence: list[Observation], blind: int) -> None:
    history, seconds = carry(spec, sequence, seeded=3)
    before = history.desired_replicas
    missing = build_observation(None)
    for number in range(blind):
        decision = plan(missing, history, spec, after(seconds + 2.5 * number))
        assert decision.desired_replicas == before
        history = decision.history


@settings(max_examples=100, deadline=None)
@given(spec=SPECS, sequence=SEQUENCES)
def test_idle_ends_at_the_minimum(spec: ScalingSpec, sequence: list[Observation]) -> None:
    history, seconds = carry(spec, sequence, seeded=3)
    longest = max(spec.scale_down_after_seconds, spec.scale_to_zero_after_seconds)
    for number in range(int(longest / 2.5) + 2):
        decision = plan(build_observation(0), history, spec, after(seconds + 2.5 * number))
        history = decision.history
    assert decision.desired_replicas == spec.min_replicas


@settings(max_examples=100, deadline=None)
@given(spec=SPECS, sequence=SEQUENCES)
def test_the_memory_of_a_service_is_bounded(spec: ScalingSpec, sequence: list[Observation]) -> None:
    history, _ = carry(spec, sequence, seeded=3)
    assert all(len(hold.wants) <= spec.max_replicas + 1 for hold in history.holds.values())
