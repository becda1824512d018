"""The autoscaler's benchmark on a trace of some minutes."""

import concurrent.futures
from pathlib import Path

from benchmarks.autoscaler import OURS, Case, measure, measure_ours


def test_easel_measured_anew_stands_beside_what_is_stored_of_the_others(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    rows = "".join(f"{at},4\n" for burst in range(6) for at in range(100 * burst, 100 * burst + 20))
    trace.write_text(f"arrival_seconds,work_seconds\n{rows}")
    case = Case(str(trace), "x1", cold_start_seconds=30, target_seconds=30)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        whole = measure(case, pool)
        stored = {**whole, "policies": {**whole["policies"], OURS: {}}}
        assert list(measure_ours([case], [stored], pool)) == [whole]
    assert whole["policies"]["oracle"]["gpu_hours_over_oracle"] == 1.0
    assert whole["policies"][OURS]["unfinished"] == 0
