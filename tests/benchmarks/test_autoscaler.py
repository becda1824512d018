"""The autoscaler's benchmark on a trace of some minutes, what it keeps of it, and the tables made of it."""

import concurrent.futures
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from easel_contract.resource import QueueOrder

from benchmarks.autoscaler import code
from benchmarks.autoscaler.__main__ import ROOT, read
from benchmarks.autoscaler.cases import SHAPE, Case, list_cases
from benchmarks.autoscaler.code import find_modules
from benchmarks.autoscaler.goals import find_missed_goals
from benchmarks.autoscaler.measure import list_wins_over_oracle, make_submit, measure
from benchmarks.autoscaler.shapes import SHAPES
from benchmarks.autoscaler.tables import (
    PAGE,
    README,
    README_ROW,
    build_page,
    build_readme_row,
    write_tables,
)
from benchmarks.autoscaler.tasks import ORACLES, OURS, OURS_ALONE, SIMULATOR, Task, run

ORDERS = [str(order) for order in QueueOrder]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    trace = tmp_path / "trace.csv"
    rows = "".join(f"{at},4\n" for burst in range(6) for at in range(100 * burst, 100 * burst + 20))
    trace.write_text(f"arrival_seconds,work_seconds\n{rows}")
    return Case(str(trace), "x1", cold_start_seconds=30, target_seconds=30)


def test_everybody_is_measured_under_both_orders_beside_an_oracle_of_the_same(case: Case) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        whole = measure(case, make_submit(pool, None))
    assert list(whole["orders"]) == ORDERS
    for records in whole["orders"].values():
        assert records["oracle"]["gpu_hours_over_oracle"] == 1.0
        assert {name.partition(":")[0] for name in records} >= {OURS, "hpa-queue", "keda-queue", "ray-serve"}
        assert all(record["unfinished"] == 0 for record in records.values())
    assert json.loads(json.dumps(whole)) == whole
    table = build_page([{**whole, "measured": {"date": "2026-11-27", "commit": "0123456"}}])
    assert all(f"**{order}**" in table for order in ORDERS)
    assert "Measured 2026-11-27 at `0123456`." in table


