"""The connection to Redis or Valkey: scripts go in, replies or BrokerUnavailableError come out."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from easel_server.broker.interface import BrokerUnavailableError

CONNECT_TIMEOUT_SECONDS: Final = 3.0
REPLY_TIMEOUT_SECONDS: Final = 5.0
POOL_TIMEOUT_SECONDS: Final = 5.0
MAX_CONNECTIONS: Final = 64
PING_IDLE_CONNECTION_AFTER_SECONDS: Final = 15

NEEDS_PATTERN: Final = re.compile(r"-- needs: ([a-z ]+)\n")  # a script's second line

WAIT_FOR_REDIS: Final = (
    "check that Redis runs and can be reached from this pod; Easel goes on by itself when it is back"
)
GIVE_ACCESS: Final = "check the user, password and permissions (ACL) of the Redis URL"
GIVE_MEMORY: Final = (
    "raise Redis' maxmemory, or lower the result and cache TTLs; finished jobs free memory as they expire"
)

# Error replies that redis-py has no class for: the server is there and can't serve for now.
# https://redis.io/docs/latest/develop/reference/protocol-spec/#simple-errors
TEMPORARY_REPLIES: Final = ("MISCONF", "NOREPLICAS", "BUSY", "UNBLOCKED", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN")


def connect(url: str) -> Redis:
    """A client that connects on first use. Every request of a broker can be repeated, so each gets a second try."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=POOL_TIMEOUT_SECONDS,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=REPLY_TIMEOUT_SECONDS,
        socket_keepalive=True,
        health_check_interval=PING_IDLE_CONNECTION_AFTER_SECONDS,
        retry=Retry(NoBackoff(), retries=1),
        protocol=2,
    )
    return Redis.from_pool(pool)


def address_of(client: Redis) -> str:
    """host:port or the socket's path, without credentials."""
    settings = client.connection_pool.connection_kwargs
    return str(settings["path"]) if "path" in settings else f"{settings['host']}:{settings['port']}"


@contextmanager
def translated_errors(address: str, operation: str) -> Iterator[None]:
    """Turn redis-py's errors into BrokerUnavailableError; errors that are our own bugs pass through."""
    try:
        yield
    except (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError) as error:
        raise BrokerUnavailableError(address, operation, _describe(error), GIVE_ACCESS) from error
    except exceptions.OutOfMemoryError as error:
        raise BrokerUnavailableError(address, operation, _describe(error), GIVE_MEMORY) from error
    except (
        exceptions.ConnectionError,  # BusyLoadingError (LOADING) among them
        exceptions.TimeoutError,
        exceptions.ReadOnlyError,
        exceptions.ClusterError,
        OSError,
    ) as error:
        raise BrokerUnavailableError(address, operation, _describe(error), WAIT_FOR_REDIS) from error
    except exceptions.ResponseError as error:
        if not str(error).startswith(TEMPORARY_REPLIES):
            raise
        raise BrokerUnavailableError(address, operation, _describe(error), WAIT_FOR_REDIS) from error


def _ignore_result(sending: asyncio.Future[Any]) -> None:
    if not sending.cancelled():
        sending.exception()  # asked for, so that it isn't reported as never retrieved


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Script:
    """A server-side script; it runs atomically."""

    source: str
    sha: str


def _read_lua(name: str) -> str:
    return (resources.files("easel_server.broker") / "lua" / f"{name}.lua").read_text(encoding="utf-8")


@cache
def load_script(name: str) -> Script:
    """``lua/<name>.lua`` with what it needs of others behind its first line, which Redis requires to hold the flags."""
    flags, _, body = _read_lua(name).partition("\n")
    needs = NEEDS_PATTERN.match(body)
    shared = [_read_lua(part) for part in ("shared", *(needs[1].split() if needs else ()))]
    source = "\n".join([flags, *shared, body])
    # Redis names scripts by their SHA-1; nothing secret depends on it.
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


class RedisConnection:
    """Runs scripts and commands on the keys of one service."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client = client
        self._execute: Callable[..., Awaitable[Any]] = client.execute_command
        self._prefix = prefix
        self.address = address_of(client)

    @property
    def client(self) -> Redis:
        """The client itself, for subscriptions."""
        return self._client

    def key(self, name: str) -> str:
        """A key or channel of this service."""
        return self._prefix + name

    async def script(self, name: str, *arguments: str | bytes | float) -> Any:
        """The reply of a script. Raises BrokerUnavailableError."""
        script = load_script(name)
        with translated_errors(self.address, name):
            try:
                return await self._send("EVALSHA", script.sha, 1, self._prefix, *arguments)
            except exceptions.NoScriptError:  # first use, or the server was restarted
                return await self._send("EVAL", script.source, 1, self._prefix, *arguments)

    async def command(self, name: str, *arguments: str | bytes | float) -> Any:
        """The reply of a plain command. Raises BrokerUnavailableError."""
        with translated_errors(self.address, name):
            return await self._send(name, *arguments)

    async def _send(self, *words: str | bytes | float) -> Any:
        """Send a command from a task of its own, so that cancelling the caller always works.

        redis-py sends inside ``asyncio.wait_for``, which loses a cancellation that comes as it completes (in Python
        3.11: https://github.com/python/cpython/issues/81839); measured, every fourth one was lost.
        """
        sending = asyncio.ensure_future(self._execute(*words))
        try:
            return await asyncio.shield(sending)
        except asyncio.CancelledError:
            sending.cancel()
            sending.add_done_callback(_ignore_result)
            raise

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()
