"""The customers: each request is repeated until it is answered, as a careful client does."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx2

from chaos.ledger import Entry, Ledger
from chaos.observations import Observations, describe
from chaos.requests import api_key

REQUEST_TIMEOUT_SECONDS: Final = 10.0
WAIT_SECONDS: Final = 5  # of a request with Prefer: wait
JITTER: Final = 0.5
OK: Final = frozenset({200, 201})
NOT_NOW: Final = frozenset({429, 500, 502, 503, 504, 507})
LOST: Final = "request_lost"  # of a 503: nobody knows the request any more


@dataclass(frozen=True)
class Pace:
    """How customers behave."""

    at_a_time: int = 24  # requests under way, of all together
    pause_seconds: float = 0.1  # between looks, and before the first repetition
    max_pause_seconds: float = 0.1  # pauses double until then
    max_retry_after_seconds: float = 0.0  # as long as that they wait where the answer says so
    again_after_seconds: float | None = None  # a last look at each job, so long after its end was seen


class Customers:
    """All of them, with one connection pool."""

    def __init__(
        self, urls: list[str], ledger: Ledger, webhook_url: Callable[[str], str], seed: int, pace: Pace | None = None
    ) -> None:
        self._urls = urls
        self._ledger = ledger
        self._webhook_url = webhook_url
        self._chance = random.Random(seed)  # noqa: S311  # which gateway is asked, and how long a pause is
        self._pace = pace or Pace()
        self._free = asyncio.Semaphore(self._pace.at_a_time)
        self._began = time.monotonic()
        self.observations = Observations()
        self.internal_errors: list[str] = []

    async def run(self, arrivals: Sequence[float] = (), began: float | None = None) -> None:
        """See every job to its end. Each begins at its moment of ``arrivals`` (seconds after ``began``), or at once."""
        self._began = began or self._began
        moments = arrivals or [0.0] * len(self._ledger.entries)
        limits = httpx2.Limits(max_connections=2 * self._pace.at_a_time)
        async with (
            httpx2.AsyncClient(timeout=REQUEST_TIMEOUT_SECONDS, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            for moment, entry in zip(moments, self._ledger.entries.values(), strict=True):
                await asyncio.sleep(max(0.0, moment - self._now()))
                group.create_task(self._see_through(client, entry))

    async def look_again(self) -> None:
        """One more look at each job: its end must still be the same."""
        async with httpx2.AsyncClient(timeout=REQUEST_TIMEOUT_SECONDS) as client:
            for entry in self._ledger.entries.values():
                await self._look(client, entry)

    def _now(self) -> float:
        return time.monotonic() - self._began

    async def _see_through(self, client: httpx2.AsyncClient, entry: Entry) -> None:
        arrived = self._now()
        async with self._free:
            await self._see_to_its_end(client, entry)
            if entry.ends:
                self.observations.note_end(self._now(), self._now() - arrived)
            if entry.has_succeeded:
                entry.images = await self._count_images(client, entry)
        if self._pace.again_after_seconds is not None and entry.ends:
            await asyncio.sleep(self._pace.again_after_seconds)
            await self._look(client, entry)

    async def _see_to_its_end(self, client: httpx2.AsyncClient, entry: Entry) -> None:
        await self._create(client, entry)
        if entry.planned.is_canceled:
            await self._ask(client, entry, "POST", "/cancel")
        while not entry.ends and not entry.gone:
            if entry.planned.waits:
                await self._create(client, entry, {"Prefer": f"wait={WAIT_SECONDS}"})
            else:
                await asyncio.sleep(self._pace.pause_seconds)
                await self._look(client, entry)

    async def _create(self, client: httpx2.AsyncClient, entry: Entry, headers: dict[str, str] | None = None) -> None:
        planned = entry.planned
        body: dict[str, Any] = {"input": planned.input}
        if planned.has_webhook:
            body |= {"webhook": self._webhook_url(planned.id), "webhook_events_filter": ["start", "completed"]}
        await self._ask(client, entry, "PUT", "", headers, body)
        entry.accepted = True

    async def _look(self, client: httpx2.AsyncClient, entry: Entry) -> None:
        await self._ask(client, entry, "GET", "")

    async def _count_images(self, client: httpx2.AsyncClient, entry: Entry) -> int:
        count = entry.planned.input["num_outputs"]
        answers = [await self._repeat(client, entry, "GET", f"/output/{number}") for number in range(count)]
        return sum(answer.status_code == 200 for answer in answers)

    async def _ask(
        self,
        client: httpx2.AsyncClient,
        entry: Entry,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> None:
        answer = await self._repeat(client, entry, method, path, headers, body)
        if answer.status_code in OK:
            self._ledger.note_look(entry, answer.json())
        else:
            entry.gone.append(f"{method} {path or 'itself'} was answered {answer.status_code}: {answer.text[:300]}")

    async def _repeat(
        self,
        client: httpx2.AsyncClient,
        entry: Entry,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
    ) -> httpx2.Response:
        """The first answer that is one, from whichever gateway gives it."""
        authorization = {"Authorization": f"Bearer {api_key(entry.planned.customer)}"}
        pause_seconds = self._pace.pause_seconds
        while True:
            url = f"{self._chance.choice(self._urls)}/v1/predictions/{entry.planned.id}{path}"
            answer: httpx2.Response | None = None
            with suppress(httpx2.TransportError):  # a killed gateway: nothing is known, so the same again
                answer = await client.request(method, url, json=body, headers=authorization | (headers or {}))
            self.observations.note_answer(self._now(), describe(answer))
            if answer is not None and answer.status_code == 500:
                self.internal_errors.append(f"{method} {path}: {answer.text[:300]}")
            if answer is not None and answer.status_code not in NOT_NOW:
                return answer
            if answer is not None and entry.accepted and LOST in answer.text:
                entry.gone.append(f"{method} {path or 'itself'}: it was accepted, and had to be sent again")
            await asyncio.sleep(self._find_pause(answer, pause_seconds))
            pause_seconds = min(2 * pause_seconds, self._pace.max_pause_seconds)

    def _find_pause(self, answer: httpx2.Response | None, pause_seconds: float) -> float:
        said = answer.headers.get("retry-after", "") if answer is not None else ""
        wanted = min(float(said), self._pace.max_retry_after_seconds) if said.isdigit() else 0.0
        return max(wanted, pause_seconds) * (1 + JITTER * self._chance.random())
