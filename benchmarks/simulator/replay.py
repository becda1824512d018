"""Sends a trace as predictions, each at its own time whatever the answers are, and collects how each one went."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import httpx2

from benchmarks.simulator.workload import Request

TIMEOUT_SECONDS: Final = 30.0
POLL_SECONDS: Final = 1.0
MAX_REST_SECONDS: Final = 300.0  # after the trace's end, for what still waits


class ReplayError(Exception):
    """A request wasn't taken, or didn't end well: the run says nothing."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """How one request went."""

    sent_at: float  # seconds since the trace began, on the client's clock
    submitted_at: float  # likewise; from here on by the server's own timestamps
    started_at: float
    finished_at: float

    @property
    def latency_seconds(self) -> float:
        """From submitted to finished."""
        return self.finished_at - self.submitted_at

    @property
    def run_seconds(self) -> float:
        """From the claim of its only attempt to its end."""
        return self.finished_at - self.started_at


async def replay(url: str, requests: Sequence[Request], began_at: float) -> list[Replayed]:
    """Replay a trace that begins at ``began_at`` (seconds since the epoch) through a gateway; waits for all to end.

    Raises ReplayError.
    """
    limits = httpx2.Limits(max_connections=64)
    async with httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS, limits=limits) as client:
        sent = await asyncio.gather(*(_send_at(client, request, began_at) for request in requests))
        last = began_at + max((request.at_seconds for request in requests), default=0.0)
        return [await _collect(client, prediction, at, began_at, last) for at, prediction in sent]


async def send_burst(url: str, requests: Sequence[Request]) -> tuple[float, list[str]]:
    """All at once: when the first was sent (seconds since the epoch), and the predictions' addresses."""
    async with httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS) as client:
        began_at = time.time()
        answers = await asyncio.gather(*(_create(client, request) for request in requests))
        return began_at, [answer["id"] for answer in answers]


async def cancel_all(url: str, ids: Sequence[str]) -> None:
    """Cancels predictions; those that are over stay as they are."""
    async with httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_SECONDS) as client:
        await asyncio.gather(*(client.post(f"/v1/predictions/{each}/cancel") for each in ids))


async def _send_at(client: httpx2.AsyncClient, request: Request, began_at: float) -> tuple[float, str]:
    await asyncio.sleep(max(0.0, began_at + request.at_seconds - time.time()))
    sent_at = time.time()
    answer = await _create(client, request)
    return sent_at - began_at, str(answer["id"])


async def _create(client: httpx2.AsyncClient, request: Request) -> dict[str, Any]:
    answer = await client.post("/v1/predictions", json=request.to_body())
    if answer.status_code != httpx2.codes.CREATED:
        raise ReplayError(f"POST /v1/predictions: {answer.status_code} {answer.text[:500]}, 201 was expected")
    created: dict[str, Any] = answer.json()
    return created


async def _collect(
    client: httpx2.AsyncClient, prediction: str, sent_at: float, began_at: float, last: float
) -> Replayed:
    while True:
        answer = await client.get(f"/v1/predictions/{prediction}")
        answer.raise_for_status()
        body = answer.json()
        if body["completed_at"] is not None:
            break
        if time.time() > last + MAX_REST_SECONDS:
            raise ReplayError(f"prediction {prediction} is {body['status']} {MAX_REST_SECONDS:.0f} s after the last")
        await asyncio.sleep(POLL_SECONDS)
    if body["status"] != "succeeded":
        raise ReplayError(f"prediction {prediction} {body['status']}: {body['error']}")
    submitted, started, finished = (
        datetime.fromisoformat(body[name]).timestamp() - began_at
        for name in ("created_at", "started_at", "completed_at")
    )
    return Replayed(sent_at, submitted, started, finished)
