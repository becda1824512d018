"""What `make bench-simulator` compares: pods over time, latencies, and the goals."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from easel_contract.resource import QueueOrder
from easel_operator.simulation.settings import ColdStart

from benchmarks.pages import replace_part, replace_row
from benchmarks.simulator import course as courses
from benchmarks.simulator.__main__ import RESULTS
from benchmarks.simulator.comparison import (
    Figures,
    PodLife,
    find_missed_goals,
    measure_distance,
    measure_run,
    sample_pods,
)
from benchmarks.simulator.course import Course, load_course
from benchmarks.simulator.replay import Replayed
from benchmarks.simulator.report import build_record, find_cold_start
from benchmarks.simulator.simulated import simulate_phases
from benchmarks.simulator.tables import PAGE, PART, README, README_ROW, build_page, build_readme_row
from benchmarks.simulator.workload import LAST_QUIET_SECONDS, STEPS, draw_requests, to_trace
from benchmarks.simulator.world import load_spec, read_engine_times
from demo.cluster import ROOT

EVER = math.inf


def test_pods_count_from_their_creation_to_their_end_within_the_traces_time() -> None:
    lives = [
        PodLife(created_at=-30, ready_at=-5, leaving_at=40, gone_at=50),  # 50 of it
        PodLife(created_at=20, ready_at=45, leaving_at=EVER, gone_at=EVER),  # 80, of which 25 starting
        PodLife(created_at=90, ready_at=EVER, leaving_at=95, gone_at=96),  # 6, all of it starting
        PodLife(created_at=101, ready_at=EVER, leaving_at=EVER, gone_at=EVER),  # after the end
    ]
    found = measure_run(lives, [1.0, 2.0, 30.0, 4.0], target_seconds=20, duration_seconds=100)
    assert (found.pod_seconds, found.starting_pod_seconds) == (136, 31)
    assert (found.most_pods, found.starts) == (2, 2)
    assert (found.late_percent, found.p50_seconds, found.p95_seconds, found.max_seconds) == (25, 2, 30, 30)


def test_equal_areas_at_different_times_are_far_apart() -> None:
    early = sample_pods([PodLife(0, 1, 10, 10)], 20)
    late = sample_pods([PodLife(10, 11, 20, 20)], 20)
    assert sum(early) == sum(late)
    assert measure_distance(early, late) == 2.0
    assert measure_distance(early, early) == 0.0


def build_figures(*, pod_seconds: float, p95_seconds: float) -> Figures:
    return Figures(pod_seconds, 0, 1, 0, 1, 0, 1, p95_seconds, p95_seconds)


@pytest.mark.parametrize(
    ("area", "p95", "missed"),
    [
        (1090, 11.4, []),
        (1110, 11.4, ["pods over time, area: 1110.0 simulated, 1000.0 on the cluster: +11.0%, goal within 10%"]),
        (890, 8.4, ["pods over time", "p95: 8.4 simulated, 10.0 on the cluster: -16.0%, goal within 15%"]),
    ],
)
def test_a_missed_goal_is_reported_with_its_size(area: float, p95: float, missed: list[str]) -> None:
    found = find_missed_goals(
        build_figures(pod_seconds=area, p95_seconds=p95), build_figures(pod_seconds=1000, p95_seconds=10)
    )
    assert len(found) == len(missed)
    assert all(sentence.startswith(begin) for sentence, begin in zip(found, missed, strict=True))


def test_the_trace_is_replayed_by_its_seed_and_ends_with_quiet() -> None:
    requests = draw_requests(600, seed=3)
    assert requests == draw_requests(600, seed=3)
    assert requests != draw_requests(600, seed=4)
    assert all(STEPS[0] <= request.steps <= STEPS[1] for request in requests)
    assert requests[0].at_seconds > 0
    assert requests[-1].at_seconds < 600 - LAST_QUIET_SECONDS


def build_course(pods: list[PodLife], requests: list[Replayed], seed: int = 3) -> Course:
    return Course(2, 300.0, seed, 1.5, {"commit": "0123456"}, [(-1.0, 1)], pods, requests)


def test_a_course_is_read_as_it_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courses, "COURSES", tmp_path)
    course = build_course([PodLife(-2.5, -1.5, EVER, EVER)], [Replayed(1.0, 1.001, 1.002, 2.5)])
    assert load_course(course.save()) == course


def test_cold_starts_are_those_of_the_pods_that_started_during_the_trace() -> None:
    lives = [
        PodLife(-90, -10, EVER, EVER),
        *(PodLife(at, at + 18 + at / 10, EVER, EVER) for at in (10, 20, 30)),
        PodLife(50, EVER, 52, 53),
    ]
    assert find_cold_start(build_course(lives, [])) == ColdStart(20, 1)


def test_without_a_start_there_is_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="no pod started"):
        find_cold_start(build_course([PodLife(-90, -10, EVER, EVER)], []))


@pytest.mark.parametrize("order", QueueOrder)
def test_a_cluster_that_does_as_the_simulator_says_meets_the_goals(order: QueueOrder) -> None:
    """A course made of the simulator's own: one pod for each that it had at any time, and its latencies.

    The same phase and seed, so that it must come out alike, whatever the planner decides.
    """
    spec = load_spec(order)
    times = read_engine_times(spec)
    requests = draw_requests(300.0, seed=3)
    trace = to_trace(requests, times, 300.0)
    simulated = simulate_phases(spec, trace, ColdStart(20.0), 2, phases=1, seed=3)[0]
    lives, level = [], 0
    for second, pods in enumerate([*simulated.pods, 0]):
        lives += [PodLife(second or -20, second + 20, EVER, EVER)] * (pods - level)
        for _ in range(level - pods):
            place = next(place for place, life in enumerate(lives) if life.gone_at == EVER)
            lives[place] = PodLife(lives[place].created_at, lives[place].ready_at, second, second)
        level = pods
    replayed = [
        Replayed(request.at_seconds, request.at_seconds, 0.0, request.at_seconds + latency)
        for request, latency in zip(requests, simulated.latencies_seconds, strict=True)
    ]
    record = build_record(build_course(lives, replayed), spec, times, phases=1)
    assert record["simulated"]["missed_goals"] == []
    assert record["simulated"]["area_ratio"] == pytest.approx(1, abs=0.01)
    assert record["simulated"]["distance_of_courses"] < 0.02


def test_the_order_of_a_course_is_the_simulations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And tells courses apart; one that was saved without an order is of the time when there was one only."""
    monkeypatch.setattr(courses, "COURSES", tmp_path)
    course = build_course([], [])
    assert course.queue_order == QueueOrder.FIRST_COME_FIRST_SERVED
    other = replace(course, queue_order=QueueOrder.TARGET_FIRST)
    assert (other.save(), other.name) != (course.save(), course.name)
    scaling = load_spec(QueueOrder.TARGET_FIRST).scaling
    assert scaling is not None
    assert scaling.queue_order is QueueOrder.TARGET_FIRST


def test_the_pages_say_how_far_the_simulator_was_apart() -> None:
    """Whoever changes the result file, or a figure by hand, has to write the tables anew: --tables."""
    records = json.loads(RESULTS.read_text())["traces"]
    page, readme = ((ROOT / name).read_text() for name in (PAGE, README))
    assert replace_part(page, PART, build_page(records)) == page
    assert replace_row(readme, README_ROW, build_readme_row(list(records.values()))) == readme


def test_a_miss_is_named_in_the_page_and_the_farthest_run_is_the_readmes() -> None:
    records = json.loads(RESULTS.read_text())["traces"]
    name = next(iter(records))
    records[name]["simulated"] |= {"missed_goals": ["p95: 8.4 simulated, 10.0 on the cluster"], "p95_ratio": 0.84}
    assert f"Missed: {name}: p95: 8.4 simulated" in build_page(records)
    assert "p95 within 16.0 %" in build_readme_row(list(records.values()))
