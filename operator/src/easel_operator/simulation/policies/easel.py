"""``easel``: the operator's own observation and planner, and the autoscaler that it writes.

The operator looks every two seconds. Where nothing has happened since it last looked (no request came, none ended, no
pod changed), the simulation lets it look again only when the cluster's autoscaler is about to, or after
``quiet_seconds``: what it decides then is what its own code decides, and only the clock has moved on.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from easel_contract import metrics, names
from easel_contract.resource import ScalingSpec, StableDiffusionServiceSpec

from easel_operator.autoscaling.counters import CounterReading
from easel_operator.autoscaling.observation import Observation, PodMetrics, PodSample, QueueReading, observe
from easel_operator.autoscaling.planner import Plan, begin_state, plan
from easel_operator.autoscaling.replay.bank import Bank
from easel_operator.autoscaling.replay.feed import build_load
from easel_operator.autoscaling.workers import PodCounts, WorkerPod
from easel_operator.decide.scaling_mode import ScalingMode, decide_mode
from easel_operator.decide.snapshot import Capabilities
from easel_operator.manifests.hpa import build_hpa
from easel_operator.manifests.metadata import ChildContext, Owner, Release
from easel_operator.simulation.fleet import Fleet
from easel_operator.simulation.hpa.controller import Memory, step
from easel_operator.simulation.hpa.proposals import Sight
from easel_operator.simulation.hpa.spec import AutoscalerSpec, ControllerSettings
from easel_operator.simulation.pod import PodState
from easel_operator.simulation.policies.interface import FIRST_TICK_SECONDS, next_multiple

OPERATOR_TICK_SECONDS: Final = 2.0  # config.scrape_interval_seconds
BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)

_OWNER: Final = Owner("default", "simulated", "simulated")
_BOUNDS: Final = (*metrics.LATENCY_BUCKETS_SECONDS, math.inf)


@dataclass(frozen=True, slots=True)
class EaselSettings:
    """How the operator and the cluster's autoscaler are run."""

    tick_seconds: float = OPERATOR_TICK_SECONDS
    quiet_seconds: float = 10.0  # it looks at least this often
    kubernetes_minor: int = 37
    autoscaler_period_seconds: float = 15.0
    autoscaler_phase_seconds: float = 0.0
    known_cold_start_seconds: float | None = None  # measured before the trace begins; None: the operator has seen none


