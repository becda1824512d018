"""What the bank finds for a service, what it costs, and that nothing takes it off its feet."""

import tracemalloc
from dataclasses import replace

import pytest
from easel_contract.resource import ScalingSpec
from easel_operator.autoscaling.explanation import advise
from easel_operator.autoscaling.replay.bank import Bank, Load, Memory, QueueState, _build_batch
from easel_operator.autoscaling.replay.choice import Basis
from easel_operator.autoscaling.replay.setting import FIRST_SETTING, Setting, list_settings
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operator.autoscaling.replay.support import (
    COLD_START_SECONDS,
    HOUR,
    Requests,
    build_scaling,
    draw_bursts,
    draw_steady,
    feed,
    replay,
    to_loads,
)

SILENCE = Load(2.0, 0.0, 0.0, 0.0, 5.0)


def test_a_service_without_requests_keeps_what_it_began_with_and_costs_next_to_nothing() -> None:
    bank = replay([], 4 * HOUR)
    assert (bank.choice.basis, bank.choice.setting) == (Basis.FIRST, FIRST_SETTING)
    assert {tally.gpu_seconds for tally in bank.tallies} == {0.0}


def test_nothing_is_chosen_in_the_first_hour_in_which_every_setting_is_late() -> None:
    requests = draw_steady(1.0, 2 * HOUR)
    assert replay(requests, 3500.0).choice.basis is Basis.FIRST
    assert replay(requests, 2 * HOUR).choice.basis is Basis.BUDGET


def test_bursts_that_headroom_can_serve_buy_it_and_a_steady_load_buys_none() -> None:
    steady = replay(draw_steady(1.0, 5 * HOUR), 5 * HOUR).choice
    bursts = replay(draw_bursts(5 * HOUR, seed=3, pause=300.0, jobs=20.0), 5 * HOUR).choice
    assert steady.setting.margin <= 0.5
    assert steady.tally is not None
    assert bursts.tally is not None
    kept = (bursts.setting.margin, bursts.setting.hold_cold_starts)
    assert kept > (steady.setting.margin, steady.setting.hold_cold_starts)
    assert bursts.mean_pods / 0.5 > steady.mean_pods / 5.0, "of what keeps busy"


def test_lateness_that_pods_cannot_cure_buys_none_and_says_what_would_help() -> None:
    pairs = sorted((1200.0 * pair + second, 20.0) for pair in range(36) for second in (1.0, 1.5))
    choice = replay(pairs, 12 * HOUR).choice
    assert choice.basis is Basis.PRICE
    assert choice.mean_pods < 0.6
    assert "minReplicas" in advise(choice, COLD_START_SECONDS)


def test_a_higher_price_buys_what_a_lower_one_does_not() -> None:
    requests = [(600.0 * number + 1.0, 20.0) for number in range(36)]  # a pod that is kept for them idles 580 s each
    shares = [
        tally.late_share
        for price in (60, 5000)
        if (tally := replay(requests, 6 * HOUR, max_gpu_seconds_per_late_request=price).choice.tally) is not None
    ]
    assert len(shares) == 2
    assert shares[0] > 0.9
    assert shares[1] < 0.1


def test_after_a_restart_a_quiet_night_does_not_overturn_what_was_found_in_days() -> None:
    found = Setting(3.0, 0.67, 1.0)
    memory = Memory(found, 36 * HOUR, 5.0, 1000.0)
    bank = feed(Bank(build_scaling(), COLD_START_SECONDS, memory), to_loads(draw_steady(0.02, 4 * HOUR), 4 * HOUR))
    assert (bank.choice.setting, bank.choice.basis) == (found, Basis.RECALLED)
    assert bank.memory.seen_seconds == pytest.approx(24 * HOUR), "and another restart doesn't lose it either"
    lately = feed(
        Bank(build_scaling(), COLD_START_SECONDS, Memory(found, HOUR)), to_loads(draw_steady(0.5, 3 * HOUR), 3 * HOUR)
    )
    assert lately.choice.setting.margin < found.margin, "what was based on an hour is soon replaced"


