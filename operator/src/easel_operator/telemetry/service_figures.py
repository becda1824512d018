"""How each service stands, as gauges: read from what the watches delivered whenever metrics are asked for.

Nothing is remembered, so nothing is left of a service that is gone, and every replica says the same.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Final

from easel_contract import metrics, names
from easel_contract.metrics import PodPhase
from easel_contract.resource import ServiceDefaults
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from easel_operator.decide.pod_status import PodStatus, StartPhase, read_pods
from easel_operator.objects import Json, ObjectKey, ServiceKey, is_owned_by

LABELS: Final = (metrics.LABEL_NAMESPACE, metrics.LABEL_SERVICE)
OF_START: Final[Mapping[StartPhase, PodPhase]] = {
    StartPhase.PLACING: PodPhase.PLACING,
    StartPhase.PREPARING: PodPhase.PREPARING,
    StartPhase.LOADING: PodPhase.LOADING,
}
# Of the spec, by where it is there.
SCALING_FIELDS: Final = {
    metrics.SERVICE_MIN_REPLICAS: ("minReplicas", "scaling.minReplicas: workers at the least."),
    metrics.SERVICE_MAX_REPLICAS: ("maxReplicas", "scaling.maxReplicas: workers at the most."),
    metrics.SERVICE_TARGET_LATENCY_SECONDS: (
        "targetLatencySeconds",
        "scaling.targetLatencySeconds: from a request to its image.",
    ),
}


class ServiceFigures(Collector):
    """Of all services that the operator knows."""

    def __init__(
        self,
        services: Iterable[tuple[ServiceKey, Json]],
        children_of: Callable[[ServiceKey], Mapping[ObjectKey, Json]],
        defaults: ServiceDefaults,
        clock: Callable[[], datetime],
    ) -> None:
        self._services = services
        self._children_of = children_of
        self._defaults = defaults
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks."""
        families = _build_families()
        for key, service in self._services:
            labels = (key.namespace, key.name)
            _add_conditions(families, labels, service)
            self._add_spec(families, labels, service)
            self._add_workers(families, labels, key, service)
        yield from families.values()

    def _add_spec(self, families: Mapping[str, GaugeMetricFamily], labels: tuple[str, str], service: Json) -> None:
        spec: Json = service.get("spec", {})
        scaling: Json = spec.get("scaling") or {}
        for name, (field, _) in SCALING_FIELDS.items():
            if isinstance(scaling.get(field), int | float):
                families[name].add_metric(labels, scaling[field])
        worker: Json = spec.get("worker") or {}
        gpus = (worker.get("gpu") or {}).get("count", 1)
        if isinstance(gpus, int):
            families[metrics.SERVICE_GPUS_PER_WORKER].add_metric(labels, gpus)
        price = worker.get("pricePerGpuHour", self._defaults.worker.price_per_gpu_hour)
        if isinstance(price, int | float):
            families[metrics.SERVICE_GPU_HOUR_PRICE].add_metric((*labels, self._defaults.currency), price)

    def _add_workers(
        self, families: Mapping[str, GaugeMetricFamily], labels: tuple[str, str], key: ServiceKey, service: Json
    ) -> None:
        children = self._children_of(key)
        deployment = children.get(ObjectKey("Deployment", key.namespace, names.worker_name(key.name)))
        if deployment is None or not is_owned_by(deployment, service["metadata"]["uid"]):
            return
        replicas = deployment.get("spec", {}).get("replicas", 1)
        families[metrics.SERVICE_WORKER_REPLICAS].add_metric(labels, replicas)
        bodies = (body for child, body in children.items() if child.kind == "Pod")
        phases = [find_phase(pod) for pod in read_pods(bodies, names.COMPONENT_WORKER, self._clock())]
        for phase in PodPhase:
            families[metrics.SERVICE_WORKER_PODS].add_metric((*labels, phase), phases.count(phase))


def find_phase(pod: PodStatus) -> PodPhase:
    """How far a pod has come."""
    return PodPhase.READY if pod.phase is None else OF_START[pod.phase]


def _add_conditions(families: Mapping[str, GaugeMetricFamily], labels: tuple[str, str], service: Json) -> None:
    """The one that holds now of each type: a query asks for the status it wants."""
    for each in service.get("status", {}).get("conditions") or ():
        values = (each.get("type"), each.get("status"), each.get("reason"))
        families[metrics.SERVICE_CONDITION].add_metric((*labels, *map(str, values)), 1)


def _build_families() -> dict[str, GaugeMetricFamily]:
    texts = {
        metrics.SERVICE_CONDITION: ("Conditions of services; always 1.", ("type", "status", "reason")),
        **{name: (text, ()) for name, (_, text) in SCALING_FIELDS.items()},
        metrics.SERVICE_WORKER_REPLICAS: ("Worker pods that are ordered: spec.replicas of their Deployment.", ()),
        metrics.SERVICE_WORKER_PODS: ("Worker pods that exist and aren't being deleted.", (metrics.LABEL_PHASE,)),
        metrics.SERVICE_GPUS_PER_WORKER: ("worker.gpu.count: GPUs that one worker pod asks for.", ()),
        metrics.SERVICE_GPU_HOUR_PRICE: ("What one GPU costs for an hour, where it is said.", ("currency",)),
    }
    return {name: GaugeMetricFamily(name, text, labels=[*LABELS, *more]) for name, (text, more) in texts.items()}
