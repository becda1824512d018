"""The queue and the pods: who does what when, what it costs, and that no request is ever lost."""

import dataclasses
import random
from dataclasses import replace

import pytest
from easel_operator.simulation.fleet import Fleet
from easel_operator.simulation.pod import LoadedModels, ModelCosts, Pool
from easel_operator.simulation.policies.fixed import FixedPolicy
from easel_operator.simulation.policies.registry import build_policy
from easel_operator.simulation.settings import ColdStart
from easel_operator.simulation.simulation import MAX_OVERTIME_SECONDS, simulate
from easel_operator.simulation.trace import Trace, build_trace, merge_traces

from tests.operator.simulation.support import ScriptedPolicy, build_bursty_trace, build_poisson_trace, build_settings


def test_requests_are_served_in_the_order_of_arrival() -> None:
    trace = build_trace([(0.0, 10.0), (1.0, 2.0), (2.0, 2.0)])
    outcome = simulate(trace, FixedPolicy(1), build_settings())
    assert outcome.latencies_seconds == [10.0, 11.0, 12.0]
    assert outcome.gpu_hours == pytest.approx(14.0 / 3600)


def test_pods_work_side_by_side() -> None:
    trace = build_trace([(0.0, 10.0), (1.0, 2.0), (2.0, 2.0)])
    assert simulate(trace, FixedPolicy(2), build_settings()).latencies_seconds == [10.0, 2.0, 3.0]


def test_a_pod_works_once_its_cold_start_is_over() -> None:
    trace = build_trace([(5.0, 2.0)])
    outcome = simulate(trace, ScriptedPolicy(0, [(5.0, 1)]), build_settings(cold_start=30))
    assert outcome.latencies_seconds == [32.0]
    assert outcome.starts == 1
    assert outcome.startup_gpu_hours == pytest.approx(30 / 3600)
    assert outcome.gpu_hours == pytest.approx(32 / 3600)
    assert outcome.seconds_at_zero == 5.0


def test_cold_starts_lie_within_their_spread() -> None:
    trace = build_trace([(0.0, 100.0)] * 50)
    outcome = simulate(trace, ScriptedPolicy(0, [(0.0, 50)]), build_settings(cold_start=30, spread=10, seed=3))
    starts = [latency - 100.0 for latency in outcome.latencies_seconds]
    assert 20 <= min(starts) < 24
    assert 36 < max(starts) <= 40


def test_a_busy_pod_that_is_removed_finishes_within_its_grace() -> None:
    trace = build_trace([(0.0, 50.0)])
    outcome = simulate(trace, ScriptedPolicy(1, [(10.0, 0)]), build_settings(grace=60))
    assert outcome.latencies_seconds == [50.0]
    assert (outcome.busy_pods_killed, outcome.jobs_handed_back) == (1, 0)
    assert outcome.gpu_hours == pytest.approx(50 / 3600)


def test_a_job_that_does_not_fit_into_the_grace_is_done_anew_first() -> None:
    trace = build_trace([(0.0, 50.0), (1.0, 3.0)])
    outcome = simulate(trace, ScriptedPolicy(1, [(10.0, 0), (40.0, 1)]), build_settings(grace=15, cold_start=10))
    assert outcome.latencies_seconds == [100.0, 102.0]
    assert (outcome.busy_pods_killed, outcome.jobs_handed_back) == (1, 1)


def test_a_pod_that_drains_takes_no_further_request() -> None:
    trace = build_trace([(0.0, 20.0), (1.0, 5.0)])
    outcome = simulate(trace, ScriptedPolicy(1, [(2.0, 0), (2.5, 1)]), build_settings(cold_start=30))
    assert outcome.latencies_seconds == [20.0, 36.5]


def test_pods_that_start_are_scaled_down_first() -> None:
    trace = build_trace([(0.0, 20.0)])
    outcome = simulate(trace, ScriptedPolicy(1, [(1.0, 3), (5.0, 1)]), build_settings(cold_start=30))
    assert outcome.busy_pods_killed == 0
    assert outcome.startup_gpu_hours == pytest.approx(2 * 4 / 3600)


def test_idle_pods_are_scaled_down_first_where_their_deletion_cost_says_so() -> None:
    trace = build_trace([(0.0, 20.0)])
    killed = {
        marks: sum(
            simulate(trace, ScriptedPolicy(8, [(5.0, 1)], marks_idle=marks), build_settings(seed=seed)).busy_pods_killed
            for seed in range(10)
        )
        for marks in (False, True)
    }
    assert killed[True] == 0
    assert killed[False] > 0


