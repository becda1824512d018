"""The connection to Redis or Valkey: scripts go in, replies or StoreUnavailableError come out.

A Redis Cluster needs no other client: a service's keys all lie in one slot, so they are on one server at a time, and
the cluster says where (MOVED). That server is used until it is away; then the URL's is asked again. Where the URL names
Sentinels, each new connection leads to the server that is the master then.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from easel_contract.redis_url import parse_sentinel_url
from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Connection, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from easel_server.stores.dropped import DroppedRecords
from easel_server.stores.errors import StoreDamagedError, StoreEvictsError, StoreOutOfMemoryError, StoreUnavailableError
from easel_server.stores.redis.errors import LOST, WAIT_FOR_REDIS, find_damaged_key, translated_errors
from easel_server.stores.redis.pipeline import CANCEL_AGAIN_SECONDS, Pipeline
from easel_server.stores.redis.scripts import load_script
from easel_server.stores.redis.sentinel import Sentinels, use_sentinels

CONNECT_TIMEOUT_SECONDS: Final = 3.0
REPLY_TIMEOUT_SECONDS: Final = 5.0
POOL_TIMEOUT_SECONDS: Final = 5.0
PING_IDLE_CONNECTION_AFTER_SECONDS: Final = 15
MAX_CONNECTIONS: Final = 64  # for commands that block, one each
OUT_OF_MEMORY_SECONDS: Final = 20.0  # that it is remembered; longer than between two looks
MAX_REDIRECTS: Final = 5
MAX_SERVERS: Final = 8  # of a cluster, that connections are kept to: the last ones used; pods of Redis come and go
MAX_OBSTACLES: Final = 3  # damaged keys that one call drops on its way

# Every policy but this one drops keys when maxmemory is reached: those named allkeys- unfinished jobs too, the others
# results, books and deliveries before their time. It counts while maxmemory is 0 as well: that can change any time.
SAFE_EVICTION_POLICY: Final = "noeviction"
LOOK_AT_POLICY_SECONDS: Final = 10.0
LOOK_AT_POLICY_AGAIN_SECONDS: Final = 1.0  # while it is refused

# Of a second: what scripts and commands count times in.
MICROSECONDS: Final = 1_000_000
MILLISECONDS: Final = 1_000

Word = str | bytes | float

logger = logging.getLogger(__name__)


class _Server:
    """One server, and what is known of it."""

    def __init__(self, client: Redis) -> None:
        self.client = client
        self.refusal: StoreEvictsError | None = None
        self._look_at_policy_at = -math.inf
        self.out_of_memory_at = -math.inf  # when it last was
        self._execute: Callable[..., Awaitable[Any]] = client.execute_command
        self._left: set[asyncio.Future[Any]] = set()  # calls whose callers were cancelled, under way to their end
        self.pipeline = Pipeline(client.connection_pool)
        settings = client.connection_pool.connection_kwargs
        self._sentinels: Sentinels | None = settings.get("connection_pool")
        self.address = _describe_address(settings)

    async def check_policy(self) -> None:
        """Return if this server may be used; looks now and then. Raises StoreEvictsError and redis-py's errors."""
        now = time.monotonic()
        if now >= self._look_at_policy_at:
            self._look_at_policy_at = now + LOOK_AT_POLICY_AGAIN_SECONDS
            memory = _read_info(await self.pipeline.execute("INFO", "memory"))
            if 0 < int(memory.get("maxmemory", 0)) <= int(memory.get("used_memory", 0)):
                self.out_of_memory_at = now
            policy = memory.get("maxmemory_policy", SAFE_EVICTION_POLICY)  # one that names none evicts nothing
            if policy == SAFE_EVICTION_POLICY:
                if self.refusal is not None:
                    logger.info("Redis at %s is used again: its maxmemory-policy is %s", self.address, policy)
                self.refusal = None
                self._look_at_policy_at = now + LOOK_AT_POLICY_SECONDS
            elif self.refusal is None:
                self.refusal = _build_refusal(self.address, policy)
                logger.error("%s", self.refusal)
        if self.refusal is not None:
            raise _build_refusal(self.address, self.refusal.policy)

    async def execute_blocking(self, *words: Word) -> Any:
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
            self._left.add(sending)
            sending.add_done_callback(self._left.discard)
            raise

    async def close(self) -> None:
        await self.pipeline.close()
        while self._left:
            for sending in self._left:
                sending.cancel()  # again and again: redis-py may swallow it, and then connect after all
            await asyncio.wait(self._left, timeout=CANCEL_AGAIN_SECONDS)
        await self.client.aclose()
        await self.client.connection_pool.disconnect()
        if self._sentinels is not None:
            await self._sentinels.close()


