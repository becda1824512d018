"""A run on the cluster beside its simulation: the record that is kept, and the table that is printed."""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any, Final

from easel_contract.resource import StableDiffusionServiceSpec
from easel_operator.simulation.outcome import find_percentile
from easel_operator.simulation.settings import ColdStart

from benchmarks.simulator.comparison import (
    Figures,
    PodLife,
    find_missed_goals,
    measure_distance,
    measure_run,
    sample_pods,
)
from benchmarks.simulator.course import Course
from benchmarks.simulator.simulated import PHASES, Simulated, simulate_phases
from benchmarks.simulator.workload import EngineTimes, Request, draw_requests, to_trace

MIN_PERCENT: Final = 10  # of the cold starts, from which their spread is taken
MAX_PERCENT: Final = 90
COLUMNS: Final = ("cluster", "simulated", "ratio", "lowest", "highest")


def build_record(
    course: Course, spec: StableDiffusionServiceSpec, times: EngineTimes, *, phases: int = PHASES
) -> dict[str, Any]:
    """JSON-ready: the cluster's figures, the simulator's with measured cold starts and with the set one, the goals."""
    requests = draw_requests(course.duration_seconds, course.seed)
    target = float(spec.scaling.target_latency_seconds) if spec.scaling else 0.0
    latencies = [request.latency_seconds for request in course.requests]
    measured = measure_run(course.pods, latencies, target, course.duration_seconds)
    trace = to_trace(requests, times, course.duration_seconds)
    cold_start = find_cold_start(course)
    pods = sample_pods(course.pods, course.duration_seconds)
    record: dict[str, Any] = {
        "trace": {"seconds": course.duration_seconds, "seed": course.seed, "requests": len(trace)},
        "measured": course.measured,
        "load_average": round(course.load_average, 2),
        "cluster": measured.to_record(),
        "cluster_details": _describe(course, requests, times),
    }
    for name, start in (("simulated", cold_start), ("simulated_with_set_load_time", ColdStart(times.load_seconds))):
        runs = simulate_phases(spec, trace, start, course.period_seconds, phases=phases, seed=course.seed)
        record[name] = _compare(runs, measured, pods, start)
    return record


def find_cold_start(course: Course) -> ColdStart:
    """The cold starts that were seen, as `--cold-start-seconds X:SPREAD` describes them."""
    seconds = sorted(pod.cold_start_seconds for pod in _list_started(course))
    if not seconds:
        raise ValueError("no pod started and became ready during the trace; there is nothing to compare")
    low, high = find_percentile(seconds, MIN_PERCENT), find_percentile(seconds, MAX_PERCENT)
    return ColdStart(round(median(seconds), 2), round((high - low) / 2, 2))


def list_orders(orders: Mapping[str, Any]) -> Iterator[str]:
    """A line for each way in which an order comes about."""
    for path, waited in orders.items():
        yield f"order, {path:<24} median {waited['median_seconds']:.2f} s, at most {waited['max_seconds']:.2f} s"


def list_figures(name: str, record: Mapping[str, Any]) -> Iterator[str]:
    """A line for each figure of a trace."""
    simulated = record["simulated"]
    yield f"{name}, {record['trace']['requests']} requests"
    yield f"{'':<24}" + "".join(f"{column:>11}" for column in COLUMNS)
    for figure, measured in record["cluster"].items():
        median_, low, high = (simulated[part][figure] for part in ("median", "lowest", "highest"))
        ratio = f"{median_ / measured:.3f}" if measured else "-"
        yield f"{figure:<24}{measured:>11}{median_:>11}{ratio:>11}{low:>11}{high:>11}"
    yield from (f"missed: {goal}" for goal in simulated["missed_goals"])


def _compare(runs: list[Simulated], measured: Figures, pods: list[int], start: ColdStart) -> dict[str, Any]:
    figures = [run.figures for run in runs]
    middle = Figures.combine(median, figures)
    return {
        "cold_start_seconds": start.seconds,
        "cold_start_spread_seconds": start.spread_seconds,
        "runs": len(runs),
        "median": middle.to_record(),
        "lowest": Figures.combine(min, figures).to_record(),
        "highest": Figures.combine(max, figures).to_record(),
        "area_ratio": round(middle.pod_seconds / measured.pod_seconds, 3),
        "p95_ratio": round(middle.p95_seconds / measured.p95_seconds, 3),
        "distance_of_courses": round(median(measure_distance(run.pods, pods) for run in runs), 3),
        "missed_goals": find_missed_goals(middle, measured),
    }


def _describe(course: Course, requests: list[Request], times: EngineTimes) -> dict[str, Any]:
    """What the model doesn't have, measured: for those who look for the reason of a difference."""
    over = sorted(
        seen.run_seconds - asked.measure_work_seconds(times)
        for asked, seen in zip(requests, course.requests, strict=True)
    )
    lags = sorted(seen.sent_at - asked.at_seconds for asked, seen in zip(requests, course.requests, strict=True))
    gone = sorted(pod.gone_at - pod.leaving_at for pod in course.pods if pod.is_ever_gone)
    return {
        "run_over_nominal_seconds": _spread(over),
        "sent_late_seconds": _spread(lags),
        "termination_seconds": _spread(gone),
        "cold_starts_seconds": [round(pod.cold_start_seconds, 1) for pod in _list_started(course)],
    }


def _list_started(course: Course) -> list[PodLife]:
    """Pods that were created during the trace and became ready."""
    return [pod for pod in course.pods if pod.created_at > 0 and pod.is_ever_ready]


def _spread(ordered: list[float]) -> dict[str, float]:
    return {f"p{percent}": round(find_percentile(ordered, percent), 3) for percent in (50, 95, 100)}
