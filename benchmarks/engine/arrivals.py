"""Jobs that arrive by themselves, a Poisson process from a seed, and what became of them. Pure."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from easel_server.generation.parameters import GenerationParameters

from benchmarks.server.samples import percentile

MIXED_STEPS: Final = (4, 6, 10)  # 20, 30 and 50 at a fifth

BuildJob = Callable[[int, int], GenerationParameters]  # of a seed and a count of steps


@dataclass(frozen=True)
class Arrival:
    """A job and when it comes, in seconds from the beginning."""

    at_seconds: float
    parameters: GenerationParameters


def build_arrivals(build: BuildJob, *, jobs: int, jobs_per_second: float | None, seed: int) -> list[Arrival]:
    """Jobs of MIXED_STEPS in equal shares. All at once without a rate."""
    chance = random.Random(seed)  # noqa: S311
    at_seconds, arrivals = 0.0, []
    for number in range(jobs):
        if jobs_per_second is not None:
            at_seconds += chance.expovariate(jobs_per_second)
        arrivals.append(Arrival(at_seconds, build(number, chance.choice(MIXED_STEPS))))
    return arrivals


@dataclass(frozen=True)
class Service:
    """What a way to batch did with some arrivals."""

    latencies_seconds: tuple[float, ...]  # from a job's arrival to its encoded images
    seconds: float  # from the first arrival to the last end

    @property
    def jobs_per_second(self) -> float:
        """Of all of them."""
        return len(self.latencies_seconds) / self.seconds


def summarize_latencies(services: Sequence[Service]) -> dict[str, Any]:
    """Percentiles over all jobs of all rounds, in milliseconds."""
    latencies = [each for service in services for each in service.latencies_seconds]
    return {
        "p50_milliseconds": round(percentile(latencies, 50) * 1000, 1),
        "p95_milliseconds": round(percentile(latencies, 95) * 1000, 1),
    }
