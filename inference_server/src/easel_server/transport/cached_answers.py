"""Answers repeated requests for cached images with the bytes that were sent before, ahead of routing and parsing.

A route marks an answer as repeatable by headers alone: a cache hit (``X-Cache: hit``) that no job stands behind (no
``X-Prediction-Id``). Whoever sends the very same body then gets the very same answer, as far as the cache is theirs
(``cache.scope``); the key is checked and the request charged all the same. Headers that change the meaning of a request
go the long way.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Final

from easel_contract.gateway_config import CacheScope, GatewayConfig
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from easel_server.gateway.api_keys import KeyRing
from easel_server.gateway.inputs.fetching import has_fetched
from easel_server.gateway.local_cache import LocalCache
from easel_server.gateway.rate_limits import build_charges, build_rate_headers
from easel_server.gateway.refusals import RefusalError
from easel_server.generation.request import Customer
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.limits.interface import RateLimiter
from easel_server.telemetry.gateway_metrics import CacheResult, RequestMetrics
from easel_server.transport.middleware import QUIET

# What a request gets that doesn't say may change while the gateway runs: as old as gateways' knowledge of it may be.
REPEAT_SECONDS: Final = 10.0
MAX_BODY_BYTES: Final = 32 << 10  # of a request that is looked up; prompts are far smaller
ENTRY_OVERHEAD_BYTES: Final = 512
SPECIAL_HEADERS: Final = frozenset({b"cache-control", b"idempotency-key", b"pragma", b"prefer", b"content-encoding"})


@dataclass(frozen=True)
class _Answer:
    body: bytes
    content_type: bytes
    content_length: bytes
    cache_control: bytes
    warning: bytes | None  # None: nothing was done otherwise than asked


_Key = tuple[str | None, bytes]  # whose answer it is, unless it is anybody's, and the body that asks for it


class CachedAnswersMiddleware:
    """For one path."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        path: str,
        keys: KeyRing,
        limiter: RateLimiter,
        config: GatewayConfig,
        metrics: RequestMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._path = path
        self._route = SimpleNamespace(path=path)  # as the router would note it, for logs and metrics
        self._keys = keys
        self._limiter = limiter
        self._config = config
        self._metrics = metrics
        self._is_shared = config.cache.scope is CacheScope.SERVICE
        self._answers: LocalCache[_Answer] = LocalCache(config.cache.gateway_bytes // 2, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        authorization = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value.decode("latin-1")
            elif name in SPECIAL_HEADERS or (name == b"content-type" and not value.startswith(b"application/json")):
                await self._app(scope, receive, send)
                return
        try:
            customer = self._keys.find_customer(authorization)
        except RefusalError:  # the route says so: nothing is read for who has no key
            await self._app(scope, receive, send)
            return
        messages, body = await _read(receive)
        if body is None:
            await self._app(scope, _replay(messages, receive), send)
            return
        key = (None if self._is_shared else customer.name, body)
        found = self._answers.get(key)
        if found is not None and (headers := await self._admit(customer)) is not None:
            scope["route"] = self._route
            scope[QUIET] = True
            await _send(send, *found, headers)
            return
        await self._app(scope, _replay(messages, receive), self._keep_answer_to(key, send))

    async def _admit(self, customer: Customer) -> dict[str, str] | None:
        """Headers for the answer, once it is charged; None if the routes had better say why there is none."""
        try:
            charges = build_charges(customer, self._config, requests=1)
            decision = await self._limiter.take(charges) if charges else None
        except StoreUnavailableError:
            return None
        if decision is not None and not decision.allowed:
            return None
        self._metrics.count_cache(CacheResult.HIT)
        return build_rate_headers(decision.buckets) if decision else {}

    def _keep_answer_to(self, key: _Key, send: Send) -> Send:
        start: Message | None = None

        async def send_and_keep(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                # What is at an address may be another image the next time.
                start = message if _is_repeatable(message) and not has_fetched.get() else None
            elif start is not None and not message.get("more_body", False):
                self._keep(key, Headers(raw=start["headers"]), message.get("body", b""))
            await send(message)

        return send_and_keep

    def _keep(self, key: _Key, headers: Headers, body: bytes) -> None:
        if headers.get("content-length") != str(len(body)):
            return  # only the end of a longer answer
        age_seconds = float(headers.get("age", "0"))
        self._answers.put(
            key,
            _Answer(
                body,
                content_type=headers["content-type"].encode("latin-1"),
                content_length=str(len(body)).encode(),
                cache_control=headers.get("cache-control", "private").encode("latin-1"),
                warning=headers["warning"].encode("latin-1") if "warning" in headers else None,
            ),
            size_bytes=len(key[1]) + len(body) + ENTRY_OVERHEAD_BYTES,
            age_seconds=age_seconds,
            ttl_seconds=min(REPEAT_SECONDS, self._config.cache.ttl_seconds - age_seconds),
        )


def _is_repeatable(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    return start["status"] == 200 and headers.get("x-cache") == CacheResult.HIT and "x-prediction-id" not in headers


async def _read(receive: Receive) -> tuple[list[Message], bytes | None]:
    """What the client sends, message by message, and the whole body; None for the body beyond the bound.

    None too where it is refused while it is read: the route's own reading meets the same refusal, and answers it.
    """
    messages: list[Message] = []
    size_bytes = 0
    while True:
        try:
            message = await receive()
        except RefusalError:
            return messages, None
        messages.append(message)
        size_bytes += len(message.get("body", b""))
        if message["type"] != "http.request" or size_bytes > MAX_BODY_BYTES:
            return messages, None
        if not message.get("more_body", False):
            return messages, b"".join(part.get("body", b"") for part in messages)


def _replay(messages: Sequence[Message], receive: Receive) -> Receive:
    pending = list(reversed(messages))

    async def receive_again() -> Message:
        return pending.pop() if pending else await receive()

    return receive_again


async def _send(send: Send, answer: _Answer, age_seconds: float, more: dict[str, str]) -> None:
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", answer.content_length),
        (b"cache-control", answer.cache_control),
        (b"x-cache", b"hit"),
        (b"age", str(int(age_seconds)).encode()),
        *([(b"warning", answer.warning)] if answer.warning is not None else []),
        *((name.lower().encode(), value.encode()) for name, value in more.items()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
