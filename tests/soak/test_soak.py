"""Jobs run while gateways, workers and Redis are killed by SIGKILL: none is lost, none ends twice, all webhooks arrive.

Which requests are made and who is killed when follows from a seed, which a failure prints: ``SOAK_SEED=… make soak``
plans the same again (processes still race each other differently). ``make test`` runs a short form.
"""

import asyncio
import json
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
from standardwebhooks import Webhook

from tests.soak.customers import Customers
from tests.soak.ledger import Ledger
from tests.soak.plan import Plan, draw_plan
from tests.soak.world import WEBHOOK_SECRET, World
from tests.support.eventually import eventually
from tests.support.http_receiver import HttpReceiver, Received

SHORT_JOBS: Final = 150
SECONDS_A_JOB: Final = 2.0  # how long everything may take at the most, on a machine that others use too
STARTING_SECONDS: Final = 120.0
WEBHOOK_SECONDS: Final = 120.0
JOB_IN_PATH: Final = re.compile(r"POST /(\S+) ")


def chosen_seed() -> int:
    return int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(10**6))


@pytest.fixture
def plan() -> Plan:
    plan = draw_plan(chosen_seed(), int(os.environ.get("SOAK_JOBS") or SHORT_JOBS))
    sys.stdout.write(f"SOAK_SEED={plan.seed} SOAK_JOBS={len(plan.jobs)}\n")  # shown if the test fails
    return plan


class Receiver:
    """Checks signatures, refuses some deliveries once, and notes the others in the ledger."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._to_refuse = {planned.id for planned in plan.jobs if planned.is_webhook_refused_once}
        self._ledger = ledger
        self._webhook = Webhook(WEBHOOK_SECRET)
        self.errors: list[str] = []

    def answer(self, received: Received) -> str:
        try:
            return self._note(received)
        except Exception as error:  # it would be lost in the receiver's own task
            self.errors.append(f"{received.request_line}: {error!r}")
            return "400 Bad Request"

    def _note(self, received: Received) -> str:
        self._webhook.verify(received.body, received.headers)
        found = JOB_IN_PATH.match(received.request_line)
        assert found is not None
        if found[1] in self._to_refuse:
            self._to_refuse.remove(found[1])
            return "503 Service Unavailable"
        self._ledger.note_webhook(found[1], received.headers["webhook-id"], json.loads(received.body))
        return "200 OK"


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
    receiver = Receiver(plan, ledger)
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
    assert ledger.find_faults() == []
    assert customers.internal_errors == [], "\n".join(world.exceptions)
    assert receiver.errors == []
    assert unfinished == {"Waiting": 0, "Running": 0}


async def read_unfinished(url: str) -> dict[str, int] | None:
    """What is counted as unfinished; None while nobody can say."""
    async with httpx2.AsyncClient() as client:
        try:
            text = (await client.get(f"{url}/metrics")).text
        except httpx2.TransportError:
            return None
    found = re.findall(r'easel_queue_depth\{state="(\w+)"\} ([0-9.]+)', text)
    return {state: int(float(count)) for state, count in found}
