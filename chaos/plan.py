"""What a run will do, from its seed: when each request arrives, and what is done to the cluster when. Pure."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from chaos.requests import PlannedJob, plan_jobs

LEAD_SECONDS: Final = 30.0  # of load alone, before the first fault and after the last one
QUIET_SECONDS: Final = 90.0  # without a request before a burst, so that the service goes to zero workers


class FaultKind(StrEnum):
    """What is done to the cluster."""

    WORKER_KILLED = "worker killed"
    GATEWAY_KILLED = "gateway killed"
    NODE_DRAINED = "GPU node drained"
    NODE_RECLAIMED = "spot node reclaimed"
    NODE_LOST = "GPU node lost"
    REDIS_KILLED = "Redis killed"
    REDIS_NODE_LOST = "Redis' master lost with its node"
    OPERATOR_KILLED = "operator killed"
    API_SERVER_RESTARTED = "API server restarted"
    ETCD_RESTARTED = "etcd restarted"
    METRICS_AWAY = "external metrics API away"
    ROLLOUT_FAILED = "roll-out that fails"
    CHART_UPGRADED = "chart upgraded"
    BURST = "burst from zero"


# Until the next fault, so that what this one does is seen apart.
SPANS_SECONDS: Final = {
    FaultKind.WORKER_KILLED: 40.0,
    FaultKind.GATEWAY_KILLED: 40.0,
    FaultKind.NODE_DRAINED: 80.0,
    FaultKind.NODE_RECLAIMED: 110.0,
    FaultKind.NODE_LOST: 120.0,
    FaultKind.REDIS_KILLED: 60.0,
    FaultKind.REDIS_NODE_LOST: 130.0,
    FaultKind.OPERATOR_KILLED: 50.0,
    FaultKind.API_SERVER_RESTARTED: 70.0,
    FaultKind.ETCD_RESTARTED: 60.0,
    FaultKind.METRICS_AWAY: 80.0,
    FaultKind.ROLLOUT_FAILED: 160.0,
    FaultKind.CHART_UPGRADED: 120.0,
    FaultKind.BURST: QUIET_SECONDS + 60.0,
}


@dataclass(frozen=True)
class PlannedFault:
    """One, in seconds since the run began."""

    at_seconds: float
    kind: FaultKind
    number: int  # which of the pods or nodes that it may hit, modulo how many there are


@dataclass(frozen=True)
class Form:
    """How a run is."""

    kinds: tuple[FaultKind, ...]
    jobs_per_second: float  # at the most, bursts apart
    burst_jobs: int
    span_share: float = 1.0  # of SPANS_SECONDS and LEAD_SECONDS

    @property
    def lead(self) -> float:
        """Seconds before the first fault, and after the last one."""
        return self.span_share * LEAD_SECONDS

    def select(self, only: str) -> "Form":
        """Of its faults, those whose names have one of these parts (``drained|Redis``); all without any."""
        parts = only.split("|")
        return replace(self, kinds=tuple(kind for kind in self.kinds if any(part in kind for part in parts)))

    def span(self, kind: FaultKind) -> float:
        """Seconds from such a fault to the next."""
        return self.span_share * SPANS_SECONDS[kind]

    def length(self, jobs: int) -> float:
        """Seconds: as many as the jobs take, and as each kind of fault takes once, at the least."""
        return max(jobs / self.jobs_per_second, 2 * self.lead + sum(map(self.span, self.kinds)))


FORMS: Final = {
    "long": Form(tuple(FaultKind), jobs_per_second=25.0, burst_jobs=150),
    # What the tests' own cluster can bear beside other tests.
    "short": Form(
        (
            FaultKind.WORKER_KILLED,
            FaultKind.GATEWAY_KILLED,
            FaultKind.REDIS_KILLED,
            FaultKind.OPERATOR_KILLED,
            FaultKind.NODE_LOST,
        ),
        jobs_per_second=5.0,
        burst_jobs=0,
        span_share=0.25,
    ),
}


@dataclass(frozen=True)
class Plan:
    """A whole run."""

    seed: int
    seconds: float
    jobs: tuple[PlannedJob, ...]
    arrivals: tuple[float, ...]  # a moment for each job, in order
    faults: tuple[PlannedFault, ...]


def plan_run(form: Form, seed: int, jobs: int) -> Plan:
    """The same for the same form, seed and number of jobs."""
    chance = random.Random(seed)  # noqa: S311  # to be repeated, not to be kept secret
    seconds = form.length(jobs)
    faults = tuple(_plan_faults(chance, form, seconds))
    arrivals = _plan_arrivals(chance, form, seconds, faults, jobs)
    return Plan(seed, seconds, plan_jobs(chance, f"chaos-{seed}", jobs), arrivals, faults)


def _plan_faults(chance: random.Random, form: Form, seconds: float) -> Iterator[PlannedFault]:
    """Each kind once in an order by chance, then again, as long as there is time for the next one."""
    moment = form.lead
    for _ in itertools.count():
        for kind in chance.sample(form.kinds, len(form.kinds)):
            if moment + form.span(kind) > seconds - form.lead + 1e-6:
                return
            yield PlannedFault(round(moment, 1), kind, chance.randrange(100))
            moment += form.span(kind)


def _plan_arrivals(
    chance: random.Random, form: Form, seconds: float, faults: tuple[PlannedFault, ...], jobs: int
) -> tuple[float, ...]:
    """Requests come by chance at a steady rate, none while it is quiet before a burst, and a burst's at once."""
    quiet = [fault.at_seconds for fault in faults if fault.kind is FaultKind.BURST]
    bursts = [moment + QUIET_SECONDS for moment in quiet for _ in range(form.burst_jobs)][:jobs]
    busy_seconds = seconds - QUIET_SECONDS * len(quiet)
    moments = sorted(chance.uniform(0.0, busy_seconds) for _ in range(jobs - len(bursts)))
    return tuple(sorted([*(_leave_out(moment, quiet) for moment in moments), *bursts]))


def _leave_out(moment: float, quiet: list[float]) -> float:
    """The same moment where time stands still while it is quiet."""
    for begin in quiet:
        if moment >= begin:
            moment += QUIET_SECONDS
    return round(moment, 3)
