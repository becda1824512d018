"""What the customers ask for, from a chance that somebody else has seeded. Pure."""

import random
from dataclasses import dataclass
from typing import Any, Final

CUSTOMERS: Final = {"alice": 1, "bob": 1, "carol": 3}  # with their weights
SIDES_PIXELS: Final = (64, 64, 64, 128)  # mostly alike, so that workers make batches
CANCEL_SHARE: Final = 0.1
WEBHOOK_SHARE: Final = 0.5
WAIT_SHARE: Final = 0.5  # the others look now and then
EQUAL_SHARE: Final = 0.25  # ask for what was asked for before, with its seed: a flight or the cache
REFUSED_SHARE: Final = 0.05  # of webhooks: the receiver refuses the first attempt


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


def api_key(customer: str) -> str:
    """A customer's."""
    return f"key-of-{customer}"


def build_keys() -> dict[str, str]:
    """The Secret of the customers' keys: a value for each."""
    return {
        customer: f'{{"keys": ["{api_key(customer)}"], "weight": {weight}}}' for customer, weight in CUSTOMERS.items()
    }


def plan_jobs(chance: random.Random, name: str, count: int) -> tuple[PlannedJob, ...]:
    """So many, whose ids begin with ``name``."""
    planned: list[PlannedJob] = []
    for number in range(count):
        equal = chance.choice(planned).input if planned and chance.random() < EQUAL_SHARE else None
        planned.append(
            PlannedJob(
                id=f"{name}-{number}",
                customer=chance.choice(list(CUSTOMERS)),
                input=equal or _plan_input(chance, number),
                has_webhook=chance.random() < WEBHOOK_SHARE,
                is_webhook_refused_once=chance.random() < REFUSED_SHARE,
                is_canceled=chance.random() < CANCEL_SHARE,
                waits=chance.random() < WAIT_SHARE,
            )
        )
    return tuple(planned)


def _plan_input(chance: random.Random, number: int) -> dict[str, Any]:
    side = chance.choice(SIDES_PIXELS)
    return {
        "prompt": f"picture {number}",
        "width": side,
        "height": side,
        "num_inference_steps": 4,
        "num_outputs": chance.choice((1, 1, 2)),
        "seed": chance.randrange(2**31),
    }
