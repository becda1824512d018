"""Each policy's rules where they show: what it asks for, when, and what it can't do."""

import itertools

import pytest
from easel_contract.resource import QueueOrder
from easel_operator.simulation.outcome import Outcome
from easel_operator.simulation.policies.interface import PolicyError, parse_policy_name, split_policy_names
from easel_operator.simulation.policies.registry import BUILDERS, build_policy
from easel_operator.simulation.simulation import simulate
from easel_operator.simulation.trace import Trace, build_trace

from tests.operator.simulation.support import build_bursty_trace, build_poisson_trace, build_settings


def run(policy: str, trace: Trace, **settings: int) -> Outcome:
    chosen = build_settings(order=QueueOrder.FIRST_COME_FIRST_SERVED, **settings)
    return simulate(trace, build_policy(policy, chosen), chosen, timeline_step_seconds=1.0)


def pods(outcome: Outcome) -> list[int]:
    """Pods that exist, second by second."""
    assert outcome.timeline is not None
    return [ready + starting for ready, starting in zip(outcome.timeline.ready, outcome.timeline.starting, strict=True)]


def burst(at: float, requests: int, work: float, until: float) -> Trace:
    return build_trace([(at, work)] * requests, until)


@pytest.mark.parametrize("policy", BUILDERS)
def test_every_policy_serves_a_burst_and_stays_within_the_maximum(policy: str) -> None:
    outcome = run(policy, burst(100.0, 40, 5.0, 600.0), max_replicas=4)
    assert outcome.unfinished == 0
    assert max(pods(outcome)[101:]) == 4


@pytest.mark.parametrize("policy", sorted(set(BUILDERS) - {"hpa-gpu-utilisation"}))
def test_every_policy_that_can_goes_to_zero_and_comes_back(policy: str) -> None:
    trace = build_trace([(10.0, 5.0), (3600.0, 5.0)], 3700.0)
    outcome = run(policy, trace, scale_to_zero_after_seconds=300)
    assert outcome.unfinished == 0
    assert outcome.seconds_at_zero > 1500
    assert outcome.latencies_seconds[1] >= 15.0


@pytest.mark.parametrize("policy", BUILDERS)
def test_no_policy_goes_below_the_minimum(policy: str) -> None:
    outcome = run(policy, build_trace([(10.0, 5.0), (3600.0, 5.0)], 3700.0), min_replicas=2)
    assert min(pods(outcome)) == 2


def test_utilisation_can_not_wake_a_service_so_it_keeps_a_pod() -> None:
    assert min(pods(run("hpa-gpu-utilisation", build_trace([(10.0, 5.0)], 3600.0)))) == 1


def test_a_queue_target_sets_the_requests_a_pod() -> None:
    trace = build_trace([(60.0, 500.0)] * 12, 700.0)
    for target, wanted in ((1, 12), (2, 6), (4, 3)):
        assert max(pods(run(f"hpa-queue:target={target}", trace, max_replicas=40))) == wanted


def test_an_autoscaler_doubles_at_most_every_fifteen_seconds() -> None:
    outcome = run("hpa-queue:target=1", build_trace([(61.0, 500.0)] * 30, 700.0), max_replicas=40)
    assert [pods(outcome)[at] for at in (74, 76, 91, 106, 121)] == [1, 4, 8, 16, 30]


def test_prometheus_shows_an_autoscaler_what_was_half_a_scrape_ago() -> None:
    fresh = run("hpa-queue:target=1,scrapeAge=0", build_trace([(70.0, 500.0)] * 4, 700.0))
    stale = run("hpa-queue:target=1", build_trace([(70.0, 500.0)] * 4, 700.0))
    assert pods(fresh)[76] == 4
    assert (pods(stale)[76], pods(stale)[91]) == (1, 4)


def test_an_autoscaler_holds_for_five_minutes_and_a_window_of_its_own_for_less() -> None:
    trace = burst(60.0, 8, 10.0, 900.0)
    held = pods(run("hpa-queue:target=1", trace))
    short = pods(run("hpa-queue:target=1,downWindow=60", trace))
    assert held.count(8) >= 300
    assert short.count(8) < 150


def test_keda_wakes_at_its_poll_and_sleeps_after_its_cooldown_from_any_number() -> None:
    trace = build_trace([(25.0, 10.0), (605.0, 400.0), (605.0, 400.0), (605.0, 400.0), (605.0, 400.0)], 2000.0)
    outcome = pods(run("keda-queue:target=1", trace))
    assert outcome[328] == 1
    assert outcome[332] == 0
    assert outcome[605] == 0
    assert outcome[631] > 0
    falls = [(before, after) for before, after in itertools.pairwise(outcome) if after < before]
    assert falls[-1] == (4, 0)


