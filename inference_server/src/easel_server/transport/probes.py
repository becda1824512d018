"""What Kubernetes, Prometheus and the operator ask of every role: /healthz, /readyz, /metrics."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from easel_contract import names
from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel

from easel_server.stores.errors import StoreError

PING_TIMEOUT_SECONDS = 1.0  # less than the probe's own time-out, so that the probe hears why


class ReadyReason(StrEnum):
    """One word for why a process is ready or not."""

    AVAILABLE = "Available"
    LOADING = "Loading"
    DRAINING = "Draining"
    REDIS_UNAVAILABLE = "RedisUnavailable"


@dataclass(frozen=True)
class ReadyState:
    """The answer to a readiness probe."""

    reason: ReadyReason
    message: str

    @property
    def is_ready(self) -> bool:
        """Whether work is taken."""
        return self.reason is ReadyReason.AVAILABLE


class Readiness:
    """What keeps this process from taking work. ``main`` holds and lifts; the broker is asked at each look."""

    def __init__(self, ping: Callable[[], Awaitable[None]]) -> None:
        self._ping = ping
        self._holds: dict[ReadyReason, str] = {}

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
        except TimeoutError:
            message = f"the broker did not answer within {PING_TIMEOUT_SECONDS:g} s"
            return ReadyState(ReadyReason.REDIS_UNAVAILABLE, message)
        except StoreError as error:
            return ReadyState(ReadyReason.REDIS_UNAVAILABLE, str(error))
        return ReadyState(ReadyReason.AVAILABLE, "takes work")


PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"

# The process's metrics in Prometheus' text format; reads the queue's figures from the broker first.
RenderMetrics = Callable[[], Awaitable[bytes]]


class ReadyAnswer(BaseModel):
    """Whether work is taken."""

    ready: bool
    reason: ReadyReason
    message: str


def build_probe_router(readiness: Readiness, render_metrics: RenderMetrics) -> APIRouter:
    """The three routes."""
    router = APIRouter(tags=["Probes"])

    @router.get(names.PATH_HEALTH, response_class=PlainTextResponse)
    async def healthz() -> PlainTextResponse:
        """The process is alive. A missing broker doesn't count: a restart wouldn't bring it back."""
        return PlainTextResponse("ok\n")

    @router.get(names.PATH_READY, responses={200: {"model": ReadyAnswer}, 503: {"model": ReadyAnswer}})
    async def readyz() -> JSONResponse:
        """Whether work is taken, and if not, why."""
        state = await readiness.look()
        content = {"ready": state.is_ready, "reason": state.reason, "message": state.message}
        return JSONResponse(content, status_code=200 if state.is_ready else 503)

    @router.get(names.PATH_METRICS, response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(await render_metrics(), media_type=PROMETHEUS_TEXT)

    return router
