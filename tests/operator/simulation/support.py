"""Small services and traces, and a policy that follows a script."""

import math
import random
from collections.abc import Iterable, Sequence

from easel_contract.resource import QueueOrder, StableDiffusionServiceSpec
from easel_operator.simulation.fleet import Fleet
from easel_operator.simulation.settings import ColdStart, Settings
from easel_operator.simulation.trace import Trace, build_trace


def build_settings(
    *,
    cold_start: float = 10.0,
    spread: float = 0.0,
    grace: int = 60,
    seed: int = 0,
    order: QueueOrder = QueueOrder.FIRST_COME_FIRST_SERVED,
    **scaling: int,
) -> Settings:
    spec = {
        "model": {"source": {"huggingFace": {"repository": "some/model"}}},
        "worker": {"terminationGracePeriodSeconds": grace},
        "scaling": {"min_replicas": 0, "max_replicas": 50, "queue_order": order, **scaling},
    }
    return Settings(StableDiffusionServiceSpec.model_validate(spec), ColdStart(cold_start, spread), seed)


def build_poisson_trace(seconds: float, rate: float, work: float, seed: int) -> Trace:
    """Arrivals by chance at a constant rate; work between half and one and a half times ``work``."""
    source = random.Random(seed)  # noqa: S311 - replayed by its seed
    at, requests = 0.0, []
    while (at := at + source.expovariate(rate)) < seconds:
        requests.append((at, work * source.uniform(0.5, 1.5)))
    return build_trace(requests, seconds)


def build_bursty_trace(seed: int, bursts: int = 12, size: int = 12, work: float = 4.0) -> Trace:
    """Bursts of requests within seconds, minutes apart."""
    source = random.Random(seed)  # noqa: S311 - replayed by its seed
    requests, at = [], 0.0
    for _ in range(bursts):
        at += source.uniform(60.0, 900.0)
        requests += [(at + source.uniform(0.0, 30.0), work * source.uniform(0.5, 1.5)) for _ in range(size)]
    return build_trace(requests)


class ScriptedPolicy:
    """Sets so many replicas at such a second; marks idle pods first where reported so."""

    def __init__(self, initial: int, script: Iterable[tuple[float, int]], *, marks_idle: bool = False) -> None:
        self.name = "scripted"
        self.initial_replicas = initial
        self._script: Sequence[tuple[float, int]] = sorted(script)
        self._marks_idle = marks_idle
        self._next = 0

    @property
    def next_tick_at(self) -> float:
        return self._script[self._next][0] if self._next < len(self._script) else math.inf

    def tick(self, fleet: Fleet, now: float) -> int | None:
        self._next += 1
        if self._marks_idle:
            fleet.write_deletion_costs()
        return self._script[self._next - 1][1]
