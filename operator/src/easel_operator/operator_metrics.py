"""Metrics of the operator itself, served at /metrics of its health port."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

RECONCILES: Final = Counter("easel_operator_reconciles", "Reconciliations of services.", ["outcome"])
RECONCILE_SECONDS: Final = Histogram("easel_operator_reconcile_seconds", "Time that one reconciliation took.")
QUEUE_LENGTH: Final = Gauge("easel_operator_queue_length", "Services that wait to be reconciled.")
SERVICES: Final = Gauge("easel_operator_services", "Services that the operator knows.")
WRITES: Final = Gauge("easel_operator_api_writes", "Writes to the Kubernetes API since the start.")
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
IS_LEADER: Final = Gauge("easel_operator_is_leader", "1 on the replica that writes.")
