"""What a simulation came to: lateness, latency, GPU-hours and starts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from easel_operator.simulation.fleet import Fleet
from easel_operator.simulation.timeline import Timeline
from easel_operator.simulation.trace import Trace

HOUR_SECONDS: Final = 3600.0
JUDGED_HOUR_REQUESTS: Final = 20  # an hour with fewer requests can't distinguish 5 % from chance


@dataclass(frozen=True, slots=True)
class Outcome:
    """Figures of one policy on one trace. Latency is from submitted to finished; what never finished is late."""

    policy: str
    requests: int
    unfinished: int
    late_percent: float
    worst_hour_late_percent: float  # by hour of arrival, of hours with JUDGED_HOUR_REQUESTS or more
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    max_seconds: float
    gpu_hours: float  # from a pod's creation to its end
    startup_gpu_hours: float  # of these, before the pod was ready
    starts: int
    busy_pods_killed: int  # pods that ran a job when they were chosen for removal
    jobs_handed_back: int  # of their jobs, those that didn't fit into the grace period and were done anew
    seconds_at_zero: float
    simulated_seconds: float
    arrival_seconds: Sequence[float]  # by request
    latencies_seconds: Sequence[float]  # by request; infinity where unfinished
    timeline: Timeline | None = None

    def to_record(self) -> dict[str, Any]:
        """JSON-ready figures."""
        return {
            "policy": self.policy,
            "requests": self.requests,
            "unfinished": self.unfinished,
            "late_percent": round(self.late_percent, 3),
            "worst_hour_late_percent": round(self.worst_hour_late_percent, 3),
            "p50_seconds": _finite(self.p50_seconds),
            "p95_seconds": _finite(self.p95_seconds),
            "p99_seconds": _finite(self.p99_seconds),
            "max_seconds": _finite(self.max_seconds),
            "gpu_hours": round(self.gpu_hours, 3),
            "startup_gpu_hours": round(self.startup_gpu_hours, 3),
            "starts": self.starts,
            "busy_pods_killed": self.busy_pods_killed,
            "jobs_handed_back": self.jobs_handed_back,
            "seconds_at_zero": round(self.seconds_at_zero, 1),
        }


def build_outcome(
    policy: str, trace: Trace, fleet: Fleet, target_seconds: float, ended_at: float, timeline: Timeline | None
) -> Outcome:
    """The figures of a fleet whose simulation has ended."""
    latencies = [
        math.inf if math.isnan(finished) else finished - arrived
        for finished, arrived in zip(fleet.finished_at, trace.arrival_seconds, strict=True)
    ]
    return Outcome(
        policy=policy,
        **_judge(trace.arrival_seconds, latencies, target_seconds),
        gpu_hours=fleet.pod_seconds / HOUR_SECONDS,
        startup_gpu_hours=fleet.starting_seconds / HOUR_SECONDS,
        starts=fleet.starts,
        busy_pods_killed=fleet.busy_pods_killed,
        jobs_handed_back=fleet.jobs_handed_back,
        seconds_at_zero=fleet.zero_seconds,
        simulated_seconds=ended_at,
        timeline=timeline,
    )


def merge_outcomes(outcomes: Sequence[Outcome], target_seconds: float) -> Outcome:
    """Of several services under one policy together: requests are judged as those of one, costs are sums.

    ``seconds_at_zero`` is their sum too; there is no common timeline.
    """
    arrivals = [at for outcome in outcomes for at in outcome.arrival_seconds]
    latencies = [seconds for outcome in outcomes for seconds in outcome.latencies_seconds]
    return Outcome(
        policy=outcomes[0].policy,
        **_judge(arrivals, latencies, target_seconds),
        gpu_hours=sum(outcome.gpu_hours for outcome in outcomes),
        startup_gpu_hours=sum(outcome.startup_gpu_hours for outcome in outcomes),
        starts=sum(outcome.starts for outcome in outcomes),
        busy_pods_killed=sum(outcome.busy_pods_killed for outcome in outcomes),
        jobs_handed_back=sum(outcome.jobs_handed_back for outcome in outcomes),
        seconds_at_zero=sum(outcome.seconds_at_zero for outcome in outcomes),
        simulated_seconds=max(outcome.simulated_seconds for outcome in outcomes),
    )


class _Judgement(TypedDict):
    requests: int
    unfinished: int
    late_percent: float
    worst_hour_late_percent: float
    p50_seconds: float
    p95_seconds: float
    p99_seconds: float
    max_seconds: float
    arrival_seconds: Sequence[float]
    latencies_seconds: Sequence[float]


def _judge(arrivals: Sequence[float], latencies: Sequence[float], target_seconds: float) -> _Judgement:
    late = [latency > target_seconds for latency in latencies]
    ordered = sorted(latencies)
    return _Judgement(
        requests=len(latencies),
        unfinished=sum(math.isinf(latency) for latency in latencies),
        late_percent=100.0 * sum(late) / len(late) if late else 0.0,
        worst_hour_late_percent=find_worst_hour(arrivals, late),
        p50_seconds=find_percentile(ordered, 50),
        p95_seconds=find_percentile(ordered, 95),
        p99_seconds=find_percentile(ordered, 99),
        max_seconds=ordered[-1] if ordered else 0.0,
        arrival_seconds=arrivals,
        latencies_seconds=latencies,
    )


def find_percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest rank of ascending values: the smallest that ``percent`` of them don't exceed; 0 if there are none."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else 0.0


def find_worst_hour(arrivals: Sequence[float], late: Sequence[bool]) -> float:
    """Percent late in the worst hour that has requests enough; of all requests where no hour has."""
    totals: dict[int, int] = {}
    lates: dict[int, int] = {}
    for arrival, is_late in zip(arrivals, late, strict=True):
        hour = int(arrival // HOUR_SECONDS)
        totals[hour] = totals.get(hour, 0) + 1
        lates[hour] = lates.get(hour, 0) + is_late
    judged = [100.0 * lates[hour] / total for hour, total in totals.items() if total >= JUDGED_HOUR_REQUESTS]
    return max(judged, default=100.0 * sum(late) / len(late) if late else 0.0)


def _finite(seconds: float) -> float | None:
    return round(seconds, 3) if math.isfinite(seconds) else None
