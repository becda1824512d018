"""Keys of services in Redis, by prefix: marks them as closing, counts what is left, deletes them, and registers them.

The only place of the operator that talks to Redis. Values of jobs are never read.
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from easel_contract import names
from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from easel_operator.cluster.client import KubernetesClient
from easel_operator.decide.deletion import WorkLeft
from easel_operator.manifests.redis_user import name_user
from easel_operator.objects import NAMESPACES

CLUSTER_NAMESPACE: Final = "kube-system"  # its uid is the cluster's, by custom
CONNECT_TIMEOUT_SECONDS: Final = 3.0
REPLY_TIMEOUT_SECONDS: Final = 5.0
MAX_CONNECTIONS: Final = 32  # that many services may end at once
MAX_REDIRECTS: Final = 5
SCAN_BATCH: Final = 1000  # keys that one SCAN looks at
CLOSING_SECONDS: Final = 86400  # that a mark outlives the service; a pod that ends later than that has ended long since
# A full Redis must not keep anybody from freeing its memory, so both scripts run without any.
MARK_SCRIPT: Final = """#!lua flags=allow-oom
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return redis.call('EXPIRE', KEYS[1], ARGV[3])"""
REGISTER_SCRIPT: Final = """#!lua flags=allow-oom
return redis.call('HSET', KEYS[1], unpack(ARGV))"""


class RedisUnreachableError(Exception):
    """Redis didn't do what it was asked for; the message has its words, and no password."""


async def fetch_cluster_uid(client: KubernetesClient) -> str:
    """By which clusters that share a Redis are told apart there. Raises KubernetesError."""
    namespace = await client.get(NAMESPACES, None, CLUSTER_NAMESPACE)
    return str(namespace["metadata"]["uid"]) if namespace is not None else CLUSTER_NAMESPACE


class ServiceKeys:
    """One per process; connects on first use.

    Every method raises RedisUnreachableError, and may be repeated then. A Redis Cluster needs no other client: all keys
    of a service lie on one server, and the cluster says on which.
    """

    def __init__(self, url: str | None = None) -> None:
        """``url`` is ``redis://``, ``rediss://`` or ``unix://``, else ValueError; None until ``use`` is told one."""
        self._url = url
        self._opened = _open_client(url) if url is not None else None
        self._clients: dict[tuple[str, int], Redis] = {}

    async def use(self, url: str) -> None:
        """Go on with another address or password; calls under way may fail. Raises ValueError."""
        fresh = _open_client(url)
        await self.close()
        self._url, self._opened, self._clients = url, fresh, {}

    async def mark_closing(self, prefix: str, reason: str) -> None:
        """Have the service's processes take nothing new, and end what waits with this reason."""
        key = prefix + names.REDIS_KEY_CLOSING
        field = names.REDIS_FIELD_CLOSING_REASON
        await self._run("EVAL", MARK_SCRIPT, 1, key, field, reason, CLOSING_SECONDS)

    async def count_work(self, prefix: str) -> WorkLeft:
        """What of the service somebody still waits for."""
        return WorkLeft(*[int(await self._run("ZCARD", prefix + name)) for name in names.REDIS_KEYS_OF_WORK])

    async def delete_keys(self, prefix: str) -> int:
        """Delete all keys but the mark, a bounded number at a time; how many there were."""
        mark = (prefix + names.REDIS_KEY_CLOSING).encode()
        deleted = 0
        client = await self._find_client(prefix)
        async with _translated_errors():
            async for keys in _scan(client, prefix):
                doomed = [key for key in keys if key != mark]
                if doomed:
                    deleted += int(await client.unlink(*doomed))
        return deleted

    async def forget(self, cluster_uid: str, prefix: str) -> None:
        """Nothing is left of the service: delete its mark, its user, and its entry in the registry."""
        await self._run("UNLINK", prefix + names.REDIS_KEY_CLOSING)
        await self._delete_user(prefix)
        await self._run("HDEL", names.redis_registry_key(cluster_uid), prefix)

    async def _delete_user(self, prefix: str) -> None:
        """Of a service that was deleted while nobody looked; where users aren't ours to make, there is none."""
        client = self._home
        async with _translated_errors():
            with suppress(exceptions.ResponseError):
                await client.execute_command("ACL DELUSER", name_user(prefix))  # type: ignore[no-untyped-call] # not annotated

    async def register(self, cluster_uid: str, services: Mapping[str, str]) -> None:
        """Note services, NAMESPACE/NAME by prefix, so that their keys are found whatever becomes of them."""
        words = [word for item in services.items() for word in item]
        if words:
            await self._run("EVAL", REGISTER_SCRIPT, 1, names.redis_registry_key(cluster_uid), *words)

    async def read_registry(self, cluster_uid: str) -> dict[str, str]:
        """All services that were noted and not forgotten: NAMESPACE/NAME by prefix."""
        found: dict[bytes, bytes] = await self._run("HGETALL", names.redis_registry_key(cluster_uid))
        return {prefix.decode(): service.decode() for prefix, service in found.items()}

    async def close(self) -> None:
        """Close the connections."""
        for client in (self._opened, *self._clients.values()):
            if client is not None:
                await client.aclose()

    @property
    def _home(self) -> Redis:
        if self._opened is None:
            raise RedisUnreachableError("its address isn't known yet")
        return self._opened

    async def _run(self, *words: str | int) -> Any:
        return (await self._run_where(*words))[0]

    async def _run_where(self, *words: str | int) -> tuple[Any, Redis]:
        """The reply of the server that has the key, and that server's client."""
        client = self._home
        async with _translated_errors():
            for _ in range(MAX_REDIRECTS):
                try:
                    reply = await client.execute_command(*words)  # type: ignore[no-untyped-call] # not annotated
                except exceptions.MovedError as moved:
                    client = self._client_at(moved.host or self._home.connection_pool.connection_kwargs["host"], moved)
                else:
                    return reply, client
        raise RedisUnreachableError(f"{MAX_REDIRECTS} redirections between the servers of a cluster")

    async def _find_client(self, prefix: str) -> Redis:
        """Of the server that has the service's keys: SCAN itself isn't redirected."""

        return (await self._run_where("HLEN", prefix + names.REDIS_KEY_CLOSING))[1]

    def _client_at(self, host: str, moved: exceptions.MovedError) -> Redis:
        address = (host, int(moved.port))
        if address not in self._clients:
            self._clients[address] = _open_client(str(self._url), host=host, port=int(moved.port))
        return self._clients[address]


def _open_client(url: str, **place: str | int) -> Redis:
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=REPLY_TIMEOUT_SECONDS,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=REPLY_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), retries=1),
    )
    pool.connection_kwargs.update(place)  # after the URL's, which would win otherwise
    return Redis.from_pool(pool)


async def _scan(client: Redis, prefix: str) -> AsyncIterator[list[bytes]]:
    cursor, pattern = 0, re.sub(r"([*?\[\]\\^])", r"\\\1", prefix) + "*"
    while True:
        cursor, keys = await client.scan(cursor, match=pattern, count=SCAN_BATCH)
        yield [key for key in keys if isinstance(key, bytes)]
        if not cursor:
            return


@asynccontextmanager
async def _translated_errors() -> AsyncIterator[None]:
    try:
        yield
    except (exceptions.RedisError, OSError, TimeoutError) as error:
        raise RedisUnreachableError(f"{type(error).__name__}: {error}") from error
