"""The cluster's autoscaler on raw metrics: ``hpa-queue``, ``hpa-gpu-utilisation``, ``keda-queue``.

Metrics that come by way of Prometheus are as old as its last scrape: with the usual 15 s for both the scrape and the
controller, the age is the same at every tick. The Prometheus adapter asks Prometheus anew at each query.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final, Protocol

from easel_operator.simulation.fleet import Fleet
from easel_operator.simulation.hpa.controller import Memory, step
from easel_operator.simulation.hpa.proposals import PodReading, Sight
from easel_operator.simulation.hpa.spec import AutoscalerSpec, ControllerSettings
from easel_operator.simulation.pod import PodState
from easel_operator.simulation.policies.interface import FIRST_TICK_SECONDS, next_multiple

QUEUE_METRIC: Final = "queue"
UTILISATION_METRIC: Final = "utilisation"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a scrape found: one number for the service, or one per pod, in thousandths."""

    external_milli: int = 0
    by_pod_milli: dict[int, int] | None = None


class Probe(Protocol):
    """Takes a reading at each scrape."""

    def read(self, fleet: Fleet, now: float) -> Reading:
        """The figures of this moment."""
        ...


class QueueProbe:
    """Requests waiting, and running unless reported otherwise."""

    def __init__(self, *, counts_running: bool = True) -> None:
        self._counts_running = counts_running

    def read(self, fleet: Fleet, _now: float) -> Reading:
        """One number for the service."""
        return Reading(1000 * (fleet.depth if self._counts_running else len(fleet.waiting)))


class UtilisationProbe:
    """The busy share of each pod's GPU since the last scrape, in thousandths of a percent; a loading pod's is 0."""

    def __init__(self) -> None:
        self._last: dict[int, float] = {}
        self._last_at = 0.0

    def read(self, fleet: Fleet, now: float) -> Reading:
        """One number per pod that existed at the last scrape, or since."""
        busy = {serial: pod.measure_busy_seconds(now) for serial, pod in fleet.pods.items()}
        elapsed = now - self._last_at
        shares = {
            serial: round(100_000 * (seconds - self._last.get(serial, 0.0)) / elapsed) if elapsed > 0 else 0
            for serial, seconds in busy.items()
        }
        self._last, self._last_at = busy, now
        return Reading(by_pod_milli=shares)


class Autoscaler:
    """The controller's period, and the readings that it sees late."""

    def __init__(
        self,
        name: str,
        spec: AutoscalerSpec,
        controller: ControllerSettings,
        probe: Probe,
        initial_replicas: int,
        *,
        age_seconds: float,
        phase_seconds: float = 0.0,
    ) -> None:
        self.name = name
        self.initial_replicas = initial_replicas
        self._spec, self._controller, self._probe = spec, controller, probe
        self._age_seconds, self._phase_seconds = age_seconds, phase_seconds
        self._memory = Memory()
        self._readings: deque[tuple[float, Reading]] = deque()
        self._step_at = FIRST_TICK_SECONDS + phase_seconds
        self._read_at = max(0.0, self._step_at - age_seconds)

    @property
    def next_tick_at(self) -> float:
        """A scrape or a look of the controller, whichever comes first."""
        return min(self._step_at, self._read_at)

    def tick(self, fleet: Fleet, now: float) -> int | None:
        """Scrape, or let the controller decide, or both."""
        if now >= self._read_at:
            self._readings.append((now, self._probe.read(fleet, now)))
            phase = self._phase_seconds - self._age_seconds
            self._read_at = next_multiple(self._controller.period_seconds, phase, now)
        if now < self._step_at:
            return None
        self._step_at = next_multiple(self._controller.period_seconds, self._phase_seconds, now)
        decision = step(self._spec, self._look(fleet, now), self._memory, self._controller, now)
        self._memory = decision.memory
        return decision.replicas

    def _look(self, fleet: Fleet, now: float) -> Sight:
        visible = now - self._age_seconds + 1e-6
        while len(self._readings) > 1 and self._readings[1][0] <= visible:
            self._readings.popleft()
        reading = self._readings[0][1] if self._readings and self._readings[0][0] <= visible else None
        external = None if reading is None else reading.external_milli
        return Sight(
            spec_replicas=fleet.replicas,
            status_replicas=fleet.replicas,
            external_milli={QUEUE_METRIC: external},
            pods=() if reading is None or reading.by_pod_milli is None else list_pods(fleet, reading.by_pod_milli),
            ready_pods=fleet.ready + len(fleet.draining),
        )


def list_pods(fleet: Fleet, utilisation_milli: dict[int, int]) -> list[PodReading]:
    """The pods as the controller lists them. A pod that loads its model is Running: its containers have started."""
    return [
        PodReading(
            str(serial),
            is_ready=pod.state is not PodState.STARTING,
            values_milli={UTILISATION_METRIC: utilisation_milli[serial]} if serial in utilisation_milli else {},
        )
        for serial, pod in fleet.pods.items()
    ]


class KedaAutoscaler:
    """KEDA: wakes and puts to sleep at its own polls; between one pod and the maximum an autoscaler of its own scales.

    https://keda.sh/docs/latest/reference/scaledobject-spec/: cooldownPeriod applies to the way to zero only, and goes
    there from any number of pods. The autoscaler asks KEDA's metrics server, which asks the queue itself.
    """

    def __init__(
        self, name: str, autoscaler: Autoscaler, *, polling_seconds: float, cooldown_seconds: float, min_replicas: int
    ) -> None:
        self.name = name
        self.initial_replicas = autoscaler.initial_replicas
        self._autoscaler = autoscaler
        self._polling_seconds, self._cooldown_seconds = polling_seconds, cooldown_seconds
        self._min_replicas = min_replicas
        self._active_at = 0.0
        self._poll_at = FIRST_TICK_SECONDS

    @property
    def next_tick_at(self) -> float:
        """A poll, or the autoscaler's."""
        return min(self._poll_at, self._autoscaler.next_tick_at)

    def tick(self, fleet: Fleet, now: float) -> int | None:
        """Where both fall together the poll has the last word."""
        replicas = None
        if now >= self._autoscaler.next_tick_at:
            replicas = self._autoscaler.tick(fleet, now)
        if now >= self._poll_at:
            self._poll_at = next_multiple(self._polling_seconds, 0.0, now)
            polled = self._poll(fleet, now)
            replicas = polled if polled is not None else replicas
        return replicas

    def _poll(self, fleet: Fleet, now: float) -> int | None:
        if fleet.depth > 0:
            self._active_at = now
            return max(1, self._min_replicas) if fleet.replicas == 0 else None
        is_cool = now - self._active_at >= self._cooldown_seconds
        return 0 if self._min_replicas == 0 and fleet.replicas > 0 and is_cool else None
