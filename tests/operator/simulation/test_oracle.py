"""The offline optimum against every plan that there is, on cases small enough to try them all; and the lower bound."""

import itertools
import random

import pytest
from easel_contract.resource import QueueOrder
from easel_operator.simulation.lower_bound import MAX_WAIT_TARGETS, find_lower_bound_seconds, find_needed_pods
from easel_operator.simulation.oracle.offline_plan import PlanRules, plan_offline
from easel_operator.simulation.oracle.search import (
    LATE_BUDGET_PERCENT,
    PlannedPolicy,
    fill_dips,
    find_oracle,
    list_moves,
)
from easel_operator.simulation.oracle.slots import cut_into_slots
from easel_operator.simulation.outcome import Outcome
from easel_operator.simulation.policies.registry import build_policy
from easel_operator.simulation.settings import Settings
from easel_operator.simulation.simulation import simulate
from easel_operator.simulation.trace import Trace, build_trace

from tests.operator.simulation.support import ScriptedPolicy, build_bursty_trace, build_poisson_trace, build_settings

SLOT_SECONDS = 20.0
SLOTS = 6
MAX_PODS = 3
FIRST_COME = QueueOrder.FIRST_COME_FIRST_SERVED


def build_small_case(seed: int, *, order: QueueOrder = FIRST_COME, kind: str = "usual") -> tuple[Trace, Settings]:
    """Two minutes with a few requests; a target of 30 s and pods that start in 20 s."""
    source = random.Random(seed)  # noqa: S311 - replayed by its seed
    begin = 20.0 if kind == "usual" else 0.0
    count, work = (source.randint(25, 45), (1, 4)) if kind == "many short ones" else (source.randint(3, 12), (2, 12))
    requests = [(source.uniform(begin, 100), source.uniform(*work)) for _ in range(count)]
    if kind == "one longer than the target":
        requests[0] = (source.uniform(0, 40), source.uniform(40, 60))
    return build_trace(requests, 120.0), build_settings(cold_start=20.0, max_replicas=MAX_PODS, order=order)


def list_plans(trace: Trace, settings: Settings) -> list[Outcome]:
    """What all plans over the slots come to that let nobody wait for too long."""
    longest = MAX_WAIT_TARGETS * settings.target_seconds
    plans = (plan for plan in itertools.product(range(MAX_PODS + 1), repeat=SLOTS))
    able = (plan for plan in plans if trace.total_work_seconds <= sum(plan) * SLOT_SECONDS)
    return [outcome for plan in able if (outcome := replay(plan, trace, settings)).max_seconds <= longest]


def find_best_plan(trace: Trace, settings: Settings) -> Outcome:
    """The cheapest of the least late, where more than the budget's share must be late; else of those within it."""
    return min(list_plans(trace, settings), key=lambda outcome: (exceed(outcome), outcome.gpu_hours))


def exceed(outcome: Outcome) -> float:
    """Percent late, at least the budget."""
    return max(outcome.late_percent, LATE_BUDGET_PERCENT)


def replay(plan: tuple[int, ...], trace: Trace, settings: Settings) -> Outcome:
    policy = PlannedPolicy((*plan, 0), SLOT_SECONDS, settings.cold_start.seconds, settings.initial_replicas)
    return simulate(trace, policy, settings)


@pytest.mark.parametrize("seed", [1, 4])
@pytest.mark.parametrize("order", QueueOrder)
@pytest.mark.parametrize("kind", ["usual", "from the beginning", "one longer than the target", "many short ones"])
def test_the_oracle_is_as_good_as_the_best_of_all_plans(kind: str, order: QueueOrder, seed: int) -> None:
    """Within a twentieth: its slots are finer, but it takes work for a fluid."""
    trace, settings = build_small_case(seed, order=order, kind=kind)
    best, oracle = find_best_plan(trace, settings), find_oracle(trace, settings)
    assert exceed(oracle) <= exceed(best), f"seed {seed}"
    assert oracle.max_seconds <= MAX_WAIT_TARGETS * settings.target_seconds, f"seed {seed}"
    seconds = [outcome.gpu_hours * 3600 for outcome in (oracle, best)]
    assert seconds[0] <= 1.05 * seconds[1], f"seed {seed}: {seconds[0]:.0f} s against {seconds[1]:.0f} s"