def test_after_a_restart_more_headroom_is_taken_at_once_where_the_recalled_one_is_late() -> None:
    memory = Memory(Setting(-0.25, 0.2, 0.2), 36 * HOUR)
    requests = draw_bursts(5 * HOUR, seed=3, pause=300.0, jobs=20.0)
    bank = feed(Bank(build_scaling(), COLD_START_SECONDS, memory), to_loads(requests, 5 * HOUR))
    assert bank.choice.basis in {Basis.BUDGET, Basis.PRICE}
    assert bank.choice.setting != memory.setting


def test_what_is_remembered_begins_another_bank_with_the_same_setting() -> None:
    bank = replay(draw_bursts(3 * HOUR), 3 * HOUR)
    again = Bank(build_scaling(), COLD_START_SECONDS, bank.memory)
    assert again.choice.setting == bank.choice.setting
    assert again.memory == bank.memory


@pytest.mark.parametrize("seconds", [3600.0, 16.0, 0.0, -3600.0], ids=["an hour", "a stall", "none", "set back"])
def test_time_that_nobody_watched_moves_no_shadow(seconds: float) -> None:
    bank = replay(draw_steady(0.5, 2 * HOUR), 2 * HOUR)
    before, tallies, steps = bank.memory, bank.tallies, bank.steps
    bank.watch(Load(seconds, 100.0, 500.0, 1.0, 5.0))
    assert (bank.tallies, bank.steps, bank.memory.seen_seconds) == (tallies, steps, before.seen_seconds)


def test_another_target_begins_anew_with_the_present_setting_and_another_maximum_does_not() -> None:
    bank = replay(draw_bursts(3 * HOUR), 3 * HOUR)
    setting, seen = bank.choice.setting, bank.memory.seen_seconds
    bank.follow(build_scaling(max_replicas=20), 100.0)
    assert (bank.choice.basis is not Basis.RECALLED, bank.memory.seen_seconds) == (True, seen)
    bank.follow(build_scaling(max_replicas=20, target_latency_seconds=60), 100.0)
    assert (bank.choice.setting, bank.choice.basis) == (setting, Basis.RECALLED)
    bank.follow(build_scaling(min_replicas=1, target_latency_seconds=60), 100.0)
    assert bank.choice.setting == setting


def test_pods_that_are_slower_than_predicted_are_slow_in_the_shadows() -> None:
    """Work is predicted at 5 s a job and takes 6: two pods with a queue do 10 of 12 GPU-seconds."""
    bank, backlog = Bank(build_scaling(), COLD_START_SECONDS), 1000.0
    for _ in range(600):
        backlog += 20.0 - 2 * 12.0 * 5 / 6
        bank.watch(Load(12.0, 4.0, 20.0, 1.7, 5.0, queue=QueueState(2, 100, backlog)))
    assert bank.pace.seconds_per_gpu_second == pytest.approx(1.2, abs=0.03)


def test_a_setting_that_is_late_in_fact_is_left_although_its_shadow_is_not() -> None:
    bank = Bank(build_scaling(), COLD_START_SECONDS)
    used: list[Setting] = []
    for load in to_loads(draw_steady(1.0, 4 * HOUR), 4 * HOUR):
        late = load.jobs if bank.choice.setting.margin < 1.0 else 0.0
        bank.watch(replace(load, finished=load.jobs, late=late))
        if not used or used[-1] != bank.choice.setting:
            used.append(bank.choice.setting)
    assert used[0] == FIRST_SETTING
    assert used[-1].margin >= 1.0
    assert len(used) < 10, "cheaper ones aren't tried one after the other"


def test_what_is_only_recommended_is_not_judged_by_what_happens() -> None:
    loads = list(to_loads(draw_steady(1.0, 2 * HOUR), 2 * HOUR))
    banks = [Bank(build_scaling(mode="Recommend"), COLD_START_SECONDS) for _ in range(2)]
    for load in loads:
        banks[0].watch(load)
        banks[1].watch(replace(load, finished=load.jobs, late=load.jobs))
    assert banks[0].choice == banks[1].choice


def test_a_queue_that_is_empty_now_and_then_says_nothing_of_the_pace() -> None:
    bank = Bank(build_scaling(), COLD_START_SECONDS)
    for _ in range(600):
        bank.watch(Load(12.0, 1.0, 5.0, 0.4, 5.0, queue=QueueState(2, 0, 0.0)))
    assert bank.pace.seconds_per_gpu_second == 1.0


