"""Every few seconds: ask the pods, observe, plan, publish. Only the leading replica writes a scale.

Every replica runs the loop, so that each can answer the cluster's autoscaler, and a new leader knows the past.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from easel_contract import names
from easel_contract.resource import StableDiffusionServiceSpec
from pydantic import ValidationError

from easel_operator.autoscaling.observation import Observation, PodSample, observe
from easel_operator.autoscaling.planner import History, begin_history, plan, to_external_values
from easel_operator.cluster.client import KubernetesError
from easel_operator.cluster.external_metrics import ExternalMetricsServer
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.cluster.scraper import Scraper, ScrapeTarget
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.decide.pods import PodFacts, read_pods
from easel_operator.decide.scaling import (
    build_decision,
    build_scrape_report,
    count_pods,
    find_reachable,
    find_stored_replicas,
    guess_data_seen_at,
)
from easel_operator.decide.scaling_mode import decide_mode, decide_scale
from easel_operator.decide.snapshot import ScrapeReport
from easel_operator.handlers.findings import Findings
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.objects import Json, ObjectKey, ServiceKey
from easel_operator.operator_metrics import DESIRED_REPLICAS, TICK_SECONDS

logger = logging.getLogger(__name__)

SHORTEST_PAUSE_SECONDS: Final = 0.1  # where a tick takes longer than the interval


@dataclass
class Memory:
    """What the loop remembers of one service (the same object, by uid) between ticks."""

    uid: str
    data_seen_at: datetime
    history: History
    observation: Observation | None = None
    spec: StableDiffusionServiceSpec | None = None
    spec_generation: int = -1


@dataclass(frozen=True)
class Subject:
    """One service at one tick."""

    key: ServiceKey
    service: Json
    memory: Memory
    gateways: tuple[PodFacts, ...]
    workers: tuple[PodFacts, ...]
    deployment: Json
    autoscaler: Json | None


@dataclass(frozen=True)
class ScaleWrite:
    """A number of replicas for the operator itself to set."""

    key: ServiceKey
    replicas: int


class ScalingLoop:
    """Follows all services' work."""

    def __init__(
        self,
        *,
        scraper: Scraper,
        metrics_server: ExternalMetricsServer,
        writer: ClusterWriter,
        services: ServiceStore,
        children: ObjectStore,
        findings: Findings,
        on_finding: Callable[[ServiceKey], None],
        is_leader: Callable[[], bool],
        clock: Callable[[], datetime],
    ) -> None:
        self._scraper = scraper
        self._metrics_server = metrics_server
        self._writer = writer
        self._services = services
        self._children = children
        self._findings = findings
        self._on_finding = on_finding
        self._is_leader = is_leader
        self._clock = clock
        self._memories: dict[ServiceKey, Memory] = {}
        self.ticked_at: datetime | None = None

    async def run(self, interval_seconds: float) -> None:
        """Tick for ever, every ``interval_seconds``."""
        while True:
            started = time.monotonic()
            await self.tick()
            elapsed_seconds = time.monotonic() - started
            TICK_SECONDS.observe(elapsed_seconds)
            await asyncio.sleep(max(SHORTEST_PAUSE_SECONDS, interval_seconds - elapsed_seconds))

    async def tick(self) -> None:
        """One round over all services: their pods are asked all at once."""
        gathered = [self._gather(key, service) for key, service in self._services]
        subjects = [subject for subject in gathered if subject is not None]
        self._forget_all_but({subject.key for subject in subjects})
        asked = [find_reachable((*subject.gateways, *subject.workers)) for subject in subjects]
        samples = await self._scraper.scrape([_to_target(pod) for pods in asked for pod in pods])
        now = self._clock()
        writes, begin = [], 0
        for subject, pods in zip(subjects, asked, strict=True):
            write = self._follow(subject, samples[begin : begin + len(pods)], now)
            begin += len(pods)
            if write is not None:
                writes.append(write)
        if self._is_leader():
            await asyncio.gather(*(self._scale(write) for write in writes))
        self.ticked_at = now

    def _gather(self, key: ServiceKey, service: Json) -> Subject | None:
        """The service's pods; None until its worker Deployment exists, with whose size the planner begins."""
        owned = self._children.of(key)
        now = self._clock()
        pods = [body for child, body in owned.items() if child.kind == "Pod"]
        worker_name = names.worker_name(key.name)
        deployment = owned.get(ObjectKey("Deployment", key.namespace, worker_name))
        if deployment is None:
            return None
        return Subject(
            key=key,
            service=service,
            memory=self._recall(key, service, deployment, now),
            gateways=read_pods(pods, names.COMPONENT_GATEWAY, now),
            workers=read_pods(pods, names.COMPONENT_WORKER, now),
            deployment=deployment,
            autoscaler=owned.get(ObjectKey("HorizontalPodAutoscaler", key.namespace, worker_name)),
        )

    def _recall(self, key: ServiceKey, service: Json, deployment: Json, now: datetime) -> Memory:
        memory, uid = self._memories.get(key), service["metadata"]["uid"]
        if memory is None or memory.uid != uid:
            history = begin_history(find_stored_replicas(service, deployment), now)
            seen_at = guess_data_seen_at(service, now)
            memory = self._memories[key] = Memory(uid, data_seen_at=seen_at, history=history)
        generation = service["metadata"].get("generation", 0)
        if memory.spec_generation != generation:
            memory.spec, memory.spec_generation = _parse_spec(service), generation
        return memory

    def _follow(self, subject: Subject, samples: Sequence[PodSample], now: datetime) -> ScaleWrite | None:
        """Observe and plan one service; tell the reconciler and the autoscaler's API."""
        memory, key = subject.memory, subject.key
        pods = count_pods(subject.workers, subject.deployment)
        observation = memory.observation = observe(samples, memory.observation, pods, now)
        if observation.queue is not None:
            memory.data_seen_at = now
        self._report(key, build_scrape_report(observation, memory.data_seen_at))
        spec = memory.spec
        if spec is None or spec.scaling is None:
            self._metrics_server.forget(key.namespace, key.name)
            self._findings.decisions.pop(key, None)
            return None
        decision = plan(observation, memory.history, spec.scaling, now)
        memory.history = decision.history
        DESIRED_REPLICAS.labels(key.namespace, key.name).set(decision.desired_replicas)
        if decision.data_at is None:
            return None  # nobody has told anything yet: what runs, runs on
        values = to_external_values(decision, observation)
        self._metrics_server.publish(key.namespace, key.name, values, decision.data_at)
        known = self._findings.decisions.get(key)
        news = build_decision(subject.service, known, decision, now)
        if news is not None and news is not known:
            logger.info("%s: %s", key, news.sentence)
            self._findings.decisions[key] = news
            self._on_finding(key)
        mode = decide_mode(spec, self._findings.capabilities).mode
        replicas = decide_scale(mode, subject.deployment, subject.autoscaler, decision.desired_replicas)
        return ScaleWrite(key, replicas) if replicas is not None else None

    def _report(self, key: ServiceKey, report: ScrapeReport) -> None:
        if self._findings.scrapes.get(key) != report:
            self._findings.scrapes[key] = report
            self._on_finding(key)

    async def _scale(self, write: ScaleWrite) -> None:
        try:
            await self._writer.write_scale(write.key.namespace, names.worker_name(write.key.name), write.replicas)
        except KubernetesError as error:
            logger.warning("Scaling %s to %d failed, the next tick tries again: %s", write.key, write.replicas, error)

    def _forget_all_but(self, keys: set[ServiceKey]) -> None:
        for key in self._memories.keys() - keys:
            del self._memories[key]
            self._metrics_server.forget(key.namespace, key.name)
            DESIRED_REPLICAS.remove_by_labels({"namespace": key.namespace, "service": key.name})


def _to_target(pod: PodFacts) -> ScrapeTarget:
    return ScrapeTarget(pod_name=pod.name, component=pod.component, address=pod.address or "")


def _parse_spec(service: Json) -> StableDiffusionServiceSpec | None:
    """The spec, or None if it isn't valid: the reconciler says so in a condition."""
    try:
        return StableDiffusionServiceSpec.model_validate(service.get("spec", {}))
    except ValidationError:
        return None