def test_knative_panics_at_twice_what_its_pods_can_take() -> None:
    outcome = pods(run("knative-concurrency", build_trace([(61.0, 300.0)] * 7, 700.0)))
    assert outcome[60] == 0
    assert outcome[70] == 10  # seven requests at 0.7 a pod


def test_ray_serve_waits_thirty_seconds_up_and_ten_minutes_down_and_rests_at_one() -> None:
    outcome = pods(run("ray-serve", build_trace([(100.0, 200.0)] * 8, 2500.0), cold_start=10))
    assert outcome[125] == 1
    assert max(outcome[:180]) == 4
    assert outcome[850] == 4
    assert [after for before, after in itertools.pairwise(outcome) if after < before][-2:] == [1, 0]


def test_easel_sets_exactly_what_its_planner_says() -> None:
    outcome = run(
        "easel:targetQueueDepth=2,maxReplicas=10,scaleToZeroAfterSeconds=300",
        burst(61.0, 20, 30.0, 300.0),
        max_replicas=40,
    )
    assert (pods(outcome)[74], pods(outcome)[76]) == (1, 10)


def test_easel_marks_idle_pods_before_it_scales_any_down() -> None:
    trace = build_poisson_trace(3600, 0.4, 4.0, seed=3)
    ours = run("easel", trace, cold_start=20)
    theirs = run("hpa-queue:downWindow=0", trace, cold_start=20)
    assert ours.busy_pods_killed < theirs.busy_pods_killed / 4


def test_easel_scales_itself_where_the_autoscaler_can_not_reach_zero() -> None:
    trace = build_trace([(10.0, 5.0), (3603.0, 5.0)], 3700.0)
    old = pods(run("easel:kubernetesMinor=33", trace))
    assert min(old) == 0
    assert old[3605] == 1  # at the operator's own tick, not at the autoscaler's


def test_easel_begins_with_the_cold_start_that_an_operator_has_seen_before() -> None:
    trace = build_trace([(1.0, 1.0)], 1500.0)
    new, seasoned = (
        run(policy, trace).seconds_at_zero for policy in ("easel:period=2", "easel:period=2,knownColdStart=200")
    )
    # The last pod is kept for some cold starts; 60 s are assumed until one was seen.
    assert new > 1.3 * seasoned


def test_looking_less_often_while_nothing_happens_changes_next_to_nothing() -> None:
    trace = build_bursty_trace(4, bursts=40)
    always, seldom = (run(policy, trace, cold_start=60) for policy in ("easel:quiet=0", "easel"))
    assert seldom.gpu_hours == pytest.approx(always.gpu_hours, rel=0.03)
    assert seldom.late_percent == pytest.approx(always.late_percent, abs=3.0)


def test_a_fixed_number_stays() -> None:
    assert set(pods(run("fixed-3", burst(10.0, 5, 5.0, 100.0)))) == {3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hpa", "no policy is called 'hpa'; there are easel, hpa-queue,"),
        ("hpa-queue:target", "'target' is no parameter; KEY=VALUE is expected"),
        ("hpa-queue:target=0", "target is '0'; a number from 0.001 to inf is allowed"),
        ("hpa-queue:target=many", "target is 'many'"),
        ("hpa-queue:colour=3", "hpa-queue has no parameter 'colour'; it has "),
        ("easel:maxReplicas=0", "easel: maxReplicas is '0': Input should be greater than or equal to 1"),
        ("easel:minReplicas=60", r"minReplicas \(60\) must not be greater than maxReplicas \(50\)"),
        ("easel:colour=3", "easel: colour is '3': Extra inputs are not permitted"),
        ("fixed-2000", "at most 1000 pods"),
        ("fixed-3:target=1", "fixed-3 has no parameter 'target'; it has none"),
    ],
)
def test_a_policy_that_does_not_exist_is_refused_with_what_does(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        build_policy(text, build_settings())


def test_names_and_parameters_are_kept_apart_at_commas() -> None:
    names = split_policy_names("easel,hpa-queue:target=1.5,downWindow=120, fixed-3,keda-queue:polling=10")
    assert names == ["easel", "hpa-queue:target=1.5,downWindow=120", "fixed-3", "keda-queue:polling=10"]
    assert parse_policy_name(names[1]).parameters == {"target": "1.5", "downWindow": "120"}