@pytest.mark.parametrize("seed", range(5))
def test_no_plan_goes_below_the_lower_bound(seed: int) -> None:
    trace, settings = build_small_case(seed)
    assert find_best_plan(trace, settings).gpu_hours * 3600 >= find_lower_bound_seconds(trace, settings) - 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_no_policy_that_keeps_to_the_longest_wait_goes_below_the_lower_bound(seed: int) -> None:
    trace = build_bursty_trace(seed)
    judged = 0
    for policy in ("fixed-1", "fixed-3", "hpa-queue:target=1", "easel", "knative-concurrency"):
        settings = build_settings(cold_start=30.0)
        outcome = simulate(trace, build_policy(policy, settings), settings)
        if outcome.max_seconds <= MAX_WAIT_TARGETS * settings.target_seconds:
            judged += 1
            assert outcome.gpu_hours * 3600 >= find_lower_bound_seconds(trace, settings)
    assert judged >= 2


@pytest.mark.parametrize("seed", range(3))
def test_the_oracle_keeps_its_budget_and_lies_between_the_bound_and_every_policy(seed: int) -> None:
    trace = build_bursty_trace(seed)
    settings = build_settings(cold_start=60.0)
    oracle = find_oracle(trace, settings)
    assert oracle.late_percent <= LATE_BUDGET_PERCENT
    assert oracle.busy_pods_killed == 0
    assert oracle.max_seconds <= MAX_WAIT_TARGETS * settings.target_seconds
    assert oracle.gpu_hours * 3600 >= find_lower_bound_seconds(trace, settings)
    for policy in ("hpa-queue", "hpa-queue:target=1", "keda-queue", "easel", "fixed-4"):
        outcome = simulate(trace, build_policy(policy, settings), settings)
        assert outcome.late_percent > LATE_BUDGET_PERCENT or outcome.gpu_hours >= oracle.gpu_hours


def test_a_lone_request_at_night_is_not_left_waiting() -> None:
    """Thirty requests by day and one at night are 3 % late at most if that one starves."""
    trace = build_trace([(100.0 + second, 2.0) for second in range(30)] + [(20_000.0, 2.0), (40_000.0, 2.0)])
    settings = build_settings(cold_start=60.0)
    oracle = find_oracle(trace, settings)
    assert oracle.max_seconds <= MAX_WAIT_TARGETS * settings.target_seconds
    assert oracle.seconds_at_zero > 30_000


@pytest.mark.parametrize("order", QueueOrder)
def test_nobody_plans_with_pods_that_can_not_be_ready_yet(order: QueueOrder) -> None:
    """A minute of arrivals before the first pod that was ordered can be ready."""
    trace = build_trace([(second / 2, 2.0) for second in range(600)])
    settings = build_settings(cold_start=60.0, target_latency_seconds=60, order=order)
    at_once = simulate(trace, ScriptedPolicy(1, [(0.0, 20)]), settings)
    oracle = find_oracle(trace, settings)
    assert oracle.late_percent <= max(LATE_BUDGET_PERCENT, at_once.late_percent + 2)
    assert oracle.gpu_hours < at_once.gpu_hours


@pytest.mark.parametrize(("seed", "order"), list(enumerate(QueueOrder)))
def test_no_policy_beats_the_oracle_where_a_few_requests_are_a_hundred_times_longer(
    seed: int, order: QueueOrder
) -> None:
    source = random.Random(seed)  # noqa: S311 - replayed by its seed
    at, requests = 0.0, []
    while at < 3600:
        at += source.expovariate(0.2)
        requests.append((at, 500.0 if source.random() < 0.01 else 5.0))
    trace = build_trace(requests)
    settings = build_settings(cold_start=90.0, max_replicas=30, target_latency_seconds=30, order=order)
    oracle = find_oracle(trace, settings)
    assert oracle.late_percent <= LATE_BUDGET_PERCENT, f"seed {seed}"
    for policy in ("easel", "hpa-queue:target=1", "fixed-6", "fixed-10"):
        outcome = simulate(trace, build_policy(policy, settings), settings)
        is_within = outcome.late_percent <= max(oracle.late_percent, LATE_BUDGET_PERCENT)
        assert not is_within or outcome.gpu_hours >= oracle.gpu_hours, f"seed {seed}: {policy}"


@pytest.mark.parametrize("seed", range(2))
def test_letting_late_requests_yield_never_costs_the_oracle_more(seed: int) -> None:
    trace = build_bursty_trace(seed)
    first_come, target_first = (
        find_oracle(trace, build_settings(cold_start=60.0, order=order))
        for order in (QueueOrder.FIRST_COME_FIRST_SERVED, QueueOrder.TARGET_FIRST)
    )
    assert target_first.late_percent <= LATE_BUDGET_PERCENT
    assert target_first.gpu_hours <= first_come.gpu_hours * 1.001


