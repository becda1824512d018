"""Pods over time and latencies of one run, and how far two runs are apart. Pure."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

from easel_operator.simulation.outcome import find_percentile

STEP_SECONDS: Final = 1.0  # at which two courses are compared
GOAL_AREA: Final = 0.10
GOAL_P95: Final = 0.15


@dataclass(frozen=True, slots=True)
class PodLife:
    """A worker pod's life in seconds since the trace began; infinity for what didn't happen."""

    created_at: float
    ready_at: float
    leaving_at: float  # chosen for removal
    gone_at: float

    def measure_seconds(self, until: float) -> float:
        """How long it was there between 0 and ``until``."""
        return max(0.0, min(self.gone_at, until) - max(0.0, self.created_at))

    def measure_starting_seconds(self, until: float) -> float:
        """How long of these before it was ready."""
        return max(0.0, min(self.ready_at, self.gone_at, until) - max(0.0, self.created_at))

    @property
    def cold_start_seconds(self) -> float:
        """From its creation to Ready; infinity if it never was."""
        return self.ready_at - self.created_at

    @property
    def is_ever_ready(self) -> bool:
        """Whether it became ready."""
        return math.isfinite(self.ready_at)

    @property
    def is_ever_gone(self) -> bool:
        """Whether it ended."""
        return math.isfinite(self.gone_at)


@dataclass(frozen=True, slots=True)
class Figures:
    """One run of the trace."""

    pod_seconds: float  # from a pod's creation to its end, within the trace's time
    starting_pod_seconds: float
    most_pods: float
    starts: float
    requests: float
    late_percent: float
    p50_seconds: float
    p95_seconds: float
    max_seconds: float

    def to_record(self) -> dict[str, Any]:
        """JSON-ready figures."""
        return {name: round(value, 3) for name, value in asdict(self).items()}

    @classmethod
    def combine(cls, pick: Callable[[Iterable[float]], float], runs: Sequence[Self]) -> Self:
        """What ``pick`` (median, min, max) makes of each figure of several runs."""
        return cls(**{each.name: pick([getattr(run, each.name) for run in runs]) for each in fields(cls)})


def measure_run(
    lives: Iterable[PodLife], latencies_seconds: Sequence[float], target_seconds: float, duration_seconds: float
) -> Figures:
    """The figures of a run on a cluster, over the trace's time."""
    pods = [life for life in lives if life.measure_seconds(duration_seconds) > 0]
    ordered = sorted(latencies_seconds)
    late = sum(latency > target_seconds for latency in ordered)
    return Figures(
        pod_seconds=math.fsum(life.measure_seconds(duration_seconds) for life in pods),
        starting_pod_seconds=math.fsum(life.measure_starting_seconds(duration_seconds) for life in pods),
        most_pods=max(sample_pods(pods, duration_seconds), default=0),
        starts=sum(life.created_at > 0 for life in pods),
        requests=len(ordered),
        late_percent=100.0 * late / len(ordered) if ordered else 0.0,
        p50_seconds=find_percentile(ordered, 50),
        p95_seconds=find_percentile(ordered, 95),
        max_seconds=ordered[-1] if ordered else 0.0,
    )


def sample_pods(lives: Sequence[PodLife], duration_seconds: float) -> list[int]:
    """Pods that are there (starting, ready or ending) in the middle of each step."""
    moments = [(step + 0.5) * STEP_SECONDS for step in range(math.ceil(duration_seconds / STEP_SECONDS))]
    return [sum(life.created_at <= at < life.gone_at for life in lives) for at in moments]


def measure_distance(ours: Sequence[int], theirs: Sequence[int]) -> float:
    """Area between two courses over the area under ``theirs``: unlike a ratio of areas, too much at one time doesn't
    make up for too little at another. Infinity where only ours has any."""
    apart = sum(abs(one - other) for one, other in zip(ours, theirs, strict=True))
    area = sum(theirs)
    return apart / area if area else math.inf if apart else 0.0


def find_missed_goals(simulated: Figures, measured: Figures) -> list[str]:
    """What of the goals the simulator falls short of, in sentences."""
    goals = (
        ("pods over time, area", simulated.pod_seconds, measured.pod_seconds, GOAL_AREA),
        ("p95", simulated.p95_seconds, measured.p95_seconds, GOAL_P95),
    )
    return [
        f"{name}: {one:.1f} simulated, {other:.1f} on the cluster: {one / other - 1:+.1%}, goal within {goal:.0%}"
        for name, one, other, goal in goals
        if abs(one / other - 1) > goal
    ]
