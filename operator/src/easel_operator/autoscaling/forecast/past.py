"""What was forecast before a restart, from the past that a Prometheus has kept."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from easel_operator.autoscaling.counters import CounterReading
from easel_operator.autoscaling.forecast.forecast import Forecast
from easel_operator.autoscaling.work import Arrivals


class PastStep(NamedTuple):
    """What a service's gateways accepted within a stretch of time. Between one step and the next nobody looked."""

    until: float  # Unix time
    seconds: float
    jobs: int
    gpu_seconds: float


def replay_forecast(steps: Sequence[PastStep], cold_start_seconds: float, target_seconds: float) -> Forecast:
    """As if the operator had watched all the while. Of a step's jobs each is taken to be as long as their mean."""
    forecast, arrivals = Forecast(), Arrivals()
    for step in steps:
        bounded = min(step.gpu_seconds, step.jobs * target_seconds)
        arrivals = arrivals.measure(CounterReading(step.jobs, step.gpu_seconds, bounded), step.seconds)
        at = datetime.fromtimestamp(step.until, UTC)
        forecast = forecast.watch(arrivals, at, cold_start_seconds, target_seconds)
    return forecast
