"""What each service's workers cost and went through, as counters. The scaling loop tells at each tick what it saw.

GPU-seconds are held by a worker pod from when it has its node until it is gone: whether it loads, generates, idles or
ends, nobody else has its GPUs. They are worked while its engine generates. Cost is what is held, at the price of the
moment. Only the replica that leads counts these, and restarts and cold starts, so that a sum over replicas is right;
what nobody saw, while no replica led, isn't counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from easel_contract import metrics, names
from easel_contract.metrics import DecisionReason
from easel_contract.resource import ColdStartStatus, ServiceDefaults, StableDiffusionServiceSpec
from prometheus_client import Counter, Gauge, Histogram

from easel_operator.autoscaling.observation import Observation, PodSample
from easel_operator.decide.pod_status import PodStatus
from easel_operator.objects import Json, ServiceKey

LABELS: Final = (metrics.LABEL_NAMESPACE, metrics.LABEL_SERVICE)
SECONDS_PER_HOUR: Final = 3600.0
MAX_GAP_SECONDS: Final = 300.0  # between two ticks; beyond it nobody knows what was held
COLD_START_BUCKETS_SECONDS: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200)
COLD_START_PHASES: Final = ("scheduled", "pulled", *metrics.ColdStartPhase)

DECISION: Final = Gauge(
    metrics.SERVICE_DECISION, "Why a service has as many workers as were decided; always 1.", [*LABELS, "reason"]
)
SCRAPE_FAILURES: Final = Counter(
    metrics.SERVICE_SCRAPE_FAILURES_TOTAL, "Times that a ready pod's metrics couldn't be had, by each replica.", LABELS
)
COLD_STARTS: Final = Histogram(
    metrics.SERVICE_COLD_START_PHASE_SECONDS,
    "What starts of workers were made of, from the pod's creation to Ready.",
    [*LABELS, metrics.LABEL_PHASE],
    buckets=COLD_START_BUCKETS_SECONDS,
)
HELD: Final = Counter(
    metrics.SERVICE_HELD_GPU_SECONDS_TOTAL, "Time that worker pods were on a node, times their GPUs.", LABELS
)
WORKED: Final = Counter(
    metrics.SERVICE_WORKED_GPU_SECONDS_TOTAL, "Of that, the time that workers' engines were generating.", LABELS
)
COST: Final = Counter(
    metrics.SERVICE_COST_TOTAL,
    "GPU-seconds held, at the price of a GPU-hour, where that is said.",
    [*LABELS, "currency"],
)
RESTARTS: Final = Counter(
    metrics.SERVICE_WORKER_RESTARTS_TOTAL, "Workers that ended and were started again in the same pod.", LABELS
)
OF_SERVICES: Final = (DECISION, SCRAPE_FAILURES, COLD_STARTS, HELD, WORKED, COST, RESTARTS)


@dataclass
class Seen:
    """Of one service at the last tick."""

    at: datetime | None = None  # None: not by a leader
    restarts: Mapping[str, int] = field(default_factory=dict)  # by pod
    reason: DecisionReason | None = None
    cold_start: ColdStartStatus | None = None


@dataclass(frozen=True)
class Sight:
    """Of one service at one tick."""

    spec: StableDiffusionServiceSpec
    worker_bodies: Sequence[Json]
    workers: Sequence[PodStatus]
    pods: Sequence[PodStatus]  # these and the gateways
    samples: Sequence[PodSample]
    observation: Observation
    cold_start: ColdStartStatus | None


class ServiceCounters:
    """Of all services."""

    def __init__(self, defaults: ServiceDefaults) -> None:
        """``defaults`` has the installation's price and currency."""
        self._defaults = defaults
        self._seen: dict[ServiceKey, Seen] = {}

    def count(self, key: ServiceKey, sight: Sight, *, is_leader: bool) -> None:
        """What happened since the last tick."""
        seen = self._seen.setdefault(key, Seen(cold_start=sight.cold_start))
        labels = (key.namespace, key.name)
        SCRAPE_FAILURES.labels(*labels).inc(count_scrape_failures(sight.pods, sight.samples))
        restarts = read_restarts(sight.workers, sight.samples)
        if is_leader:
            self._count_gpus(labels, sight, seen)
            RESTARTS.labels(*labels).inc(count_growth(seen.restarts, restarts))
            if sight.cold_start is not None and sight.cold_start != seen.cold_start:
                _observe_cold_start(labels, sight.cold_start)
        seen.at = sight.observation.at if is_leader else None
        seen.restarts, seen.cold_start = restarts, sight.cold_start

    def _count_gpus(self, labels: tuple[str, str], sight: Sight, seen: Seen) -> None:
        now = sight.observation.at
        elapsed_seconds = (now - seen.at).total_seconds() if seen.at is not None else 0.0
        if not 0 <= elapsed_seconds <= MAX_GAP_SECONDS:
            elapsed_seconds = 0.0
        held = count_held_gpus(sight.worker_bodies, sight.spec) * elapsed_seconds
        HELD.labels(*labels).inc(held)
        growth = sight.observation.growth
        worked = growth.work_gpu_seconds if growth is not None and elapsed_seconds else None
        WORKED.labels(*labels).inc(worked or 0.0)
        own, usual = sight.spec.worker.price_per_gpu_hour, self._defaults.worker.price_per_gpu_hour
        price = usual if own is None else own
        if price is not None:
            COST.labels(*labels, self._defaults.currency).inc(held / SECONDS_PER_HOUR * price)

    def show_decision(self, key: ServiceKey, reason: DecisionReason) -> None:
        """Why there are as many workers as there are."""
        seen = self._seen.setdefault(key, Seen())
        if seen.reason is not reason:
            DECISION.remove_by_labels(_to_labels(key))
            DECISION.labels(key.namespace, key.name, reason).set(1)
            seen.reason = reason

    def hide_decision(self, key: ServiceKey) -> None:
        """Nothing is decided of it any more."""
        if key in self._seen and self._seen[key].reason is not None:
            DECISION.remove_by_labels(_to_labels(key))
            self._seen[key].reason = None

    def forget(self, key: ServiceKey) -> None:
        """It is gone: a figure that stays would lie."""
        if self._seen.pop(key, None) is not None:
            for series in OF_SERVICES:
                series.remove_by_labels(_to_labels(key))