def test_the_pod_that_idled_longest_takes_the_next_request() -> None:
    trace = build_trace([(float(second), 1.5) for second in range(0, 30, 5)])
    fleet = Fleet(trace, ColdStart(10.0), build_settings().order_rule, 60.0, random.Random(1))  # noqa: S311 - replayed by its seed
    fleet.begin(3)
    for job, arrival in enumerate(trace.arrival_seconds):
        fleet.arrive(job, arrival)
        fleet.advance()
    assert [pod.busy_seconds for pod in fleet.pods.values()] == [3.0, 3.0, 3.0]


def test_a_policy_that_leaves_requests_waiting_ends_all_the_same() -> None:
    outcome = simulate(build_trace([(7.0, 1.0)]), FixedPolicy(0), build_settings())
    assert outcome.unfinished == 1
    assert outcome.late_percent == 100.0
    assert outcome.simulated_seconds == 7.0 + MAX_OVERTIME_SECONDS
    assert outcome.to_record()["max_seconds"] is None


def test_an_empty_part_of_a_trace_costs_the_pods_that_stand_by() -> None:
    outcome = simulate(build_trace([], 3600.0), FixedPolicy(2), build_settings())
    assert outcome.gpu_hours == pytest.approx(2.0)
    assert outcome.late_percent == 0.0


def test_lateness_is_counted_against_the_target() -> None:
    trace = build_trace([(0.0, 10.0), (0.0, 10.0), (0.0, 10.0), (0.0, 10.0)])
    outcome = simulate(trace, FixedPolicy(1), build_settings(target_latency_seconds=20))
    assert outcome.late_percent == 50.0
    assert (outcome.p50_seconds, outcome.p95_seconds, outcome.max_seconds) == (20.0, 40.0, 40.0)


def test_the_worst_hour_is_one_with_requests_enough_to_judge() -> None:
    lone = [(10.0, 100.0)]
    busy = [(3600.0 + second, 10.0) for second in range(40)]
    outcome = simulate(build_trace(lone + busy), FixedPolicy(10), build_settings(target_latency_seconds=30))
    assert outcome.late_percent > 0
    assert outcome.worst_hour_late_percent == pytest.approx(
        100 * sum(x > 30 for x in outcome.latencies_seconds[1:]) / 40
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "policy", ["easel", "hpa-queue:downWindow=0", "keda-queue", "knative-concurrency", "ray-serve"]
)
def test_no_request_is_lost_and_time_adds_up(policy: str, seed: int) -> None:
    """Under short graces and long jobs, so that pods are cut off in their work."""
    trace = build_bursty_trace(seed)
    settings = build_settings(cold_start=40, spread=20, grace=5, seed=seed, max_replicas=6)
    outcome = simulate(trace, build_policy(policy, settings), settings, timeline_step_seconds=1.0)
    assert outcome.unfinished == 0, f"seed {seed}"
    assert all(
        latency >= work - 1e-6 for latency, work in zip(outcome.latencies_seconds, trace.work_seconds, strict=True)
    )
    assert outcome.gpu_hours * 3600 >= trace.total_work_seconds - 1e-6
    timeline = outcome.timeline
    assert timeline is not None
    assert outcome.gpu_hours * 3600 == pytest.approx(sum(timeline.ready) + sum(timeline.starting), rel=0.02, abs=60)
    zero = sum(not ready + starting for ready, starting in zip(timeline.ready, timeline.starting, strict=True))
    assert outcome.seconds_at_zero == pytest.approx(zero, rel=0.02, abs=60)
    assert max(ready + starting for ready, starting in zip(timeline.ready, timeline.starting, strict=True)) <= 12


def test_the_same_seed_gives_the_same_outcome_and_another_one_another() -> None:
    trace = build_bursty_trace(1)
    outcomes = []
    for seed in (1, 1, 2):
        settings = build_settings(cold_start=40, spread=20, seed=seed)
        outcomes.append(simulate(trace, build_policy("easel", settings), settings))
    assert outcomes[0] == outcomes[1]
    assert dataclasses.astuple(outcomes[0]) != dataclasses.astuple(outcomes[2])


def test_waiting_times_are_those_of_queueing_theory() -> None:
    """M/M/3 at a load of 0.7: mean wait = C(3, 2.1) / (3μ - λ), with Erlang's C."""
    source = random.Random(7)  # noqa: S311 - replayed by its seed
    at, requests = 0.0, []
    for _ in range(60_000):
        at += source.expovariate(2.1)
        requests.append((at, source.expovariate(1.0)))
    trace = build_trace(requests)
    outcome = simulate(trace, FixedPolicy(3), build_settings())
    waits = [latency - work for latency, work in zip(outcome.latencies_seconds, trace.work_seconds, strict=True)]
    erlang_b = (2.1**3 / 6) / (1 + 2.1 + 2.1**2 / 2 + 2.1**3 / 6)
    erlang_c = erlang_b / (1 - 0.7 * (1 - erlang_b))
    assert sum(waits) / len(waits) == pytest.approx(erlang_c / (3 - 2.1), rel=0.08)


