"""Loads of one kind each, on which a planner that is good on average can fail. Drawn by a seed, simulated as a whole:
nothing was tuned on them. Pure.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from easel_operator.simulation.trace import Trace, build_trace

SEED: Final = 1
MAX_REPLICAS: Final = 50
HOUR: Final = 3600.0
PARETO_SECONDS: Final = 400.0  # the longest job of a load whose mean would be that of its few longest

Requests = Iterator[tuple[float, float]]  # arrival, work
Work = Callable[[random.Random], float]


@dataclass(frozen=True, slots=True)
class Shape:
    """A load, and what it may come to at a cold start of 90 s and a target of 30 s."""

    sentence: str
    draw: Callable[[random.Random], Requests]
    goal_gpu_hours: float | None  # None: nothing was promised
    goal_late_percent: float | None = None  # None: lateness can't be cured there, or isn't the point
    max_replicas: int = MAX_REPLICAS

    def build(self) -> Trace:
        """The requests."""
        return build_trace(self.draw(random.Random(SEED)))  # noqa: S311 - replayed by its seed


def _arrive(source: random.Random, rate: float, begin: float, end: float, work: Work) -> Requests:
    """By chance at ``rate`` requests a second."""
    at = begin
    while (at := at + source.expovariate(rate)) < end:
        yield at, work(source)


def _take(seconds: float) -> Work:
    return lambda _source: seconds


def _draw_flash(source: random.Random) -> Requests:
    yield from _arrive(source, 15.0, 0.0, 180.0, _take(3.0))
    yield from _arrive(source, 0.03, 180.0, 72 * HOUR, _take(3.0))


def _draw_full_hours(_source: random.Random) -> Requests:
    return ((hour * HOUR, 4.0) for hour in range(7 * 24) for _ in range(200))


def _draw_pairs(_source: random.Random) -> Requests:
    return ((pair * 1200.0, 20.0) for pair in range(3 * 72) for _ in range(2))


def _draw_pareto(source: random.Random) -> Requests:
    yield from _arrive(source, 0.5, 0.0, 24 * HOUR, lambda at: min(at.paretovariate(1.2), PARETO_SECONDS))


def _draw_hundredfold(source: random.Random) -> Requests:
    yield from _arrive(source, 0.2, 0.0, 24 * HOUR, lambda at: 400.0 if at.random() < 0.01 else 4.0)


def _draw_square(source: random.Random) -> Requests:
    for period in range(30):
        yield from _arrive(source, 2.0, period * 1200.0, period * 1200.0 + 600.0, _take(5.0))


def _draw_hourly(source: random.Random) -> Requests:
    yield from _arrive(source, 1 / HOUR, 0.0, 10 * 24 * HOUR, _take(5.0))


def _draw_step(source: random.Random) -> Requests:
    yield from _arrive(source, 0.2, 0.0, 2 * HOUR, _take(5.0))
    yield from _arrive(source, 2.0, 2 * HOUR, 4 * HOUR, _take(5.0))


def _draw_constant(source: random.Random) -> Requests:
    yield from _arrive(source, 4.0, 0.0, 4 * HOUR, _take(5.0))


def _draw_steep(source: random.Random) -> Requests:
    """Thinned: of arrivals at the highest rate, those that the rate of the moment lets through."""
    for at, work in _arrive(source, 32.0, 0.0, 1500.0, _take(2.0)):
        if source.random() * 32.0 < 4.0 + 28.0 * min(1.0, at / 420.0):
            yield at, work


SHAPES: Final[Mapping[str, Shape]] = {
    "flash": Shape("15 requests a second for 3 minutes, then one in 33 s for three days; 3 s each", _draw_flash, 80),
    "full hours": Shape("200 requests at each full hour, for a week; 4 s each", _draw_full_hours, 180),
    "pairs": Shape("two requests every 20 minutes, for three days; 20 s each", _draw_pairs, None),
    "Pareto": Shape("one request in 2 s for a day; 1 to 400 s each, Pareto with exponent 1.2", _draw_pareto, 90, 5),
    "hundredfold": Shape("one request in 5 s for a day; 4 s each, 1 % of them 400 s", _draw_hundredfold, 125),
    "square": Shape("10 minutes of 2 requests a second, 10 of none, for ten hours; 5 s each", _draw_square, 130, 5),
    "one an hour": Shape("one request an hour by chance, for ten days; 5 s each", _draw_hourly, 10),
    "step": Shape("one request in 5 s for two hours, then ten times as many for two; 5 s each", _draw_step, 30),
    "constant": Shape("4 requests a second for four hours; 5 s each: 20 pods", _draw_constant, 91),
    "steep start": Shape(
        "from 4 to 32 requests a second in 7 minutes, 25 in all; 2 s each", _draw_steep, None, max_replicas=100
    ),
}
