"""The customers as a process in the cluster's network: ``devcluster exec -- python -m chaos.clients …``.

Sees the planned load through, receives its webhooks, asks for what nobody may have, and writes what it saw into a file.
"""

import argparse
import asyncio
import base64
import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import httpx2

from chaos.customers import Customers, Pace
from chaos.ledger import Ledger
from chaos.observations import Observations
from chaos.plan import FORMS, Plan, plan_run
from chaos.receiver import WebhookChecks
from chaos.requests import CUSTOMERS, api_key
from tests.support.http_receiver import HttpReceiver

WEBHOOK_SECRET: Final = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes....").decode()
# Good clients: they wait as long as they are asked to, and longer each time where nobody says how long.
PACE: Final = Pace(
    at_a_time=256, pause_seconds=0.3, max_pause_seconds=5.0, max_retry_after_seconds=30.0, again_after_seconds=20.0
)
WEBHOOK_SECONDS: Final = 240.0  # for the last of them: three attempts that fail take up to three minutes
FOREIGN_SECONDS: Final = 0.5  # between two requests that must not be served
PROGRESS_SECONDS: Final = 10.0


def main() -> int:
    """Exit code 0, whatever was seen."""
    parser = argparse.ArgumentParser(prog="chaos.clients", description=__doc__)
    parser.add_argument("--url", required=True, help="of the Service")
    parser.add_argument("--receiver", required=True, help="address that the gateways reach")
    parser.add_argument("--form", choices=FORMS, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument(
        "--began", type=float, required=True, help="the run's beginning, on the machine's monotonic clock"
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    plan = plan_run(FORMS[arguments.form].select(arguments.only), arguments.seed, arguments.jobs)
    record = asyncio.run(see_through(plan, arguments.url, arguments.receiver, arguments.began))
    arguments.output.write_text(json.dumps(record))
    return 0


async def see_through(plan: Plan, url: str, receiver: str, began: float) -> dict[str, Any]:
    """The whole load. ``began``: the run's beginning, on the machine's monotonic clock."""
    ledger = Ledger(plan.jobs)
    checks = WebhookChecks(WEBHOOK_SECRET, plan.jobs, ledger)
    async with HttpReceiver(checks.answer, host=receiver, keeps=False) as http:
        customers = Customers([url], ledger, lambda job: f"http://{receiver}:{http.port}/{job}", plan.seed, PACE)
        others = [
            asyncio.create_task(ask_for_what_is_not_theirs(url, ledger, customers.observations)),
            asyncio.create_task(show_progress(ledger, customers.observations)),
        ]
        await customers.run(plan.arrivals, began)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await _await_webhooks(ledger)
    return {
        "counts": ledger.count(),
        "broken": [[str(broken.promise), broken.sentence] for broken in ledger.find_broken()],
        "receiver_errors": checks.errors,
        "internal_errors": customers.internal_errors,
        "observations": customers.observations.to_record(),
    }


async def _await_webhooks(ledger: Ledger) -> None:
    with suppress(TimeoutError):  # the ledger says which are missing
        async with asyncio.timeout(WEBHOOK_SECONDS):
            while ledger.missing_webhooks():  # noqa: ASYNC110  # over all jobs, so now and then
                await asyncio.sleep(1)


async def ask_for_what_is_not_theirs(url: str, ledger: Ledger, observations: Observations) -> None:
    """Until cancelled: requests without a key, with a wrong one, and for jobs of other customers."""
    async with httpx2.AsyncClient(base_url=url, timeout=10) as client:
        for name, method, path, key, body in _list_foreign(ledger):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            try:
                answer = await client.request(method, path, headers=headers, json=body)
            except httpx2.TransportError:
                observations.foreign_asked[f"{name}: no answer"] += 1
            else:
                observations.foreign_asked[f"{name}: {answer.status_code}"] += 1
                if answer.is_success:
                    observations.foreign_served.append(f"{name}: {method} {path} was answered {answer.status_code}")
            await asyncio.sleep(FOREIGN_SECONDS)


def _list_foreign(ledger: Ledger) -> Iterator[tuple[str, str, str, str, dict[str, Any] | None]]:
    """Endless: what it is, method, path, key and body."""
    body = {"input": {"prompt": "not theirs", "width": 64, "height": 64, "num_inference_steps": 1}}
    names = list(CUSTOMERS)
    for number, entry in enumerate(cycle(ledger.entries.values())):
        planned = entry.planned
        other = api_key(names[(names.index(planned.customer) + 1) % len(names)])
        path = f"/v1/predictions/{planned.id}"
        yield "no key", "GET", path, "", None
        yield "wrong key", "PUT", f"/v1/predictions/foreign-{number}", "key-of-nobody", body
        yield "wrong key", "POST", "/v1/images/generations", "key-of-nobody", {"prompt": "not theirs"}
        yield "another customer's", "GET", path, other, None
        yield "another customer's", "GET", f"{path}/output/0", other, None


async def show_progress(ledger: Ledger, observations: Observations) -> None:
    """Until cancelled: a line now and then."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        accepted = sum(entry.accepted for entry in ledger.entries.values())
        line = f"{accepted} accepted, {len(observations.finished_at)} finished"
        sys.stderr.write(f"  clients [{time.monotonic() - began:6.1f} s] {line}\n")


if __name__ == "__main__":
    sys.exit(main())