class RedisConnection:
    """Runs scripts and commands on the keys of one service."""

    def __init__(self, url: str, prefix: str, *, url_file: Path | None = None) -> None:
        """``url`` is as ``easel_contract.redis_url`` says, else ValueError; connects on first use.

        A password that changes while the process runs comes with ``url_file``: see FileCredentials.
        """
        self._url = url
        self._url_file = url_file
        self._prefix = prefix
        self._home = self._server = _Server(_build_client(url, url_file))
        self._servers = {self._home.address: self._home}  # the one used longest ago first
        self._closing: set[asyncio.Task[None]] = set()
        self.dropped = DroppedRecords()

    @property
    def address(self) -> str:
        """host:port, the socket's path or the Sentinels of the server in use, without credentials."""
        return self._server.address

    @property
    def client(self) -> Redis:
        """The client of the server in use, for subscriptions."""
        return self._server.client

    def key(self, name: str) -> str:
        """A key or channel of this service."""
        return self._prefix + name

    async def script(self, name: str, *arguments: Word) -> Any:
        """The reply of a script. Raises StoreUnavailableError; StoreDamagedError if it met what it can't handle."""
        script = load_script(name)

        async def run(server: _Server) -> Any:
            try:
                return await server.pipeline.execute("EVALSHA", script.sha, 1, self._prefix, *arguments)
            except exceptions.NoScriptError:  # first use, or the server was restarted
                return await server.pipeline.execute("EVAL", script.source, 1, self._prefix, *arguments)

        return await self._run_around_damage(name, run, key=None)

    async def command(self, name: str, *arguments: Word) -> Any:
        """The undecoded reply of a command on one key that doesn't block. Raises StoreUnavailableError."""
        key = str(arguments[0]) if arguments else None
        return await self._run_around_damage(name, lambda server: server.pipeline.execute(name, *arguments), key=key)

    async def blocking_command(self, name: str, *arguments: Word) -> Any:
        """The reply of a command that may take its time, on a connection of its own. Raises StoreUnavailableError."""
        return await self._run(name, lambda server: server.execute_blocking(name, *arguments))

    def is_out_of_memory(self) -> bool:
        """Whether the server had no memory for anything new lately."""
        return time.monotonic() - self._server.out_of_memory_at < OUT_OF_MEMORY_SECONDS

    async def ping(self) -> None:
        """Return if the server serves. Raises StoreUnavailableError; StoreEvictsError if it may drop what it keeps."""
        await self.command("PING")

    async def close(self) -> None:
        """Close all connections."""
        for server in self._servers.values():
            await server.close()
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _run_around_damage(
        self, operation: str, send: Callable[[_Server], Awaitable[Any]], *, key: str | None
    ) -> Any:
        """The reply; a damaged key that is in the way is dropped. ``key`` is the only one that a command has."""
        for _ in range(MAX_OBSTACLES):
            try:
                return await self._run(operation, send)
            except exceptions.ResponseError as error:
                message = str(error)
                obstacle = find_damaged_key(message) or (key if message.startswith("WRONGTYPE") else None)
                if obstacle is None:
                    break
                await self._run("DEL", _build_deletion(obstacle))
                self.dropped.note("key", obstacle.removeprefix(self._prefix))
        self.dropped.note("script", operation, message)
        next_step = "please report it with this line; a record is damaged in a way that isn't foreseen"
        raise StoreDamagedError(self.address, operation, message, next_step)

    async def _run(self, operation: str, send: Callable[[_Server], Awaitable[Any]]) -> Any:
        """Send to the server that has the keys."""
        for _ in range(MAX_REDIRECTS):
            server = self._server
            try:
                with translated_errors(server.address, operation):
                    try:
                        await server.check_policy()
                        return await send(server)
                    except exceptions.MovedError as moved:
                        self._follow(moved)
            except StoreOutOfMemoryError:
                server.out_of_memory_at = time.monotonic()
                raise
            except StoreUnavailableError:
                if self._server is server:
                    self._server = self._home
                raise
        raise StoreUnavailableError(
            self.address,
            operation,
            f"{MAX_REDIRECTS} redirections, the last one to here",
            # Servers disagree for a moment while a slot changes hands.
            f"{WAIT_FOR_REDIS}; if it lasts, that the cluster's servers agree on where its slots are",
        )

    def _follow(self, moved: exceptions.MovedError) -> None:
        """Use the server that a cluster names. It names none if the port alone differs."""
        host = moved.host or self._server.client.connection_pool.connection_kwargs["host"]
        address = f"{host}:{moved.port}"
        known = self._servers.pop(address, None)
        self._server = known or _Server(_build_client(self._url, self._url_file, host=host, port=moved.port))
        self._servers[address] = self._server
        if len(self._servers) > MAX_SERVERS:
            self._drop(next(each for each, server in self._servers.items() if server is not self._home))

    def _drop(self, address: str) -> None:
        """Forget a server that others have long taken the place of, and close what is still open to it."""
        closing = asyncio.get_running_loop().create_task(self._servers.pop(address).close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        closing.add_done_callback(_ignore_result)


class FileCredentials(CredentialProvider):
    """User and password of the URL that a file holds, read at each new connection; while it has none, of another URL.

    A Secret that is mounted is renewed in place. Redis goes on with connections that it has let in, whatever becomes of
    the password, so nothing but new connections needs the new one.
    """

    def __init__(self, file: Path, url: str) -> None:
        self._file = file
        self._url = url

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """(user, password), or (password,) of the default user."""
        try:
            parsed = parse_url(_find_server_url(self._file.read_text().strip()))
        except (OSError, ValueError):  # not there, or not what it should be
            parsed = parse_url(_find_server_url(self._url))
        user, password = str(parsed.get("username") or ""), str(parsed.get("password") or "")
        return (user, password) if user else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The same: the file is a few bytes long and local."""
        return self.get_credentials()


def _build_client(url: str, url_file: Path | None = None, **place: str | int) -> Redis:
    """A client that connects on first use. Every call of a store can be repeated, so each gets a second try."""
    pool = BlockingConnectionPool.from_url(
        _find_server_url(url),
        max_connections=MAX_CONNECTIONS,
        timeout=POOL_TIMEOUT_SECONDS,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=REPLY_TIMEOUT_SECONDS,
        health_check_interval=PING_IDLE_CONNECTION_AFTER_SECONDS,
        retry=Retry(NoBackoff(), retries=1),
        retry_on_error=list(LOST),
        protocol=2,
    )
    if issubclass(pool.connection_class, Connection):  # over TCP; a Unix socket has nothing to keep alive
        pool.connection_kwargs["socket_keepalive"] = True
    if (sentinel_url := parse_sentinel_url(url)) is not None:
        pool.connection_class = use_sentinels(sentinel_url, pool.connection_kwargs)
    pool.connection_kwargs.update(place)  # after the URL's, which would win otherwise
    if url_file is not None and pool.connection_kwargs.get("password"):
        pool.connection_kwargs |= {"username": None, "password": None}
        pool.connection_kwargs["credential_provider"] = FileCredentials(url_file, url)
    return Redis.from_pool(pool)


def _find_server_url(url: str) -> str:
    """As redis-py reads it. Raises ValueError."""
    sentinel_url = parse_sentinel_url(url)
    return sentinel_url.server_url if sentinel_url is not None else url


def _describe_address(settings: dict[str, Any]) -> str:
    if "connection_pool" in settings:
        return str(settings["connection_pool"])
    return str(settings["path"]) if "path" in settings else f"{settings['host']}:{settings['port']}"


def _build_deletion(key: str) -> Callable[[_Server], Awaitable[Any]]:
    return lambda server: server.pipeline.execute("DEL", key)


def _read_info(reply: bytes) -> dict[str, str]:
    """The fields of an answer to INFO."""
    lines = (line.decode(errors="replace").partition(":") for line in reply.splitlines())
    return {name: value for name, _, value in lines}


def _build_refusal(address: str, policy: str) -> StoreEvictsError:
    return StoreEvictsError(
        address,
        "looking at its maxmemory-policy",
        f"the policy {policy}, by which Redis drops requests and results when its memory is full",
        f"set it there: CONFIG SET maxmemory-policy {SAFE_EVICTION_POLICY} (and in its configuration file, or the "
        "provider's parameters); Easel goes on by itself then",
        policy=policy,
    )


def _ignore_result(sending: asyncio.Future[Any]) -> None:
    if not sending.cancelled():
        sending.exception()  # asked for, so that it isn't reported as never retrieved
