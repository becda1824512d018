"""Metrics of the operator itself, served at /metrics of its health port."""

import os
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Final

from easel_contract import metrics, names
from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from easel_operator.autoscaling.replay.choice import Choice

RECONCILES: Final = Counter("easel_operator_reconciles", "Reconciliations of services.", ["outcome"])
RECONCILE_SECONDS: Final = Histogram("easel_operator_reconcile_seconds", "Time that one reconciliation took.")
QUEUE_LENGTH: Final = Gauge("easel_operator_queue_length", "Services that wait to be reconciled.")
ROLLOUT_SERVICES: Final = Gauge(
    "easel_operator_rollout_services",
    "Services by how they stand to the installation's release: current, moving, failed, waiting for "
    "their turn, held by users.",
    ["stage"],
)
SERVICES: Final = Gauge("easel_operator_services", "Services that the operator knows.")
TICK_SECONDS: Final = Histogram("easel_operator_scaling_tick_seconds", "Time that one tick of the scaling loop took.")
TICK_FAILURES: Final = Counter(
    "easel_operator_scaling_failures", "Ticks at which a service couldn't be scaled for a fault of the operator's own."
)
FAULTS: Final = Counter(
    "easel_operator_faults",
    "Errors that nobody foresaw, by where they were met; the operator goes on. Each is in the log with its traceback.",
    ["where"],
)
MALFORMED_PAGES: Final = Counter(
    "easel_operator_malformed_pages",
    "Answers of pods to a scrape that couldn't be used; a pod without answer isn't one.",
)
DESIRED_REPLICAS: Final = Gauge(
    "easel_operator_desired_replicas", "Workers that the planner asks for.", ["namespace", "service"]
)
PROPOSED_REPLICAS: Final = Gauge(
    "easel_operator_proposed_replicas",
    "Workers that one signal asks for; the largest is easel_operator_desired_replicas.",
    ["namespace", "service", "signal"],
)
HISTORY_READS: Final = Counter(
    "easel_operator_history_reads",
    "Services whose past was asked for in Prometheus after a restart: read, empty (nothing there), or failed.",
    ["outcome"],
)
HEADROOM_MARGIN: Final = Gauge(
    "easel_operator_headroom_margin",
    "Workers on top of the busy ones, where one is busy, as chosen by replay.",
    ["namespace", "service"],
)
HEADROOM_HOLD_COLD_STARTS: Final = Gauge(
    "easel_operator_headroom_hold_cold_starts",
    "Cold starts without need of it, before a worker is scaled down, as chosen by replay.",
    ["namespace", "service"],
)
HEADROOM_LAST_POD_COLD_STARTS: Final = Gauge(
    "easel_operator_headroom_last_pod_cold_starts",
    "Cold starts without any request, before the last worker is scaled down, as chosen by replay.",
    ["namespace", "service"],
)
HEADROOM_LATE_RATIO: Final = Gauge(
    "easel_operator_headroom_late_ratio",
    "Share of late requests, 0 to 1, that the choice had in the replay of the last 36 hours.",
    ["namespace", "service"],
)
HEADROOM_PODS: Final = Gauge(
    "easel_operator_headroom_pods",
    "Workers on average that the choice had in the replay of the last 36 hours.",
    ["namespace", "service"],
)
LATE_DEBT: Final = Gauge(
    "easel_operator_late_debt_requests",
    "Late requests of the last week or so beyond what was planned; negative: fewer.",
    ["namespace", "service"],
)
SWEPT_KEYS: Final = Counter(
    "easel_operator_swept_keys", "Keys in Redis that deleted services had left, and that a sweep deleted."
)
WATCHED_NAMESPACES: Final = Gauge(
    "easel_operator_watched_namespaces",
    "Namespaces of operator.watchNamespaces by what is known of them: Watched, Missing, Forbidden (no rights there), …",
    ["state"],
)
OUTSIDE_SERVICES: Final = Gauge(
    "easel_operator_outside_services",
    "Services outside of operator.watchNamespaces that no operator has looked at since their spec changed.",
)
IS_LEADER: Final = Gauge("easel_operator_is_leader", "1 on the replica that writes.")


API_REQUESTS: Final = Counter(
    metrics.OPERATOR_API_REQUESTS_TOTAL,
    "Requests to the Kubernetes API by what came of them; code is the HTTP status, or none where nobody answered.",
    ["verb", "code"],
)
CERTIFICATE_EXPIRY: Final = Gauge(
    metrics.OPERATOR_CERTIFICATE_EXPIRY, "When the certificate of the external metrics API ends, in Unix time; 0: none."
)
BUILD_INFO: Final = Gauge(
    metrics.BUILD_INFO, "Which release runs; always 1.", ["component", "version", "revision", "python"]
)


class _WritesCollector(Collector):
    """Writes to the API, as a counter, and under the name and type that earlier releases gave it.

    prometheus-client's Counter reserves its name without ``_total``, which is the old one.
    """

    def __init__(self) -> None:
        self.count: Callable[[], int] = lambda: 0

    def collect(self) -> Iterator[Metric]:
        text = "Writes to the Kubernetes API since the start."
        counter = CounterMetricFamily("easel_operator_api_writes", text)
        counter.add_metric([], self.count())
        yield counter
        old = GaugeMetricFamily(
            "easel_operator_api_writes", f"{text} An older name: use easel_operator_api_writes_total."
        )
        old.add_metric([], self.count())
        yield old


WRITES: Final = _WritesCollector()
REGISTRY.register(WRITES)


def show_build() -> None:
    """Which release this process is of."""
    revision = os.environ.get(names.ENV_REVISION, "")
    BUILD_INFO.labels("operator", version(names.DISTRIBUTION), revision, platform.python_version()).set(1)


def show_headroom(namespace: str, service: str, choice: Choice, debt_jobs: float) -> None:
    """The setting that a service uses; what it came to in the replay, once it was chosen by that."""
    labels = (namespace, service)
    HEADROOM_MARGIN.labels(*labels).set(choice.setting.margin)
    HEADROOM_HOLD_COLD_STARTS.labels(*labels).set(choice.setting.hold_cold_starts)
    HEADROOM_LAST_POD_COLD_STARTS.labels(*labels).set(choice.setting.last_pod_cold_starts)
    LATE_DEBT.labels(*labels).set(debt_jobs)
    if choice.tally is not None:
        HEADROOM_LATE_RATIO.labels(*labels).set(choice.tally.late_share)
        HEADROOM_PODS.labels(*labels).set(choice.mean_pods)


def forget_service(namespace: str, service: str) -> None:
    """Take away what was said of a service that isn't scaled any more: a figure that stays would lie."""
    for series in (
        DESIRED_REPLICAS,
        PROPOSED_REPLICAS,
        HEADROOM_MARGIN,
        HEADROOM_HOLD_COLD_STARTS,
        HEADROOM_LAST_POD_COLD_STARTS,
        HEADROOM_LATE_RATIO,
        HEADROOM_PODS,
        LATE_DEBT,
    ):
        series.remove_by_labels({"namespace": namespace, "service": service})