class EaselPolicy:
    """Scrape, observe, plan, publish; and the HPA controller on what was published."""

    def __init__(
        self, name: str, spec: StableDiffusionServiceSpec, scaling: ScalingSpec, settings: EaselSettings, initial: int
    ) -> None:
        self.name = name
        self.initial_replicas = initial
        self.plan: Plan | None = None  # the last one, for those who ask why
        self._scaling, self._settings = scaling, settings
        self._autoscaler, self._controller, self._mode = _build_cluster(spec, scaling, settings)
        self._memory = Memory()
        known = settings.known_cold_start_seconds
        self._history = begin_state(initial, BEGIN, cold_starts_seconds=() if known is None else (known,))
        self.bank = Bank(scaling, self._history.cold_starts.median_seconds)
        self._observation: Observation | None = None
        self._published: Mapping[str, int | None] = {}
        self._workers: dict[int, WorkerPod] = {}
        self._seen_changes = -1
        self._looked_at = -math.inf
        self._operator_at = FIRST_TICK_SECONDS
        self._step_at = next_multiple(
            settings.autoscaler_period_seconds, settings.autoscaler_phase_seconds, FIRST_TICK_SECONDS - 1e-9
        )

    @property
    def next_tick_at(self) -> float:
        """The operator's, or the autoscaler's."""
        return min(self._step_at, self._operator_at)

    def tick(self, fleet: Fleet, now: float) -> int | None:
        """Where both fall together the operator is first."""
        replicas = None
        if now >= self._operator_at:
            self._operator_at = next_multiple(self._settings.tick_seconds, 0.0, now)
            is_quiet = fleet.changes == self._seen_changes and self._operator_at <= self._step_at
            if not is_quiet or now - self._looked_at >= self._settings.quiet_seconds:
                replicas = self._operate(fleet, now)
        if self._mode is ScalingMode.AUTOSCALER and now >= self._step_at:
            replicas = self._autoscale(fleet, now)
        if now >= self._step_at:
            self._step_at = next_multiple(
                self._settings.autoscaler_period_seconds, self._settings.autoscaler_phase_seconds, now
            )
        return replicas

    def _operate(self, fleet: Fleet, now: float) -> int | None:
        self._seen_changes, self._looked_at = fleet.changes, now
        at = BEGIN + timedelta(seconds=now)
        pods = PodCounts(
            desired=fleet.replicas,
            existing=fleet.replicas,
            ready=fleet.ready,
            starting=fleet.starting,
            unschedulable=0,
            workers=self._list_workers(fleet),
        )
        self._observation = observe(self._scrape(fleet, at, now), self._observation, pods, at)
        self.bank.follow(self._scaling, self._history.cold_starts.median_seconds)
        load = build_load(self._observation, self._history.foreknown_replicas, self._scaling.target_latency_seconds)
        if load is not None:
            self.bank.watch(load)
        self.plan = plan(self._observation, self._history, self._scaling, at, self.bank.choice)
        self._history = self.plan.state
        # The operator publishes raw figures too; its autoscalers read the proposals only.
        self._published = {name: replicas * 1000 for name, replicas in self.plan.proposals.items()}
        if self.plan.desired_replicas < fleet.replicas:
            fleet.write_deletion_costs()
        return self.plan.desired_replicas if self._mode is ScalingMode.DIRECT else None

    def _autoscale(self, fleet: Fleet, now: float) -> int:
        sight = Sight(
            spec_replicas=fleet.replicas,
            status_replicas=fleet.replicas,
            external_milli=self._published,
            ready_pods=fleet.ready + len(fleet.draining),
        )
        decision = step(self._autoscaler, sight, self._memory, self._controller, now)
        self._memory = decision.memory
        return decision.replicas

    def _list_workers(self, fleet: Fleet) -> tuple[WorkerPod, ...]:
        """As the API server lists them; kept from tick to tick, since most are the same."""
        known, self._workers = self._workers, {}
        for serial, pod in fleet.pods.items():
            worker = known.get(serial)
            is_ready = pod.state is not PodState.STARTING
            if worker is None or is_ready != (worker.ready_at is not None):
                ready_at = BEGIN + timedelta(seconds=pod.ready_at) if is_ready else None
                worker = WorkerPod(str(serial), BEGIN + timedelta(seconds=pod.created_at), ready_at)
            self._workers[serial] = worker
        return tuple(self._workers.values())

    def _scrape(self, fleet: Fleet, at: datetime, now: float) -> tuple[PodSample, ...]:
        """What the pods would report. One sample carries the sum of all workers' counters, which is all that is asked
        of them. Predictions of work are exact here."""
        queue = QueueReading(
            waiting=len(fleet.waiting),
            running=fleet.running,
            oldest_waiting_age_seconds=fleet.measure_oldest_waiting_seconds(now),
            waiting_gpu_seconds=max(0.0, fleet.waiting_work_seconds),
            running_gpu_seconds=fleet.measure_running_work_seconds(now),
            waiting_bounded_gpu_seconds=max(0.0, fleet.waiting_bounded_seconds),
            running_bounded_gpu_seconds=fleet.measure_running_bounded_seconds(now),
            overrunning=fleet.count_overrunning(now),
        )
        submitted = CounterReading(
            submitted=fleet.arrived,
            predicted_gpu_seconds=fleet.arrived_work_seconds,
            bounded_gpu_seconds=fleet.arrived_bounded_seconds,
        )
        done = CounterReading(
            finished=fleet.finished,
            work_gpu_seconds=fleet.finished_work_seconds,
            latency_buckets=_cumulate(fleet.latency_counts),
        )
        return (
            PodSample("gateway", names.COMPONENT_GATEWAY, at, PodMetrics(True, queue, None, submitted)),
            PodSample("workers", names.COMPONENT_WORKER, at, PodMetrics(True, queue, fleet.running or None, done)),
        )


def _build_cluster(
    spec: StableDiffusionServiceSpec, scaling: ScalingSpec, settings: EaselSettings
) -> tuple[AutoscalerSpec, ControllerSettings, ScalingMode]:
    """The autoscaler as the operator would write it there, and who writes the number of pods."""
    of_release = ControllerSettings.of_release(settings.kubernetes_minor)
    controller = ControllerSettings(
        period_seconds=settings.autoscaler_period_seconds,
        is_scale_to_zero_enabled=of_release.is_scale_to_zero_enabled,
        is_tolerance_configurable=of_release.is_tolerance_configurable,
    )
    capabilities = Capabilities(
        is_metrics_api_ours=True,
        metrics_api_note="",
        is_scale_to_zero_supported=controller.is_scale_to_zero_enabled,
        is_tolerance_supported=controller.is_tolerance_configurable,
    )
    context = ChildContext(_OWNER, spec, Release(worker_image="", gateway_image="", redis_url=""), grace_seconds=0)
    manifest = build_hpa(context, scaling, is_tolerance_supported=controller.is_tolerance_configurable)
    mode = decide_mode(spec.model_copy(update={"scaling": scaling}), capabilities).mode
    return AutoscalerSpec.from_manifest(manifest["spec"]), controller, mode


def _cumulate(counts: list[int]) -> dict[float, float]:
    total, buckets = 0, {}
    for bound, count in zip(_BOUNDS, counts, strict=True):
        total += count
        buckets[bound] = float(total)
    return buckets
