"""What a soak will do, drawn from its seed: the requests of all customers, and who is killed when. Pure."""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

CUSTOMERS: Final = {"alice": 1, "bob": 1, "carol": 3}  # with their weights
JOBS_A_KILL: Final = 20
MIN_KILLS: Final = 8
SIDES_PIXELS: Final = (64, 64, 64, 128)  # mostly alike, so that workers make batches
CANCEL_SHARE: Final = 0.1
WEBHOOK_SHARE: Final = 0.5
WAIT_SHARE: Final = 0.5  # the others look now and then
EQUAL_SHARE: Final = 0.25  # ask for what was asked for before, with its seed: a flight or the cache
REFUSED_SHARE: Final = 0.05  # of webhooks: the receiver refuses the first attempt


class Victim(StrEnum):
    """What is killed."""

    WORKER = "worker"
    GATEWAY = "gateway"
    REDIS = "redis"


@dataclass(frozen=True)
class PlannedJob:
    """One request."""

    id: str
    customer: str
    input: dict[str, Any]
    has_webhook: bool
    is_webhook_refused_once: bool
    is_canceled: bool
    waits: bool


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
    planned: list[PlannedJob] = []
    for number in range(jobs):
        equal = chance.choice(planned).input if planned and chance.random() < EQUAL_SHARE else None
        planned.append(
            PlannedJob(
                id=f"soak-{seed}-{number}",
                customer=chance.choice(list(CUSTOMERS)),
                input=equal or _draw_input(chance, number),
                has_webhook=chance.random() < WEBHOOK_SHARE,
                is_webhook_refused_once=chance.random() < REFUSED_SHARE,
                is_canceled=chance.random() < CANCEL_SHARE,
                waits=chance.random() < WAIT_SHARE,
            )
        )
    return Plan(seed, tuple(planned), _draw_kills(chance, jobs))


def _draw_input(chance: random.Random, number: int) -> dict[str, Any]:
    side = chance.choice(SIDES_PIXELS)
    return {
        "prompt": f"picture {number}",
        "width": side,
        "height": side,
        "num_inference_steps": 4,
        "num_outputs": chance.choice((1, 1, 2)),
        "seed": chance.randrange(2**31),
    }


def _draw_kills(chance: random.Random, jobs: int) -> tuple[Kill, ...]:
    """Spread over the run; each kind is killed at least twice."""
    count = max(MIN_KILLS, jobs // JOBS_A_KILL)
    victims = [*Victim, *Victim, *chance.choices(list(Victim), k=count - 2 * len(Victim))]
    chance.shuffle(victims)
    moments = sorted(chance.sample(range(jobs * 9 // 10), count))
    return tuple(Kill(moment, victim, chance.randrange(100)) for moment, victim in zip(moments, victims, strict=True))
