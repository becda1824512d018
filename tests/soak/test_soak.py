"""Jobs run while gateways, workers and Redis are killed by SIGKILL: none is lost, none ends twice, all webhooks arrive.

Which requests are made and who is killed when follows from a seed, which a failure prints: ``SOAK_SEED=… make soak``
plans the same again (processes still race each other differently). ``make test`` runs a short form.
"""

import asyncio
import os
import random
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import httpx2
import pytest

from chaos.customers import Customers
from chaos.ledger import Ledger
from chaos.receiver import WebhookChecks
from tests.soak.plan import Plan, draw_plan
from tests.soak.world import WEBHOOK_SECRET, World
from tests.support.eventually import eventually
from tests.support.http_receiver import HttpReceiver

SHORT_JOBS: Final = 150
SECONDS_A_JOB: Final = 2.0  # how long everything may take at the most, on a machine that others use too
STARTING_SECONDS: Final = 120.0
WEBHOOK_SECONDS: Final = 120.0


def chosen_seed() -> int:
    return int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(10**6))


@pytest.fixture
def plan() -> Plan:
    plan = draw_plan(chosen_seed(), int(os.environ.get("SOAK_JOBS") or SHORT_JOBS))
    sys.stdout.write(f"SOAK_SEED={plan.seed} SOAK_JOBS={len(plan.jobs)}\n")  # shown if the test fails
    return plan


def limit_seconds(plan: Plan) -> float:
    return STARTING_SECONDS + SECONDS_A_JOB * len(plan.jobs)


async def until(condition: Callable[[], bool], timeout_seconds: float) -> None:
    async def ask() -> bool:
        return condition()

    await eventually(ask, timeout_seconds)


async def kill_as_planned(plan: Plan, world: World, ledger: Ledger) -> None:
    for kill in plan.kills:
        await until(partial(ledger.has_ended, kill.after_jobs), limit_seconds(plan))
        await world.kill(kill)


@pytest.mark.redis
@pytest.mark.slow
async def test_nothing_is_lost_and_nothing_ends_twice_while_processes_are_killed(plan: Plan, tmp_path: Path) -> None:
    ledger = Ledger(plan.jobs)
    receiver = WebhookChecks(WEBHOOK_SECRET, plan.jobs, ledger)
    with World(tmp_path) as world:
        async with HttpReceiver(receiver.answer) as http:
            customers = Customers(world.urls, ledger, lambda job: f"http://127.0.0.1:{http.port}/{job}", plan.seed)
            killing = asyncio.create_task(kill_as_planned(plan, world, ledger))
            async with asyncio.timeout(limit_seconds(plan)):
                await customers.run()
                await killing
            await until(lambda: not ledger.missing_webhooks(), WEBHOOK_SECONDS)
            await customers.look_again()
            unfinished = await eventually(lambda: read_unfinished(world.metrics_url))

    sys.stdout.write(f"killed: {', '.join(world.killed)}\n")
    assert ledger.find_broken() == []
    assert customers.internal_errors == [], "\n".join(world.exceptions)
    assert receiver.errors == []
    assert unfinished == {"Waiting": 0, "Running": 0}


async def read_unfinished(url: str) -> dict[str, int] | None:
    """What is counted as unfinished; None while nobody can say."""
    async with httpx2.AsyncClient() as client:
        try:
            text = (await client.get(f"{url}/metrics?labels=none")).text
        except httpx2.TransportError:
            return None
    found = re.findall(r'easel_queue_depth\{state="(\w+)"\} ([0-9.]+)', text)
    return {state: int(float(count)) for state, count in found}


def test_the_same_seed_makes_the_same_plan() -> None:
    assert draw_plan(7, 200) == draw_plan(7, 200)
    assert draw_plan(7, 200) != draw_plan(8, 200)