LARGE = {"max_replicas": 1000}
HOSTILE: dict[str, tuple[Requests, dict[str, int]]] = {
    "ten thousand at once, ten times": (
        [(10.0 * minute, 4.0) for minute in range(10) for _ in range(10_000)],
        {"max_replicas": 1000},
    ),
    "a hundred a second": (draw_steady(100.0, 1200.0), LARGE),
    "tiny ones": (draw_steady(50.0, 1200.0, work=0.01), {"max_replicas": 50}),
    "far too long ones": ([(float(at), 5000.0) for at in range(1200)], LARGE),
    "a target of a second": (draw_steady(20.0, 1200.0, work=0.5), {"max_replicas": 50, "target_latency_seconds": 1}),
}


@pytest.mark.parametrize(("requests_", "scaling"), HOSTILE.values(), ids=HOSTILE.keys())
def test_no_load_takes_the_operators_time(requests_: Requests, scaling: dict[str, int]) -> None:
    """By counted work: a step is about a microsecond and a half."""
    bank = Bank(build_scaling(**scaling), COLD_START_SECONDS)
    worst, before = 0, 0
    for load in to_loads(requests_, 1200.0):
        bank.watch(load)
        worst, before = max(worst, bank.steps - before), bank.steps
    assert before / 1200.0 < 1500, "a second: an eighth of a percent of a core"
    assert worst < 20_000, "a tick"


def test_a_bank_takes_some_dozens_of_kibibytes() -> None:
    requests = draw_bursts(2 * HOUR)
    tracemalloc.start()
    try:
        bank = replay(requests, 2 * HOUR)
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert bank.memory.seen_seconds == pytest.approx(2 * HOUR)
    assert taken < 160 * 1024


LOADS = st.builds(
    Load,
    seconds=st.sampled_from([2.0, 2.0, 2.5, 14.0, 60.0, 0.0, -5.0]),
    jobs=st.sampled_from([0.0, 0.0, 0.3, 1.0, 7.0, 500.0]),
    gpu_seconds=st.floats(0, 5000),
    busy_pods=st.floats(0, 80),
    job_seconds=st.floats(0, 100),
    excess_gpu_seconds=st.sampled_from([0.0, 0.0, 400.0]),
    floor=st.integers(0, 60),
    finished=st.floats(0, 20),
    late=st.floats(0, 20),
    queue=st.none() | st.builds(QueueState, st.integers(0, 5), st.integers(0, 9), st.floats(0, 900)),
)
SPECS = st.builds(
    build_scaling,
    min_replicas=st.integers(0, 2),
    max_replicas=st.sampled_from([2, 50, 1000]),
    target_latency_seconds=st.sampled_from([1, 30, 3600]),
    queue_order=st.sampled_from(["TargetFirst", "FirstComeFirstServed"]),
    scale_down_after_seconds=st.sampled_from([None, 0, 60]),
    max_overtaken_seconds=st.sampled_from([None, 0, 10]),
)


def test_jobs_that_take_next_to_no_time_are_one_parcel() -> None:
    batch = _build_batch(0.0, 7, 5e-324, 1.0, 30.0)
    assert (batch.parcels, batch.jobs) == (1, 7.0)


@settings(max_examples=60, deadline=None)
@given(
    spec=SPECS,
    changed=st.none() | SPECS,
    loads=st.lists(LOADS, min_size=1, max_size=40),
    times=st.integers(1, 30),
    cold_start=st.sampled_from([1.0, 90.0, 7200.0]),
)
def test_whatever_is_seen_the_choice_is_a_setting_that_was_tried(
    spec: ScalingSpec, changed: ScalingSpec | None, loads: list[Load], times: int, cold_start: float
) -> None:
    bank = Bank(spec, 60.0)
    for number in range(times):
        if number == times // 2 and changed is not None:
            bank.follow(changed, cold_start)
        feed(bank, loads)
    tried = list_settings(spec if changed is None else changed)
    assert bank.choice.setting in {*tried, FIRST_SETTING} or bank.choice.basis is Basis.RECALLED
    assert all(tally.late <= tally.jobs + 1e-6 and tally.gpu_seconds >= 0 for tally in bank.tallies)
