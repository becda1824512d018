"""The customers of a soak: each request is repeated until it is answered, as a careful client does."""

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

import httpx2

from tests.soak.ledger import Entry, Ledger
from tests.soak.world import api_key

AT_A_TIME: Final = 24
REQUEST_TIMEOUT_SECONDS: Final = 10.0
PAUSE_SECONDS: Final = 0.1  # between attempts and between looks
WAIT_SECONDS: Final = 5  # of a request with Prefer: wait
OK: Final = frozenset({200, 201})
NOT_NOW: Final = frozenset({429, 500, 502, 503, 504})


class Customers:
    """All of them, with one connection pool."""

    def __init__(self, urls: list[str], ledger: Ledger, webhook_url: Callable[[str], str], seed: int) -> None:
        self._urls = urls
        self._ledger = ledger
        self._webhook_url = webhook_url
        self._chance = random.Random(seed)  # noqa: S311  # which gateway is asked
        self._free = asyncio.Semaphore(AT_A_TIME)
        self.internal_errors: list[str] = []

    async def run(self) -> None:
        """See every job to its end."""
        async with httpx2.AsyncClient(timeout=REQUEST_TIMEOUT_SECONDS) as client, asyncio.TaskGroup() as group:
            for entry in self._ledger.entries.values():
                group.create_task(self._see_through(client, entry))

    async def look_again(self) -> None:
        """One more look at each job: its end must still be the same."""
        async with httpx2.AsyncClient(timeout=REQUEST_TIMEOUT_SECONDS) as client:
            for entry in self._ledger.entries.values():
                await self._look(client, entry)

    async def _see_through(self, client: httpx2.AsyncClient, entry: Entry) -> None:
        async with self._free:
            await self._create(client, entry)
            if entry.planned.is_canceled:
                await self._ask(client, entry, "POST", "/cancel")
            while not entry.ends and not entry.gone:
                if entry.planned.waits:
                    await self._create(client, entry, {"Prefer": f"wait={WAIT_SECONDS}"})
                else:
                    await asyncio.sleep(PAUSE_SECONDS)
                    await self._look(client, entry)
            if any(end.status == "succeeded" for end in entry.ends):
                entry.images = await self._fetch_images(client, entry)

    async def _create(self, client: httpx2.AsyncClient, entry: Entry, headers: dict[str, str] | None = None) -> None:
        planned = entry.planned
        body: dict[str, Any] = {"input": planned.input}
        if planned.has_webhook:
            body |= {"webhook": self._webhook_url(planned.id), "webhook_events_filter": ["start", "completed"]}
        await self._ask(client, entry, "PUT", "", headers, body)
        entry.accepted = True

    async def _look(self, client: httpx2.AsyncClient, entry: Entry) -> None:
        await self._ask(client, entry, "GET", "")

    async def _fetch_images(self, client: httpx2.AsyncClient, entry: Entry) -> tuple[bytes, ...]:
        count = entry.planned.input["num_outputs"]
        answers = [await self._repeat(client, entry, "GET", f"/output/{number}") for number in range(count)]
        return tuple(answer.content for answer in answers if answer.status_code == 200)

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
            entry.looks.append(answer.json())
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
        while True:
            url = f"{self._chance.choice(self._urls)}/v1/predictions/{entry.planned.id}{path}"
            try:
                answer = await client.request(method, url, json=body, headers=authorization | (headers or {}))
            except httpx2.TransportError:
                pass  # a killed gateway: nothing is known, so the same again
            else:
                if answer.status_code == 500:
                    self.internal_errors.append(f"{method} {path}: {answer.text[:300]}")
                if answer.status_code not in NOT_NOW:
                    return answer
            await asyncio.sleep(PAUSE_SECONDS)
