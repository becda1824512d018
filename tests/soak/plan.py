"""What a soak will do, drawn from its seed: the requests of all customers, and who is killed when. Pure."""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from chaos.requests import PlannedJob, plan_jobs

JOBS_A_KILL: Final = 20
MIN_KILLS: Final = 8


class Victim(StrEnum):
    """What is killed."""

    WORKER = "worker"
    GATEWAY = "gateway"
    REDIS = "redis"


@dataclass(frozen=True)
class Kill:
    """SIGKILL for one process, once so many jobs have ended."""

    after_jobs: int
    victim: Victim
    number: int  # which of its kind, modulo how many there are


@dataclass(frozen=True)
class Plan:
    """A whole soak."""

    seed: int
    jobs: tuple[PlannedJob, ...]
    kills: tuple[Kill, ...]


def draw_plan(seed: int, jobs: int) -> Plan:
    """The same for the same seed and number of jobs."""
    chance = random.Random(seed)  # noqa: S311  # to be repeated, not to be kept secret
    planned = plan_jobs(chance, f"soak-{seed}", jobs)
    return Plan(seed, planned, _draw_kills(chance, jobs))


def _draw_kills(chance: random.Random, jobs: int) -> tuple[Kill, ...]:
    """Spread over the run; each kind is killed at least twice."""
    count = max(MIN_KILLS, jobs // JOBS_A_KILL)
    victims = [*Victim, *Victim, *chance.choices(list(Victim), k=count - 2 * len(Victim))]
    chance.shuffle(victims)
    moments = sorted(chance.sample(range(jobs * 9 // 10), count))
    return tuple(Kill(moment, victim, chance.randrange(100)) for moment, victim in zip(moments, victims, strict=True))