def test_a_constant_load_keeps_a_constant_cost() -> None:
    trace = build_poisson_trace(7200, 1.0, 3.0, seed=5)
    settings = build_settings(cold_start=30, max_replicas=20)
    outcome = simulate(trace, build_policy("fixed-5", settings), settings)
    assert outcome.gpu_hours == pytest.approx(10.0, rel=0.01)
    assert outcome.late_percent < 1


class BoundedWork:
    """A fixed number of pods; at each tick the fleet's sums are compared with those of its jobs, one by one."""

    def __init__(self, trace: Trace, target_seconds: float) -> None:
        self.name, self.initial_replicas, self.next_tick_at = "bounded work", 3, 1.0
        self._trace, self._target, self.overran = trace, target_seconds, 0

    def tick(self, fleet: Fleet, now: float) -> int | None:
        self.next_tick_at = now + 7.3
        busy = [pod for pod in (*fleet.pods.values(), *fleet.draining) if pod.job >= 0]
        rests = [
            max(0.0, min(self._trace.work_seconds[pod.job], self._target) - (now - pod.job_began_at)) for pod in busy
        ]
        overrunning = sum(now - pod.job_began_at > self._target for pod in busy)
        arrived = sum(min(work, self._target) for work in self._trace.work_seconds[: fleet.arrived])
        assert fleet.measure_running_bounded_seconds(now) == pytest.approx(sum(rests), abs=1e-6)
        assert fleet.count_overrunning(now) == overrunning
        assert fleet.arrived_bounded_seconds == pytest.approx(arrived)
        self.overran += overrunning
        return 3 if now % 90 < 60 else 1


@pytest.mark.parametrize("seed", range(3))
def test_of_a_job_counts_what_one_pod_can_do_within_the_target(seed: int) -> None:
    source = random.Random(seed)  # noqa: S311 - replayed by its seed
    arrivals = [(source.uniform(0, 2000), 8.0 * source.paretovariate(1.2)) for _ in range(200)]
    trace = build_trace(arrivals, 2000)
    settings = build_settings(seed=seed, grace=20, target_latency_seconds=30)
    policy = BoundedWork(trace, 30.0)
    outcome = simulate(trace, policy, settings)
    assert outcome.jobs_handed_back, "some jobs were put back to their places"
    assert policy.overran


def test_a_few_jobs_that_are_much_longer_do_not_double_the_cost_of_all() -> None:
    source = random.Random(4)  # noqa: S311 - replayed by its seed
    trace = build_poisson_trace(12 * 3600, 0.2, 3.0, 4)
    long = [work * (100 if source.random() < 0.01 else 1) for work in trace.work_seconds]
    trace = build_trace(zip(trace.arrival_seconds, long, strict=True), 12 * 3600)
    settings = build_settings(cold_start=90, grace=1800)
    outcome = simulate(trace, build_policy("easel", settings), settings)
    assert outcome.gpu_hours < 2.5 * trace.total_work_seconds / 3600
    assert outcome.late_percent < 7.0


def build_pool(in_gpu: int, in_ram: int) -> Pool:
    return Pool(in_gpu, in_ram, (ModelCosts(2.0, 20.0),) * 3)


def test_the_least_recently_used_model_leaves_the_gpu_for_ram_and_then_ram() -> None:
    loaded = LoadedModels(build_pool(in_gpu=1, in_ram=1))
    assert [loaded.use(model) for model in (0, 0, 1, 0, 1, 2, 1, 0)] == [0, 0, 20, 2, 2, 20, 2, 20]


def test_a_pools_job_takes_its_work_and_the_change_to_its_model() -> None:
    """Two pods, three models: each pod keeps one, and the third has to be loaded over one of them."""
    trace = merge_traces([build_trace([(at, 4.0) for at in ats], 400.0) for ats in ((0, 100), (1, 101), (200,))])
    settings = replace(build_settings(), pool=build_pool(in_gpu=1, in_ram=0))
    outcome = simulate(trace, ScriptedPolicy(2, []), settings)
    assert outcome.latencies_seconds == pytest.approx([4, 4, 4, 4, 24])
    kept = replace(settings, pool=build_pool(in_gpu=2, in_ram=0))
    alone = simulate(trace, ScriptedPolicy(1, []), kept)
    assert alone.latencies_seconds == pytest.approx([4, 27, 4, 7, 24])
    assert alone.gpu_hours == pytest.approx(400 / 3600)