def count_held_gpus(pods: Iterable[Json], spec: StableDiffusionServiceSpec) -> int:
    """GPUs of worker pods that are on a node and not at their end, also while they are being deleted."""
    return sum(
        _read_gpus(pod, spec)
        for pod in pods
        if pod.get("spec", {}).get("nodeName") and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    )


def _read_gpus(pod: Json, spec: StableDiffusionServiceSpec) -> int:
    """As the pod asks for them: it may be of an earlier spec. What it gets by claims is what the spec says."""
    name = spec.worker.gpu.resource_name
    for container in pod["spec"].get("containers", ()):
        if container.get("name") == names.CONTAINER_NAME:
            asked = ((container.get("resources") or {}).get("limits") or {}).get(name)
            if asked is not None and str(asked).isdigit():
                return int(asked)
    return spec.worker.gpu.count


def count_scrape_failures(pods: Iterable[PodStatus], samples: Iterable[PodSample]) -> int:
    """Of pods that are ready: one that still loads answers nothing, which is no harm."""
    ready = {pod.name for pod in pods if pod.is_ready}
    return sum(sample.metrics is None and sample.pod_name in ready for sample in samples)


def read_restarts(workers: Iterable[PodStatus], samples: Iterable[PodSample]) -> dict[str, int]:
    """By pod: of its container, and of the worker in it."""
    inside = {sample.pod_name: sample.metrics.restarts for sample in samples if sample.metrics is not None}
    return {pod.name: pod.restarts + inside.get(pod.name, 0) for pod in workers}


def count_growth(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    """What the counts of pods that were there before grew by."""
    return sum(max(0, count - before[name]) for name, count in after.items() if name in before)


def _observe_cold_start(labels: tuple[str, str], start: ColdStartStatus) -> None:
    for phase in COLD_START_PHASES:
        seconds = getattr(start, f"{phase}_seconds")
        if seconds is not None:
            COLD_STARTS.labels(*labels, phase).observe(seconds)


def _to_labels(key: ServiceKey) -> dict[str, str]:
    return {metrics.LABEL_NAMESPACE: key.namespace, metrics.LABEL_SERVICE: key.name}
