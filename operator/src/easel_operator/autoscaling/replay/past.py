"""What was known before a restart, from the past that a Prometheus has kept: the forecast, and the shadow fleets."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.counters import CounterReading
from easel_operator.autoscaling.forecast.forecast import Forecast, ForecastInput, find_due_burst
from easel_operator.autoscaling.replay.bank import MEMORY_SECONDS, Bank, Load, Memory
from easel_operator.autoscaling.work import Arrivals
from easel_operator.autoscaling.workers import StartUp

SHADOWS_SECONDS: Final = MEMORY_SECONDS  # what is older counts for little


class PastStep(NamedTuple):
    """What a service's gateways accepted within a stretch of time. Between one step and the next nobody looked."""

    until: float  # Unix time
    seconds: float
    jobs: int
    gpu_seconds: float


@dataclass(frozen=True, slots=True)
class PastTerms:
    """By what the past is replayed: the service as it is now."""

    scaling: ScalingSpec
    start_up: StartUp
    memory: Memory | None  # what status says of the shadow fleets


def replay_past(steps: Sequence[PastStep], terms: PastTerms) -> tuple[Forecast, Bank]:
    """As if the operator had watched all the while. Of a step's jobs each is taken to be as long as their mean."""
    cold_start_seconds, target = terms.start_up.cold_start_seconds, terms.scaling.target_latency_seconds
    forecast, arrivals = Forecast(), Arrivals()
    bank = Bank(terms.scaling, cold_start_seconds, terms.memory)
    shadows_from = steps[-1].until - SHADOWS_SECONDS if steps else 0.0
    for step in steps:
        bounded = min(step.gpu_seconds, step.jobs * target)
        arrivals = arrivals.measure(CounterReading(step.jobs, step.gpu_seconds, bounded), step.seconds)
        at = datetime.fromtimestamp(step.until, UTC)
        if step.until > shadows_from:
            due = find_due_burst(forecast.bursts, ForecastInput(at, terms.start_up, arrivals, terms.scaling))
            bank.watch(_build_load(step, bounded, arrivals, 0 if due is None else due.passing))
        forecast = forecast.watch(arrivals, at, cold_start_seconds, target)
    return forecast, bank


def _build_load(step: PastStep, bounded: float, arrivals: Arrivals, floor: int) -> Load:
    return Load(
        seconds=step.seconds,
        jobs=step.jobs,
        gpu_seconds=bounded,
        excess_gpu_seconds=step.gpu_seconds - bounded,
        busy_pods=arrivals.gpu_seconds_per_second,
        job_seconds=arrivals.job.mean_seconds,
        floor=floor,
    )
