"""Every few seconds: ask the pods, observe, plan, publish. Only the leading replica writes a scale.

Every replica runs the loop, so that each can answer the cluster's autoscaler, and a new leader knows the past.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from easel_contract import names
from easel_contract.resource import ColdStartStatus, ScalingSpec, ServiceDefaults, StableDiffusionServiceSpec
from pydantic import ValidationError

from easel_operator.autoscaling.observation import Observation, PodSample, observe
from easel_operator.autoscaling.planner import Plan, PlannerState, plan, to_external_values
from easel_operator.autoscaling.replay.bank import Bank
from easel_operator.autoscaling.replay.choice import Choice
from easel_operator.autoscaling.replay.feed import build_load
from easel_operator.autoscaling.replay.past import PastStep, PastTerms, replay_past
from easel_operator.cluster.client import KubernetesError
from easel_operator.cluster.external_metrics import ExternalMetricsServer
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.cluster.scraper import Scraper, ScrapeTarget
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.decide.facts import recall_cold_start
from easel_operator.decide.grace import recall_longest_job_seconds
from easel_operator.decide.model_cache import read_progress
from easel_operator.decide.pod_status import PodStatus, read_pods
from easel_operator.decide.rollouts.canary import recall_tally
from easel_operator.decide.rollouts.record import read_step
from easel_operator.decide.rollouts.tally import Watch, follow
from easel_operator.decide.scaling import (
    build_decision,
    build_headroom_status,
    build_scrape_report,
    count_pods,
    decide_deletion_costs,
    find_add_on_problems,
    find_cold_start,
    find_longest_job_seconds,
    find_waiting_since,
    guess_data_seen_at,
    recall_headroom,
    recall_planner_state,
)
from easel_operator.decide.scaling_mode import ScalingMode, decide_mode, decide_scale
from easel_operator.decide.snapshot import ScrapeReport
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.handlers.shared_state import SharedState
from easel_operator.logs import logged_for
from easel_operator.objects import Json, ObjectKey, ServiceKey, is_owned_by
from easel_operator.operator_metrics import (
    DESIRED_REPLICAS,
    FAULTS,
    PROPOSED_REPLICAS,
    TICK_FAILURES,
    TICK_SECONDS,
    forget_service,
    show_headroom,
)
from easel_operator.telemetry.service_counters import ServiceCounters, Sight

logger = logging.getLogger(__name__)

# A service with silent pods holds its slot for as long as the scraper's time-out; the others must not wait for it.
MAX_CONCURRENT_SERVICES: Final = 256
# A thousand services without an answering pod are decided on in one go, which takes 0.1 s, and at first half a second:
# who changes a service meanwhile isn't to wait for that.
SERVICES_BETWEEN_OTHERS: Final = 16
NO_DEFAULTS: Final = ServiceDefaults()
MIN_PAUSE_SECONDS: Final = 0.1  # where a tick takes longer than the interval


@dataclass
class ServiceState:
    """What the loop remembers of one service (the same object, by uid) between ticks."""

    uid: str
    data_seen_at: datetime
    planner: PlannerState
    bank: Bank | None = None  # None: nothing was planned yet
    shown_choice: Choice | None = None
    longest_job_seconds: int = 0
    cold_start: ColdStartStatus | None = None
    add_on_problems: Mapping[str, str] | None = None  # by key; None: no worker has said yet
    waiting_since: datetime | None = None  # requests wait, and no worker is ready
    observation: Observation | None = None
    canary: Watch | None = None  # of a canary's step
    is_past_known: bool = False  # whether take_past gave what there is
    is_shown: bool = False  # whether what the planner asks for is among the metrics
    spec: StableDiffusionServiceSpec | None = None
    spec_generation: int = -1


@dataclass(frozen=True)
class PastWanted:
    """A service whose past before the operator's start isn't known, and what to see it by."""

    key: ServiceKey
    uid: str
    terms: PastTerms


@dataclass(frozen=True)
class ServiceTick:
    """One service at one tick."""

    key: ServiceKey
    service: Json
    state: ServiceState
    gateways: tuple[PodStatus, ...]
    workers: tuple[PodStatus, ...]
    worker_bodies: tuple[Json, ...]  # all pods of workers, those that are being deleted among them
    deployment: Json
    autoscaler: Json | None


@dataclass(frozen=True)
class Actions:
    """What a plan leads to, in this order."""

    key: ServiceKey
    deletion_costs: Mapping[str, int | None]  # to write, by pod, before the number of workers falls
    values: Mapping[str, float]  # to publish
    data_at: datetime
    deployment_uid: str
    replicas: int | None  # for the operator itself to set


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
        shared: SharedState,
        on_news: Callable[[ServiceKey], None],
        is_leader: Callable[[], bool],
        clock: Callable[[], datetime],
        defaults: ServiceDefaults = NO_DEFAULTS,
    ) -> None:
        self._scraper = scraper
        self._metrics_server = metrics_server
        self._writer = writer
        self._services = services
        self._children = children
        self._shared = shared
        self._on_finding = on_news
        self._is_leader = is_leader
        self._clock = clock
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_SERVICES)
        self._states: dict[ServiceKey, ServiceState] = {}
        self._counters = ServiceCounters(defaults)
        self.ticked_at: datetime | None = None

    async def run(self, interval_seconds: float) -> None:
        """Tick for ever, every ``interval_seconds``."""
        while True:
            started = time.monotonic()
            await self.tick()
            elapsed_seconds = time.monotonic() - started
            TICK_SECONDS.observe(elapsed_seconds)
            await asyncio.sleep(max(MIN_PAUSE_SECONDS, interval_seconds - elapsed_seconds))

    async def tick(self) -> None:
        """One round over all services, many at once. Each is decided as soon as its own pods have answered."""
        ticks = []
        async with asyncio.TaskGroup() as tasks:
            for number, (key, service) in enumerate(self._services, start=1):
                ticks.append(tasks.create_task(self._tick_service(key, service)))
                if number % SERVICES_BETWEEN_OTHERS == 0:
                    await asyncio.sleep(0)
        self._forget_all_but({found for tick in ticks if (found := tick.result()) is not None})
        self.ticked_at = self._clock()

    def list_wanted_pasts(self) -> list[PastWanted]:
        """Services that are scaled, and whose past nobody gave yet."""
        return [
            PastWanted(
                key,
                state.uid,
                PastTerms(
                    state.spec.scaling,
                    state.planner.cold_starts.start_up,
                    None if state.bank is None else state.bank.memory,
                ),
            )
            for key, state in self._states.items()
            if state.spec is not None and state.spec.scaling is not None and not state.is_past_known
        ]

    async def take_past(self, wanted: PastWanted, steps: Sequence[PastStep]) -> None:
        """What a service's gateways accepted until now. It takes seconds, in a thread, while the ticks go on."""
        replayed = None
        if any(step.jobs for step in steps):
            replayed = await asyncio.to_thread(replay_past, steps, wanted.terms)
        state = self._states.get(wanted.key)
        if state is None or state.uid != wanted.uid:
            return
        state.is_past_known = True
        if replayed is not None:
            forecast, state.bank = replayed
            state.planner = replace(state.planner, forecast=forecast)

    async def _tick_service(self, key: ServiceKey, service: Json) -> ServiceKey | None:
        """One service in its tick; its key while there are pods to follow. What goes wrong with it is its own affair:
        its workers are held, since its figures get old, and the others go on being scaled."""
        async with self._slots:
            try:
                with logged_for(key):
                    return key if await self._scale_service(key, service) else None
            except Exception:
                TICK_FAILURES.inc()
                logger.exception("%s: it wasn't scaled at this tick, and begins anew with what its status says", key)
                FAULTS.labels("scaling").inc()
                self._states.pop(key, None)
                forget_service(key.namespace, key.name)
                return key

    async def _scale_service(self, key: ServiceKey, service: Json) -> bool:
        """Ask, plan and act; False if there are no pods to follow."""
        tick = self._gather(key, service)
        await self._follow_fetch(key)
        if tick is None:
            return False
        # A pod that has an address and still loads answers nothing, which is no harm.
        pods = [pod for pod in (*tick.gateways, *tick.workers) if pod.address is not None]
        samples = await self._scraper.scrape([_to_target(pod) for pod in pods])
        self._follow_canary(tick, samples)
        actions = self._decide(tick, samples, self._clock())
        if actions is not None:
            await self._apply(actions)
        return True

    async def _follow_fetch(self, key: ServiceKey) -> None:
        """How far the Job is that fills the model's cache, for which workers wait; it is said while there is a Job."""
        bodies = [body for child, body in self._children.of(key).items() if child.kind == "Pod"]
        pods = read_pods(bodies, names.COMPONENT_MODEL_CACHE, self._clock())
        asked = [_to_target(pod) for pod in pods if pod.address is not None]
        samples = await self._scraper.scrape(asked) if asked else ()
        found = [read_progress(sample.metrics.model_cache_bytes) for sample in samples if sample.metrics is not None]
        known = self._shared.fetches.get(key)
        progress = next(filter(None, found), known if pods else None)  # one that doesn't answer is no news
        if progress is None:
            self._shared.fetches.pop(key, None)
        else:
            self._shared.fetches[key] = progress
        if progress != known:
            self._on_finding(key)

    def _follow_canary(self, tick: ServiceTick, samples: Sequence[PodSample]) -> None:
        """What the workers of both revisions did since the last tick, while a new one is on trial."""
        key, state = tick.key, tick.state
        step = read_step(tick.deployment)
        if step is None:
            state.canary = None
            self._shared.tallies.pop(key, None)
            return
        readings = {each.pod_name: each.metrics.attempts for each in samples if each.metrics is not None}
        state.canary = follow(
            state.canary,
            step,
            recall_tally(tick.service),
            {pod: attempts for pod, attempts in readings.items() if attempts is not None},
            tick.workers,
        )
        if self._shared.tallies.get(key) != state.canary.tally:
            self._shared.tallies[key] = state.canary.tally
            self._on_finding(key)

    def _gather(self, key: ServiceKey, service: Json) -> ServiceTick | None:
        """The service's pods; None until its own worker Deployment exists, with whose size the planner begins.

        A Deployment of that name that isn't the service's is neither followed nor scaled.
        """
        owned = self._children.of(key)
        now = self._clock()
        pods = [body for child, body in owned.items() if child.kind == "Pod"]
        worker_name = names.worker_name(key.name)
        deployment = owned.get(ObjectKey("Deployment", key.namespace, worker_name))
        if deployment is None or not is_owned_by(deployment, service["metadata"]["uid"]):
            return None
        return ServiceTick(
            key=key,
            service=service,
            state=self._recall(key, service, deployment, now),
            gateways=read_pods(pods, names.COMPONENT_GATEWAY, now),
            workers=read_pods(pods, names.COMPONENT_WORKER, now),
            worker_bodies=tuple(pod for pod in pods if is_worker(pod)),
            deployment=deployment,
            autoscaler=owned.get(ObjectKey("HorizontalPodAutoscaler", key.namespace, worker_name)),
        )

    def _recall(self, key: ServiceKey, service: Json, deployment: Json, now: datetime) -> ServiceState:
        state, uid = self._states.get(key), service["metadata"]["uid"]
        if state is None or state.uid != uid:
            planner = recall_planner_state(service, deployment, now)
            seen_at = guess_data_seen_at(service, now)
            longest = recall_longest_job_seconds(service)
            state = self._states[key] = ServiceState(
                uid, seen_at, planner, longest_job_seconds=longest, cold_start=recall_cold_start(service)
            )
        generation = service["metadata"].get("generation", 0)
        if state.spec_generation != generation:
            state.spec, state.spec_generation = _parse_spec(service), generation
        return state

    def _decide(self, tick: ServiceTick, samples: Sequence[PodSample], now: datetime) -> Actions | None:
        """Observe and plan one service; report to the reconciler. None while there is nothing to publish."""
        state, key = tick.state, tick.key
        pods = count_pods(tick.workers, tick.deployment)
        observation = state.observation = observe(samples, state.observation, pods, now)
        if observation.queue is not None:
            state.data_seen_at = now
        state.longest_job_seconds = find_longest_job_seconds(samples, state.longest_job_seconds)
        state.cold_start = find_cold_start(tick.workers, samples, state.cold_start)
        state.waiting_since = find_waiting_since(observation, state.waiting_since)
        state.add_on_problems = find_add_on_problems(tick.workers, samples, state.add_on_problems)
        self._count(tick, samples, observation)
        self._report_scrape(
            key,
            build_scrape_report(
                observation,
                state.data_seen_at,
                state.longest_job_seconds,
                state.waiting_since,
                state.cold_start,
                state.add_on_problems,
            ),
        )
        spec = state.spec
        if spec is None or spec.scaling is None:
            self._metrics_server.forget(key.namespace, key.name)
            self._shared.decisions.pop(key, None)
            self._counters.hide_decision(key)
            if state.is_shown:
                forget_service(key.namespace, key.name)  # a figure that stays would lie
                state.is_shown = False
            return None
        bank = self._replay(tick, observation, spec.scaling)
        decision = plan(observation, state.planner, spec.scaling, now, bank.choice)
        state.planner, state.is_shown = decision.state, True
        DESIRED_REPLICAS.labels(key.namespace, key.name).set(decision.desired_replicas)
        self._counters.show_decision(key, decision.reason)
        for signal, replicas in decision.proposals.items():
            PROPOSED_REPLICAS.labels(key.namespace, key.name, signal).set(replicas)
        if decision.data_at is None:
            return None  # no pod has reported anything yet: what runs, runs on
        values = to_external_values(decision, observation)
        mode = decide_mode(spec, self._shared.capabilities).mode
        own_replicas = decide_scale(mode, tick.deployment, tick.autoscaler, decision.desired_replicas)
        self._report_decision(tick, decision, bank, now)
        costs: Mapping[str, int | None] = {}
        if mode is not ScalingMode.RECOMMEND:
            costs = decide_deletion_costs(
                tick.workers,
                observation.idle_pods,
                replicas=pods.desired,
                desired_replicas=decision.desired_replicas,
            )
        return Actions(
            key=key,
            deletion_costs=costs,
            values=values,
            data_at=decision.data_at,
            deployment_uid=tick.deployment["metadata"]["uid"],
            replicas=own_replicas,
        )

    def _count(self, tick: ServiceTick, samples: Sequence[PodSample], observation: Observation) -> None:
        if tick.state.spec is not None:
            sight = Sight(
                spec=tick.state.spec,
                worker_bodies=tick.worker_bodies,
                workers=tick.workers,
                pods=(*tick.gateways, *tick.workers),
                samples=samples,
                observation=observation,
                cold_start=tick.state.cold_start,
            )
            self._counters.count(tick.key, sight, is_leader=self._is_leader())

    @staticmethod
    def _replay(tick: ServiceTick, observation: Observation, scaling: ScalingSpec) -> Bank:
        """Let the shadow fleets see what came, and do the part of their work that is due."""
        state = tick.state
        cold_start_seconds = state.planner.cold_starts.median_seconds
        if state.bank is None:
            state.bank = Bank(scaling, cold_start_seconds, recall_headroom(tick.service, cold_start_seconds))
        state.bank.follow(scaling, cold_start_seconds)
        load = build_load(observation, state.planner.foreknown_replicas, scaling.target_latency_seconds)
        if load is not None:
            state.bank.watch(load)
        return state.bank

    def _report_decision(self, tick: ServiceTick, decision: Plan, bank: Bank, now: datetime) -> None:
        key, state, choice = tick.key, tick.state, bank.choice
        known = self._shared.decisions.get(key)
        if known is not None and known.desired_replicas == decision.desired_replicas and choice is state.shown_choice:
            return
        state.shown_choice = choice
        show_headroom(key.namespace, key.name, choice, bank.memory.debt_jobs)
        headroom = build_headroom_status(bank, tick.service, decision.state.cold_starts.median_seconds)
        news = build_decision(tick.service, known, decision, headroom, now)
        if news is not None and news is not known:
            logger.info("%s: %s", key, news.sentence)
            self._shared.decisions[key] = news
            self._on_finding(key)

    def _report_scrape(self, key: ServiceKey, report: ScrapeReport) -> None:
        if self._shared.scrapes.get(key) != report:
            self._shared.scrapes[key] = report
            self._on_finding(key)

    async def _apply(self, actions: Actions) -> None:
        """Idle pods are marked before anybody can read that there will be fewer."""
        key = actions.key
        is_leader = self._is_leader()
        if is_leader:
            costs = actions.deletion_costs.items()
            await asyncio.gather(*(self._mark(key, pod, cost) for pod, cost in costs))
        self._metrics_server.publish(key.namespace, key.name, actions.values, actions.data_at)
        if is_leader and actions.replicas is not None:
            await self._scale(key, actions.deployment_uid, actions.replicas)

    async def _mark(self, key: ServiceKey, pod: str, cost: int | None) -> None:
        try:
            await self._writer.write_deletion_cost(key.namespace, pod, cost)
        except KubernetesError as error:
            logger.warning(
                "Deletion cost of pod %s/%s wasn't written, a busy pod may go: %s", key.namespace, pod, error
            )

    async def _scale(self, key: ServiceKey, deployment_uid: str, replicas: int) -> None:
        try:
            await self._writer.write_scale(key.namespace, names.worker_name(key.name), replicas, uid=deployment_uid)
        except KubernetesError as error:
            logger.warning("Scaling %s to %d failed, the next tick tries again: %s", key, replicas, error)

    def _forget_all_but(self, keys: set[ServiceKey]) -> None:
        for key in self._states.keys() - keys:
            del self._states[key]
            self._metrics_server.forget(key.namespace, key.name)
            forget_service(key.namespace, key.name)
            self._counters.forget(key)


def is_worker(pod: Json) -> bool:
    """Whether a pod says that it is a worker."""
    return bool(pod["metadata"].get("labels", {}).get(names.LABEL_COMPONENT) == names.COMPONENT_WORKER)


def _to_target(pod: PodStatus) -> ScrapeTarget:
    return ScrapeTarget(pod.name, pod.component, pod.address or "", pod.metrics_port)


def _parse_spec(service: Json) -> StableDiffusionServiceSpec | None:
    """The spec, or None if it isn't valid: the reconciler says so in a condition."""
    try:
        return StableDiffusionServiceSpec.model_validate(service.get("spec", {}))
    except ValidationError:
        return None
