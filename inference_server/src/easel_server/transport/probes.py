"""What Kubernetes, Prometheus and the operator ask of every role: /healthz, /readyz, /metrics."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, Final

from easel_contract import names
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel

from easel_server.gateway.refusals import refuse_private_path
from easel_server.stores.errors import StoreError, StoreEvictsError
from easel_server.stores.images.interface import ImageStore

PING_TIMEOUT_SECONDS = 1.0  # less than the probe's own time-out, so that the probe hears why


class ReadyReason(StrEnum):
    """One word for why a process is ready or not."""

    AVAILABLE = "Available"
    LOADING = "Loading"
    DRAINING = "Draining"
    REDIS_UNAVAILABLE = "RedisUnavailable"
    REDIS_EVICTS = "RedisEvicts"  # not ready: this doesn't pass by itself, and a rollout shall stop at it
    IMAGE_STORE_FULL = "ImageStoreFull"  # ready: results can be fetched, smaller requests may fit, and room comes back
    REDIS_FULL = "RedisFull"  # ready: requests under way go on, and results can be fetched
    BUCKET_UNAVAILABLE = "BucketUnavailable"  # ready: jobs wait for it, and a restart wouldn't bring it back


READY: Final = {
    ReadyReason.AVAILABLE,
    ReadyReason.IMAGE_STORE_FULL,
    ReadyReason.REDIS_FULL,
    ReadyReason.BUCKET_UNAVAILABLE,
}


@dataclass(frozen=True)
class ReadyState:
    """The answer to a readiness probe."""

    reason: ReadyReason
    message: str
    was_reached: bool = False  # the store, by this process, before it was away

    @property
    def is_ready(self) -> bool:
        """Whether requests, or jobs, should come here.

        In an outage of the store they should: the answer, 503 and when to come back, is better than none, and a worker
        that waits for work is no lost one. Not before the store was reached once: a rollout to a wrong address stops.
        """
        return self.reason in READY or (self.reason is ReadyReason.REDIS_UNAVAILABLE and self.was_reached)


async def look_at_nothing() -> None:
    """Nothing is wrong."""


async def look_at_room(
    images: ImageStore, is_out_of_memory: Callable[[], bool], *, takes_requests: bool
) -> ReadyState | None:
    """What is wrong with the place for images, or with Redis' memory; how full they are concerns who takes requests."""
    if images.problem is not None:
        return ReadyState(ReadyReason.BUCKET_UNAVAILABLE, images.problem)
    if not takes_requests:
        return None
    if is_out_of_memory():
        return ReadyState(
            ReadyReason.REDIS_FULL,
            "new requests are refused: Redis has used its maxmemory; raise it, or lower gateway.results and "
            "gateway.cache of the services that share it",
        )
    usage = await images.usage()
    if not usage.is_full:
        return None
    return ReadyState(ReadyReason.IMAGE_STORE_FULL, f"new requests are refused: {usage.describe()}")


class Readiness:
    """What keeps this process from taking work. ``main`` holds and lifts; the store is asked at each look."""

    def __init__(
        self,
        ping: Callable[[], Awaitable[None]],
        look_at_room: Callable[[], Awaitable[ReadyState | None]] = look_at_nothing,
    ) -> None:
        """``look_at_room`` says what is wrong with the room for new requests, if anything is."""
        self._ping = ping
        self._look_at_room = look_at_room
        self._find_stall: Callable[[], str | None] = lambda: None
        self._holds: dict[ReadyReason, str] = {}
        self._was_reached = False

    def watch_life(self, find_stall: Callable[[], str | None]) -> None:
        """``find_stall`` says what only a restart will mend; None while nothing is like that."""
        self._find_stall = find_stall

    def find_stall(self) -> str | None:
        """Why this process should be restarted, in a sentence."""
        return self._find_stall()

    def hold(self, reason: ReadyReason, message: str) -> None:
        """Not ready, for this reason, until it is lifted."""
        self._holds[reason] = message

    def lift(self, reason: ReadyReason) -> None:
        """This reason holds no longer."""
        self._holds.pop(reason, None)

    async def look(self) -> ReadyState:
        """The state now; takes at most PING_TIMEOUT_SECONDS."""
        # Draining outranks the rest: it doesn't pass.
        for reason in (ReadyReason.DRAINING, ReadyReason.LOADING):
            if reason in self._holds:
                return ReadyState(reason, self._holds[reason])
        try:
            async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                await self._ping()
                self._was_reached = True
                problem = await self._look_at_room()
        except TimeoutError:
            message = f"Redis did not answer within {PING_TIMEOUT_SECONDS:g} s"
            return ReadyState(ReadyReason.REDIS_UNAVAILABLE, message, self._was_reached)
        except StoreEvictsError as error:
            return ReadyState(ReadyReason.REDIS_EVICTS, str(error))
        except StoreError as error:
            return ReadyState(ReadyReason.REDIS_UNAVAILABLE, str(error), self._was_reached)
        return problem or ReadyState(ReadyReason.AVAILABLE, "takes work")


PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"

# The process's metrics in Prometheus' text format, with the labels that say whose they are (True) or without; reads the
# queue's figures from the store first.
RenderMetrics = Callable[[bool], Awaitable[bytes]]


class ReadyAnswer(BaseModel):
    """Whether work is taken."""

    ready: bool
    reason: ReadyReason
    message: str


def add_probe_routes(
    router: APIRouter, readiness: Readiness | None = None, render_metrics: RenderMetrics | None = None
) -> None:
    """/healthz, which says nothing, and what else is given; the rest says where it is."""

    async def healthz(request: Request) -> PlainTextResponse:
        """The process is alive. A missing Redis doesn't count: a restart wouldn't bring it back."""
        del request
        if readiness is not None and (stall := readiness.find_stall()) is not None:
            return PlainTextResponse(f"{stall}\n", status_code=503)
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> JSONResponse:
        """Whether work is taken, and if not, why."""
        if readiness is None:
            raise refuse_private_path(request.url.path)
        state = await readiness.look()
        content = {"ready": state.is_ready, "reason": state.reason, "message": state.message}
        return JSONResponse(content, status_code=200 if state.is_ready else 503)

    async def metrics(request: Request) -> Response:
        """Prometheus' text format."""
        if render_metrics is None:
            raise refuse_private_path(request.url.path)
        is_bare = names.METRICS_QUERY_BARE.items() <= dict(request.query_params).items()
        return Response(await render_metrics(not is_bare), media_type=PROMETHEUS_TEXT)

    answers: dict[int | str, dict[str, Any]] = {200: {"model": ReadyAnswer}, 503: {"model": ReadyAnswer}}
    tags: list[str | Enum] = ["Probes"]
    router.add_api_route(names.PATH_HEALTH, healthz, tags=tags, response_class=PlainTextResponse)
    router.add_api_route(
        names.PATH_READY, readyz, tags=tags, responses=answers, include_in_schema=readiness is not None
    )
    router.add_api_route(
        names.PATH_METRICS,
        metrics,
        tags=tags,
        response_class=PlainTextResponse,
        include_in_schema=render_metrics is not None,
    )
