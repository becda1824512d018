"""Loads for a bank, from requests drawn by a seed."""

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from easel_contract.resource import ScalingSpec
from easel_operator.autoscaling.counters import CounterReading
from easel_operator.autoscaling.replay.bank import Bank, Load
from easel_operator.autoscaling.work import Arrivals

HOUR = 3600.0
COLD_START_SECONDS = 90.0
TICK_SECONDS = 2.0

Requests = Sequence[tuple[float, float]]  # (at, GPU-seconds), in order


def build_scaling(**values: Any) -> ScalingSpec:
    return ScalingSpec.model_validate({"min_replicas": 0, "max_replicas": 50, **values})


def draw_steady(rate: float, seconds: float, work: float = 5.0, seed: int = 1) -> Requests:
    source = random.Random(seed)  # noqa: S311 - replayed by its seed
    at, requests = 0.0, []
    while (at := at + source.expovariate(rate)) < seconds:
        requests.append((at, work * source.uniform(0.5, 1.5)))
    return requests


def draw_bursts(seconds: float, seed: int = 1, *, pause: float = 600.0, jobs: float = 40.0) -> Requests:
    """A burst of a minute now and then, and a little between."""
    source = random.Random(seed)  # noqa: S311 - replayed by its seed
    requests = list(draw_steady(0.1, seconds, seed=seed + 1))
    at = 0.0
    while (at := at + source.expovariate(1 / pause)) < seconds:
        requests += [
            (at + source.uniform(0, 60), source.uniform(2, 8)) for _ in range(round(source.expovariate(1 / jobs)))
        ]
    return sorted(requests)


def to_loads(requests: Requests, seconds: float, tick_seconds: float = TICK_SECONDS) -> Iterator[Load]:
    """As the operator sees them."""
    arrivals, come = Arrivals(), 0
    for tick in range(1, int(seconds / tick_seconds) + 1):
        before = come
        while come < len(requests) and requests[come][0] <= tick * tick_seconds:
            come += 1
        work = sum(each[1] for each in requests[before:come])
        arrivals = arrivals.measure(CounterReading(submitted=come - before, predicted_gpu_seconds=work), tick_seconds)
        yield Load(tick_seconds, come - before, work, arrivals.gpu_seconds_per_second, arrivals.job.mean_seconds)


def feed(bank: Bank, loads: Iterable[Load]) -> Bank:
    for load in loads:
        bank.watch(load)
    return bank


def replay(requests: Requests, seconds: float, **scaling: Any) -> Bank:
    return feed(Bank(build_scaling(**scaling), COLD_START_SECONDS), to_loads(requests, seconds))
