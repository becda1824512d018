"""The planner's benchmark on a few minutes of one service."""

import json

from easel_operator.autoscaling.replay.bank import Bank
from easel_operator.simulation.policies import easel

from benchmarks.pages import replace_part
from benchmarks.planner import PAGE, PART, PARTS, RESULTS, build_load, build_page, measure_memory, measure_rate


def test_each_part_of_a_tick_is_timed_and_nothing_stays_timed() -> None:
    calls = vars(easel)["observe"], vars(easel)["plan"], Bank.watch
    record = measure_rate(2.0, services=2, seconds=60.0)
    assert record["ticks"] >= 2 * 30
    cores = record["cores_of_1000_services"]
    assert all(cores[part] > 0 for part in PARTS)
    assert cores["without_bank"] < cores["with_bank"]
    assert (vars(easel)["observe"], vars(easel)["plan"], Bank.watch) == calls


def test_the_memory_of_the_bank_is_counted_alone() -> None:
    record = measure_memory(services=2, traced=1, seconds=60.0)
    assert record["services"] == 2
    assert min(record["kib_of_a_service"].values()) > 1


def test_a_load_is_the_same_each_time_and_has_its_rate() -> None:
    trace = build_load(2.0, 6000.0, seed=3)
    assert trace == build_load(2.0, 6000.0, seed=3)
    assert 6000 * 2 < len(trace) < 6000 * 2 * 1.5


def test_the_page_says_what_was_measured() -> None:
    page = PAGE.read_text()
    assert replace_part(page, PART, build_page(json.loads(RESULTS.read_text()))) == page
