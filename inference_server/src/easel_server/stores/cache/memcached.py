"""The result cache on Memcached. A Memcached that is away is a miss, never an error, and is left alone for a while.

An entry is one item, or several where it is larger than Memcached's items may be: the first holds a line of JSON that
describes the entry, and as much of the images as fits; the rest follows in items named for this one put, so that parts
of two puts are never mixed. Memcached itself evicts what was used least recently, by its own budget (``-m``).
"""

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import emcache
from pydantic import TypeAdapter, ValidationError
from typing_extensions import override

from easel_server.stores.cache.interface import CachedImages, ResultCache

CHUNK_BYTES: Final = 1_000_000  # Memcached holds items of a MiB with keys and books, unless set otherwise (-I)
MAX_CHUNKS: Final = 65  # as many as the largest entry that can be configured takes
GET_TIMEOUT_SECONDS: Final = 0.5
PUT_TIMEOUT_SECONDS: Final = 2.0
FIRST_PAUSE_SECONDS: Final = 1.0  # after a failure
MAX_PAUSE_SECONDS: Final = 30.0
POOL_SIZE: Final = 8
MAX_TTL_SECONDS: Final = 30 * 24 * 3600  # Memcached takes larger numbers for dates
FAILURES: Final = (OSError, emcache.CommandError, ValueError, TimeoutError, OverflowError)  # the last: a port
logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class _Header:
    """What the first item says of an entry."""

    put: str  # names the other items
    # When it was generated, by the name that stored entries have: seconds since the epoch, by the clock of the gateway
    # that put it, since Memcached has none to offer.
    drawn_at: float
    lengths: tuple[int, ...]  # of the images
    chunks: int
    warnings: tuple[str, ...] = ()


_HEADER: Final = TypeAdapter(_Header)


class MemcachedCache(ResultCache):
    """Entries that all gateways of a service share. No method raises: what fails is a miss."""

    def __init__(
        self,
        address: str,
        prefix: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """``address`` is HOST:PORT; ``prefix`` begins all keys of a service."""
        host, _, port = address.rpartition(":")
        self._address = address
        self._host, self._port = host.strip("[]"), int(port)
        self._prefix = prefix
        self._clock = clock
        self._wall_clock = wall_clock
        self._client: emcache.Client | None = None
        self._opening = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self._away_until = -math.inf
        self._pause_seconds = FIRST_PAUSE_SECONDS

    @override
    async def get(self, key: str) -> CachedImages | None:
        return await self._attempt(lambda client: self._get(client, self._name(key)), GET_TIMEOUT_SECONDS)

    @override
    async def put(
        self,
        key: str,
        images: tuple[bytes, ...],
        *,
        ttl_seconds: float,
        age_seconds: float = 0.0,
        warnings: tuple[str, ...] = (),
    ) -> None:
        header = _Header(
            put=secrets.token_hex(8),
            drawn_at=self._wall_clock() - age_seconds,
            lengths=tuple(map(len, images)),
            chunks=max(1, math.ceil(sum(map(len, images)) / CHUNK_BYTES)),
            warnings=warnings,
        )
        if header.chunks > MAX_CHUNKS:
            return
        expiry = min(MAX_TTL_SECONDS, max(1, math.ceil(ttl_seconds)))
        blob = b"".join(images)
        await self._attempt(
            lambda client: self._put(client, self._name(key), header, blob, expiry), PUT_TIMEOUT_SECONDS
        )

    async def close(self) -> None:
        """End what runs, and close all connections."""
        if self._running:
            await asyncio.wait(self._running)  # each has a time-out
        if self._client is not None:
            await self._client.close()

    def _name(self, key: str) -> bytes:
        return f"{self._prefix}cache:{key}".encode()

    async def _get(self, client: emcache.Client, name: bytes) -> CachedImages | None:
        first = await client.get(name)
        if first is None:
            return None
        line, _, blob = first.value.partition(b"\n")
        header = _HEADER.validate_json(line)
        names = _part_names(name, header)
        parts = await client.get_many(names)
        if len(parts) < len(names):
            return None  # evicted, or replaced by a newer put meanwhile
        blob += b"".join(parts[part].value for part in names)
        if len(blob) != sum(header.lengths):
            return None
        images, begin = [], 0
        for length in header.lengths:
            images.append(blob[begin : begin + length])
            begin += length
        return CachedImages(tuple(images), max(0.0, self._wall_clock() - header.drawn_at), header.warnings)

    async def _put(self, client: emcache.Client, name: bytes, header: _Header, blob: bytes, expiry: int) -> None:
        # The first item last: who finds it finds the others.
        for index, part in enumerate(_part_names(name, header), start=1):
            await client.set(part, blob[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES], exptime=expiry)
        await client.set(name, _HEADER.dump_json(header) + b"\n" + blob[:CHUNK_BYTES], exptime=expiry)

    async def _attempt(
        self, operation: Callable[[emcache.Client], Awaitable[T | None]], timeout_seconds: float
    ) -> T | None:
        """What the operation gives; None if it fails, and while Memcached is left alone after a failure.

        It runs to its end even if the caller leaves: a connection that is left in the middle of a reply is spoilt.
        """
        if self._clock() < self._away_until:
            return None
        running = asyncio.create_task(self._run(operation, timeout_seconds), name="memcached")
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return await asyncio.shield(running)

    async def _run(
        self, operation: Callable[[emcache.Client], Awaitable[T | None]], timeout_seconds: float
    ) -> T | None:
        client = self._client
        try:
            async with asyncio.timeout(timeout_seconds):
                client = await self._open()
                result = await operation(client)
        except ValidationError as error:
            logger.warning("an entry that another version put into Memcached is ignored: %s", error)
            return None
        except FAILURES as error:
            await self._note_failure(client, error)
            return None
        except Exception as error:
            logger.exception("Memcached at %s: failed in a way that isn't foreseen", self._address)
            await self._note_failure(client, error)
            return None
        if self._pause_seconds != FIRST_PAUSE_SECONDS:
            logger.info("Memcached at %s is back", self._address)
            self._pause_seconds = FIRST_PAUSE_SECONDS
        return result

    async def _open(self) -> emcache.Client:
        async with self._opening:
            if self._client is None:
                # The client connects in the background and reports to nobody that it can't: that is found out before.
                _, writer = await asyncio.open_connection(self._host, self._port)
                writer.close()
                self._client = await emcache.create_client(
                    [emcache.MemcachedHostAddress(self._host, self._port)],
                    timeout=None,  # each operation here has one for all its commands together
                    connection_timeout=PUT_TIMEOUT_SECONDS,
                    min_connections=0,
                    max_connections=POOL_SIZE,
                    purge_unused_connections_after=None,
                )
            return self._client

    async def _note_failure(self, client: emcache.Client | None, error: Exception) -> None:
        if self._client is client:
            self._client = None  # its connections may be in the middle of a reply: none is used again
        if client is not None:
            await client.close()
        if self._clock() < self._away_until:
            return  # others noticed before
        logger.warning(
            "Memcached at %s can't be used, nothing is cached for %g s: %r", self._address, self._pause_seconds, error
        )
        self._away_until = self._clock() + self._pause_seconds
        self._pause_seconds = min(2 * self._pause_seconds, MAX_PAUSE_SECONDS)


def _part_names(name: bytes, header: _Header) -> list[bytes]:
    return [name + f":{header.put}:{index}".encode() for index in range(1, header.chunks)]