def test_a_simulation_that_was_made_is_not_made_again_unless_something_is_different(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Task(case, QueueOrder.TARGET_FIRST, "fixed-2")
    first = run(task, tmp_path)
    monkeypatch.setattr("benchmarks.autoscaler.tasks.simulate", None)
    assert run(task, tmp_path) == first
    for other in (
        Task(case, QueueOrder.FIRST_COME_FIRST_SERVED, "fixed-2"),
        Task(case, QueueOrder.TARGET_FIRST, "fixed-3"),
        Task(case, QueueOrder.TARGET_FIRST, "fixed-2", is_tuning=True),
        Task(Case(case.trace, "x1", 31, 30), QueueOrder.TARGET_FIRST, "fixed-2"),
    ):
        with pytest.raises(TypeError, match="not callable"):
            run(other, tmp_path)


def test_a_result_is_bound_to_all_code_that_it_can_depend_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte in any module that is imported while a policy is simulated gives another hash."""
    loaded = subprocess.run(
        [sys.executable, "-c", f"import sys, {', '.join((*SIMULATOR, ORACLES))}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    ours = {name for name in loaded if name.partition(".")[0] in code.OURS}
    assert find_modules((*SIMULATOR, ORACLES)) >= ours

    package = tmp_path / "easel_operator_twin"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "near.py").write_text("from easel_operator_twin import far\n")
    (package / "far.py").write_text("FAR = 1\n")
    monkeypatch.setattr(code, "OURS", ("easel_operator_twin",))
    monkeypatch.syspath_prepend(str(tmp_path))
    before, closed = (
        code.hash_code(["easel_operator_twin.near"]),
        code.hash_code(["easel_operator_twin.near"], ["easel_operator_twin.near"]),
    )
    (package / "far.py").write_text("FAR = 2\n")
    code._read.cache_clear()
    assert code.hash_code(["easel_operator_twin.near"]) != before
    assert code.hash_code(["easel_operator_twin.near"], ["easel_operator_twin.near"]) == closed


def test_the_planner_decides_for_nobody_else() -> None:
    others = find_modules((*SIMULATOR, ORACLES), (OURS_ALONE,))
    assert "easel_operator.autoscaling.planner" not in others
    assert "easel_operator.simulation.fleet" in others
    assert "easel_operator.autoscaling.planner" in find_modules(SIMULATOR)


def test_cases_are_chosen_by_words_of_their_names(case: Case) -> None:
    names = [each.name for each in list_cases([Path(case.trace)], ["shape flash", "trace 90/30"])]
    assert names == ["trace x1 90/30", "flash shape 90/30"]
    assert len(list_cases([Path(case.trace)], [])) == 9 + len(SHAPES)


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_the_same_each_time(name: str) -> None:
    trace = SHAPES[name].build()
    assert trace == SHAPES[name].build()
    assert len(trace) > 100


def build_record(late: float, hours: float, **figures: Any) -> dict[str, Any]:
    return {
        "policy": "",
        "late_percent": late,
        "gpu_hours": hours,
        "gpu_hours_over_oracle": hours / 10,
        "worst_hour_late_percent": late,
        "p99_seconds": 9.0,
        "max_seconds": 9.0,
        "starts": 1,
        "jobs_handed_back": 0,
        **figures,
    }


def test_an_oracle_that_is_beaten_is_said_to_be() -> None:
    records = {"oracle": build_record(4.0, 10.0), OURS: build_record(4.9, 9.5), "fixed-1": build_record(5.1, 1.0)}
    assert [win.partition(":")[0] for win in list_wins_over_oracle(records)] == [OURS]
    records["oracle"] = build_record(30.0, 10.0)
    assert [win.partition(":")[0] for win in list_wins_over_oracle(records)] == [OURS, "fixed-1"]


def test_goals_are_those_of_the_order_the_load_and_the_shape() -> None:
    def miss(load: str, order: QueueOrder, ours: dict[str, Any], trace: str = "trace.csv") -> list[str]:
        records = {"oracle": build_record(4.0, 10.0), OURS: ours}
        key = {"trace": trace, "load": load, "cold_start_seconds": 90, "target_seconds": 30}
        return list(find_missed_goals({**key, "orders": {order: records}}, order))

    ours = build_record(4.0, 18.0)
    assert miss("x20 bursty", QueueOrder.TARGET_FIRST, ours) == ["1.80 x oracle, goal 1.5"]
    assert miss("x20 bursty", QueueOrder.FIRST_COME_FIRST_SERVED, ours) == []
    assert miss("x1", QueueOrder.TARGET_FIRST, build_record(6.0, 18.0)) == ["6.0 % late, where 5 % can be kept"]
    shape = miss(SHAPE, QueueOrder.TARGET_FIRST, build_record(6.0, 200.0), "square")
    assert shape == ["200.0 GPU-hours, goal 130", "6.0 % late, goal 5"]


def test_the_pages_say_what_was_measured(tmp_path: Path) -> None:
    """Whoever changes the result file, or a figure by hand, has to write the tables anew: --tables."""
    (tmp_path / PAGE).parent.mkdir(parents=True)
    for page in (PAGE, README):
        shutil.copy(ROOT / page, tmp_path / page)
    write_tables(read(), tmp_path)
    for page in (PAGE, README):
        assert (tmp_path / page).read_text() == (ROOT / page).read_text()
    assert build_page(read()["cases"]) in (ROOT / PAGE).read_text()
    assert build_readme_row(read()["cases"]).startswith(README_ROW)


def test_a_page_without_a_place_for_its_table_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / PAGE).parent.mkdir(parents=True)
    (tmp_path / PAGE).write_text("no comment\n")
    (tmp_path / README).write_text("no row\n")
    with pytest.raises(ValueError, match="has no place for the figures of make bench-autoscaler"):
        write_tables({"cases": []}, tmp_path)
    assert (tmp_path / PAGE).read_text() == "no comment\n"


def test_a_row_of_an_earlier_day_is_marked_and_in_no_count() -> None:
    records = {"oracle": build_record(4.0, 10.0), OURS: build_record(4.9, 12.0), "hpa-queue": build_record(4.0, 20.0)}
    new, old = (
        {
            "trace": "trace.csv",
            "load": "x1",
            "cold_start_seconds": cold_start,
            "target_seconds": 30,
            "orders": {QueueOrder.TARGET_FIRST: records},
            "measured": {"date": date, "commit": commit},
        }
        for cold_start, date, commit in ((90, "2026-11-27", "new"), (30, "2026-11-25", "old"))
    )
    page = build_page([new, old])
    assert "| trace x1 | 90 s |" in page
    assert "| trace x1 * | 30 s |" in page
    assert "The oracle keeps 5 % in 1 of 1 cases" in page
    assert "Measured 2026-11-27 at `new`; rows with * 2026-11-25 at `old`, in no count." in page
