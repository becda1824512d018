"""Keys of services in Redis, by prefix: marks them as closing, counts what is left, deletes them, and registers them.

The only place of the operator that talks to Redis. Values of jobs are never read.
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from easel_contract import names
from redis import exceptions
from redis.asyncio import Redis

from easel_operator.cluster.client import KubernetesClient
from easel_operator.cluster.redis.servers import check_url, find_servers, is_no_master, open_server
from easel_operator.decide.deletion import WorkLeft
from easel_operator.manifests.redis_user import name_user
from easel_operator.objects import NAMESPACES

CLUSTER_NAMESPACE: Final = "kube-system"  # its uid is the cluster's, by custom
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
    of a service lie on one server, and the cluster says on which. Sentinels are asked for the master at first use, and
    again once it is away.
    """

    def __init__(self, url: str | None = None) -> None:
        """``url`` is as ``easel_contract.redis_url`` says, else ValueError; None until ``use`` is told one."""
        if url is not None:
            check_url(url)
        self._url = url
        self._server_url = ""  # of the one in use
        self._opened: Redis | None = None
        self._clients: dict[tuple[str, int], Redis] = {}

    async def use(self, url: str) -> None:
        """Go on with another address or password; calls under way may fail. Raises ValueError."""
        check_url(url)
        await self._let_go()
        self._url = url

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
        async with self._translated_errors():
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
        async with self._translated_errors():
            client = await self._find_home()
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
        await self._let_go()

    async def _let_go(self) -> None:
        """Of all servers: the next call asks anew which there are."""
        clients = [client for client in (self._opened, *self._clients.values()) if client is not None]
        self._opened, self._clients = None, {}
        for client in clients:
            await client.aclose()

    async def _find_home(self) -> Redis:
        if self._url is None:
            raise RedisUnreachableError("its address isn't known yet")
        if self._opened is None:
            server_url = (await find_servers(self._url))[0]
            # Somebody else may have been faster meanwhile.
            if self._opened is None:
                self._server_url = server_url
                self._opened = open_server(server_url, max_connections=MAX_CONNECTIONS, retries=1)
        return self._opened

    async def _run(self, *words: str | int) -> Any:
        return (await self._run_where(*words))[0]

    async def _run_where(self, *words: str | int) -> tuple[Any, Redis]:
        """The reply of the server that has the key, and that server's client."""
        async with self._translated_errors():
            client = home = await self._find_home()
            for _ in range(MAX_REDIRECTS):
                try:
                    reply = await client.execute_command(*words)  # type: ignore[no-untyped-call] # not annotated
                except exceptions.MovedError as moved:
                    client = self._client_at(moved.host or home.connection_pool.connection_kwargs["host"], moved)
                else:
                    return reply, client
        raise RedisUnreachableError(f"{MAX_REDIRECTS} redirections between the servers of a cluster")

    async def _find_client(self, prefix: str) -> Redis:
        """Of the server that has the service's keys: SCAN itself isn't redirected."""

        return (await self._run_where("HLEN", prefix + names.REDIS_KEY_CLOSING))[1]

    def _client_at(self, host: str, moved: exceptions.MovedError) -> Redis:
        address = (host, int(moved.port))
        if address not in self._clients:
            place = {"host": host, "port": int(moved.port)}
            self._clients[address] = open_server(self._server_url, max_connections=MAX_CONNECTIONS, retries=1, **place)
        return self._clients[address]

    @asynccontextmanager
    async def _translated_errors(self) -> AsyncIterator[None]:
        try:
            yield
        except (exceptions.RedisError, OSError, TimeoutError, ValueError) as error:
            if is_no_master(error):
                await self._let_go()
            raise RedisUnreachableError(f"{type(error).__name__}: {error}") from error


async def _scan(client: Redis, prefix: str) -> AsyncIterator[list[bytes]]:
    cursor, pattern = 0, re.sub(r"([*?\[\]\\^])", r"\\\1", prefix) + "*"
    while True:
        cursor, keys = await client.scan(cursor, match=pattern, count=SCAN_BATCH)
        yield [key for key in keys if isinstance(key, bytes)]
        if not cursor:
            return
