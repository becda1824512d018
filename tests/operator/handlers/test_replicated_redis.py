"""A Redis of users' own with a replica, Sentinels and TLS: the operator, and a pod with what the operator gives it."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from easel_contract import names
from easel_operator.cluster.redis.password_keeper import RedisSource
from easel_operator.cluster.redis.service_keys import CLUSTER_NAMESPACE, RedisUnreachableError, ServiceKeys
from easel_operator.handlers.redis_upkeep import RedisUpkeep
from easel_operator.manifests.redis_user import name_user
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import Stores, open_stores

from tests.operator.fake_api import FakeApi
from tests.operator.handlers.test_reconciler import Bench
from tests.operator.objects import NOW, OWNER, build_service
from tests.support.eventually import eventually
from tests.support.jobs import submit_once_accepted
from tests.support.redis_sentinels import ReplicatedRedis

pytestmark = pytest.mark.redis

SECRET = "/api/v1/namespaces/easel-system/secrets/easel-redis"
SERVICES = f"/api/v1/namespaces/{OWNER.namespace}/secrets/{names.redis_secret_name(OWNER.name)}"
PREFIX = names.redis_prefix(OWNER.namespace, OWNER.name, OWNER.uid)


class Installation:
    """An operator that one look after the other is asked for, and service painter of studio."""

    def __init__(self, redis: ReplicatedRedis, directory: Path) -> None:
        self.redis = redis
        self.bench = Bench(FakeApi())
        self.bench.submit(build_service())
        self.bench.api.store(f"/api/v1/namespaces/{CLUSTER_NAMESPACE}", {"metadata": {"uid": "cluster"}})
        self.keys = ServiceKeys()
        self.ca_file = directory / "ca.crt"
        self.ca_file.write_bytes(redis.ca_file.read_bytes())
        self.set_url(redis.url)
        self.upkeep = RedisUpkeep(
            client=self.bench.api,
            source=RedisSource("easel-system", "easel-redis", ca_file=str(self.ca_file)),
            services=self.bench.services,
            keys=self.keys,
            reconciler=self.bench.reconciler,
            queue=self.bench.queue,
            grant=self.bench.access.grant,
            clock=lambda: NOW,
        )

    def set_url(self, url: str) -> None:
        encoded = base64.b64encode(url.encode()).decode()
        self.bench.api.store(SECRET, {"metadata": {"name": "easel-redis"}, "data": {"url": encoded}})

    async def look(self) -> None:
        await self.upkeep._look()
        self.bench.reconciler._secrets_checked_at.clear()  # the clock stands still
        await self.bench.settle()

    def mount(self, directory: Path) -> str:
        """What the kubelet of the service's pods does; the URL as they read it."""
        data = {key: base64.b64decode(value) for key, value in self.bench.api.objects[SERVICES]["data"].items()}
        for key, content in data.items():
            (directory / key).write_bytes(content)
        return data["url"].decode().replace(names.REDIS_DIRECTORY, str(directory))

    async def has_moved_from(self, port: int) -> None:
        async def has_moved() -> bool:
            return self.redis.find_master().port != port

        await eventually(has_moved)


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    with ReplicatedRedis(with_tls=True) as redis:
        made = Installation(redis, tmp_path)
        yield made
        await made.keys.close()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Stores]:
    """As a pod of the service does."""
    stores = open_stores(url, namespace=OWNER.namespace, service=OWNER.name, uid=OWNER.uid, bounds=JobBounds())
    try:
        yield stores
    finally:
        await stores.close()


async def test_a_pod_gets_the_sentinels_its_own_user_and_the_authority_and_keeps_them_through_a_fail_over(
    installation: Installation, tmp_path: Path
) -> None:
    await installation.look()
    (tmp_path / "mounted").mkdir()
    async with opened(installation.mount(tmp_path / "mounted")) as pod:
        await submit_once_accepted(pod, "before")
        with installation.redis.client(installation.redis.find_master()) as master:
            assert {each["user"] for each in master.client_list()} >= {name_user(PREFIX)}
            assert master.wait(1, 5000) == 1
        lost = installation.redis.find_master()
        lost.kill()
        await installation.has_moved_from(lost.port)
        await submit_once_accepted(
            pod, "after"
        )  # without a look of the operator: the replica was told before it was needed
        assert (await pod.jobs.depth()).waiting == 2


async def test_the_operator_goes_on_with_the_server_that_is_the_master(installation: Installation) -> None:
    await installation.look()
    await installation.keys.register("cluster", {PREFIX: "studio/painter"})
    with installation.redis.client(installation.redis.find_master()) as master:
        assert master.wait(1, 5000) == 1
    demoted = installation.redis.find_master().port
    installation.redis.fail_over()
    await installation.has_moved_from(demoted)

    async def is_registered() -> bool:
        try:
            await installation.keys.register("cluster", {PREFIX: "studio/again"})
        except RedisUnreachableError:
            return False
        return await installation.keys.read_registry("cluster") == {PREFIX: "studio/again"}

    await eventually(is_registered)


async def test_a_user_of_a_deleted_service_goes_from_the_replica_too(installation: Installation) -> None:
    def count_servers_that_know_it() -> int:
        known = 0
        for server in installation.redis.servers:
            with installation.redis.client(server) as client:
                known += name_user(PREFIX) in client.acl_users()
        return known

    async def has_come_everywhere() -> bool:
        await installation.look()
        return count_servers_that_know_it() == 2

    async def has_gone_everywhere() -> bool:
        await installation.look()
        return count_servers_that_know_it() == 0

    await eventually(has_come_everywhere)
    for key, _ in list(installation.bench.services):
        installation.bench.services.forget(key)
    await eventually(has_gone_everywhere)


async def test_an_authority_for_an_address_without_tls_is_refused_with_what_to_write(
    installation: Installation,
) -> None:
    installation.set_url("redis+sentinel://:pw@a.example/easel/0")
    with pytest.raises(ValueError, match="has no TLS: write rediss://"):
        await installation.look()
