"""Sides that take turns: what else the machine does meets all of them, and a ratio is taken within each round."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.server.samples import summarize


@dataclass(frozen=True)
class Times:
    """What one turn took."""

    cpu_seconds: float  # of all threads of this process: other work on the machine hardly touches it
    wall_seconds: float


def take_turn(side: Callable[[], object]) -> Times:
    """Once. Garbage of others is collected before, not within."""
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    side()
    return Times(time.process_time() - cpu, time.perf_counter() - wall)


def take_rounds(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[Times]]:
    """Each side once a round, after a turn that isn't counted; who begins changes from round to round."""
    for side in sides.values():
        side()
    taken: dict[str, list[Times]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            taken[name].append(take_turn(sides[name]))
    return taken


def compare(taken: Mapping[str, list[Times]], one: str, other: str) -> dict[str, Any]:
    """What ``one`` takes as a share of what ``other`` takes, within each round."""
    pairs = list(zip(taken[one], taken[other], strict=True))
    return {
        "by_cpu": summarize([a.cpu_seconds / b.cpu_seconds for a, b in pairs]).to_record(4),
        "by_wall": summarize([a.wall_seconds / b.wall_seconds for a, b in pairs]).to_record(4),
    }