def plan(trace: Trace, settings: Settings, *, late_cost: float) -> tuple[list[int], Outcome]:
    slots = cut_into_slots(trace, 5.0, 90.0)
    rules = PlanRules(
        on_time_slots=5,
        longest_wait_slots=17,
        cold_start_seconds=settings.cold_start.seconds,
        late_cost=late_cost,
        min_replicas=0,
        max_replicas=50,
        initial_replicas=1,
        lets_late_yield=False,
    )
    pods = plan_offline(slots, rules).tolist()
    return pods, simulate(trace, PlannedPolicy(pods, 5.0, settings.cold_start.seconds, 1), settings)


def test_no_request_waits_so_that_two_share_a_cold_start() -> None:
    """A request every 100 s, and lateness costs nothing: only the longest wait keeps them apart."""
    trace = build_trace([(100.0 * index, 2.0) for index in range(1, 100)])
    outcome = plan(trace, build_settings(cold_start=60.0), late_cost=0.0)[1]
    assert outcome.p50_seconds > 30
    assert outcome.max_seconds <= 90.0


def test_pods_are_scaled_down_in_gaps_that_are_longer_than_a_cold_start_and_kept_in_shorter_ones() -> None:
    for gap, least in ((200.0, 0), (60.0, 1)):
        trace = build_trace([(gap * burst + request, 4.0) for burst in range(1, 11) for request in range(6)])
        pods, _ = plan(trace, build_settings(cold_start=60.0), late_cost=100.0)
        between = pods[int(2 * gap / 5) : int(9 * gap / 5)]
        assert min(between) == least


def test_a_budget_that_can_not_be_kept_gets_the_least_late_plan() -> None:
    trace = build_trace([(100.0, 20.0)] * 40)
    settings = build_settings(cold_start=60.0, max_replicas=2)
    fixed = simulate(trace, build_policy("fixed-2", settings), settings)
    assert find_oracle(trace, settings).late_percent <= fixed.late_percent + 1e-9


def test_the_oracle_keeps_the_minimum() -> None:
    trace = build_poisson_trace(1200, 0.05, 4.0, seed=2)
    oracle = find_oracle(trace, build_settings(cold_start=60.0, min_replicas=2), 5.0)
    assert oracle.timeline is not None
    assert min(oracle.timeline.ready) == 2


def test_pods_are_ordered_a_cold_start_ahead() -> None:
    assert list_moves([0, 0, 0, 2, 0], 10.0, 25.0) == [(0.0, 0), (5.0, 2), (40.0, 0)]
    assert list_moves([1, 1, 0, 0], 10.0, 25.0) == [(0.0, 1), (20.0, 0)]


def test_dips_shorter_than_a_cold_start_are_filled() -> None:
    assert fill_dips([2, 1, 1, 2, 0, 0, 0, 1], 2) == [2, 2, 2, 2, 0, 0, 0, 1]
    assert fill_dips([2, 0, 2], 0) == [2, 0, 2]
    assert fill_dips([], 3) == []


def test_the_pods_that_a_burst_needs() -> None:
    assert find_needed_pods([0.0] * 9, [10.0] * 9, 90.0) == 1
    assert find_needed_pods([0.0] * 10, [10.0] * 10, 90.0) == 2
    assert find_needed_pods([0.0, 1000.0], [90.0, 90.0], 90.0) == 1


def test_the_lower_bound_counts_work_and_what_lulls_cost() -> None:
    settings = build_settings(cold_start=60.0)
    assert find_lower_bound_seconds(build_trace([(0.0, 5.0)]), settings) == 5.0
    assert find_lower_bound_seconds(build_trace([(0.0, 5.0), (100.0, 5.0)]), settings) == pytest.approx(10 + 10)
    assert find_lower_bound_seconds(build_trace([(0.0, 5.0), (5000.0, 5.0)]), settings) == pytest.approx(10 + 60)
    crowd = [(5000.0, 10.0)] * 20
    assert find_lower_bound_seconds(build_trace([(0.0, 5.0), *crowd]), settings) == pytest.approx(205 + 3 * 60)
    kept = build_settings(cold_start=60.0, min_replicas=1)
    assert find_lower_bound_seconds(build_trace([(0.0, 5.0), (5000.0, 5.0)]), kept) == 5000.0
