"""Keys of services on a cluster of Redis, and what is said of a Redis that isn't there."""

from collections.abc import Iterator

import pytest
from easel_contract import names
from easel_operator.cluster.redis.service_keys import RedisUnreachableError, ServiceKeys
from easel_operator.decide.deletion import WorkLeft
from easel_operator.manifests.redis_user import name_user
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import open_stores

from tests.support.jobs import build_job
from tests.support.redis_cluster import RedisCluster
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def redis_cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


async def test_on_a_cluster_keys_are_deleted_on_the_server_that_has_them(redis_cluster: RedisCluster) -> None:
    prefix = names.redis_prefix("ml", "sd", "u")
    home = redis_cluster.owner_of(prefix)
    stores = open_stores(redis_cluster.urls[0], namespace="ml", service="sd", uid="u", bounds=JobBounds())
    keys = ServiceKeys(redis_cluster.urls[(home + 1) % len(redis_cluster.urls)])
    try:
        await stores.jobs.submit(build_job("a"))
        assert await keys.count_work(prefix) == WorkLeft(1, 0, 0)
        await keys.mark_closing(prefix, "deleted")
        await keys.register("c", {prefix: "ml/sd"})
        assert await keys.delete_keys(prefix) > 3
        assert await keys.count_work(prefix) == WorkLeft(0, 0, 0)
        with redis_cluster.client(home) as client:
            assert client.keys(f"{prefix}*") == [f"{prefix}closing".encode()]
        await keys.forget("c", prefix)
        assert await keys.read_registry("c") == {}
    finally:
        await stores.close()
        await keys.close()


async def test_what_is_said_of_a_redis_that_is_away_holds_no_password() -> None:
    keys = ServiceKeys("redis://user:geheim@127.0.0.1:1/0")
    with pytest.raises(RedisUnreachableError, match="ConnectionError") as caught:
        await keys.count_work("easel:{a/b/c}:")
    assert "geheim" not in str(caught.value)
    await keys.close()


async def test_a_user_with_the_documented_commands_alone_may_clean_up() -> None:
    with RedisServer() as server:
        commands = [*names.REDIS_ACL_COMMANDS, *names.REDIS_ACL_OPERATOR_COMMANDS]
        rules = ["reset", "on", ">secret", "~easel:*", *commands]
        assert server.command("ACL", "SETUSER", "easel", *rules).startswith(b"+OK")
        keys = ServiceKeys(server.url.replace("redis://", "redis://easel:secret@"))
        prefix = names.redis_prefix("ml", "sd", "u")
        try:
            await keys.register("c", {prefix: "ml/sd"})
            await keys.mark_closing(prefix, "deleted")
            await keys.count_work(prefix)
            assert server.command("SET", f"{prefix}x", "1").startswith(b"+OK")
            assert await keys.delete_keys(prefix) == 1
            await keys.forget("c", prefix)
            assert await keys.read_registry("c") == {}
        finally:
            await keys.close()


async def test_a_service_that_is_forgotten_leaves_no_user_behind() -> None:
    """One that was deleted while no operator ran, in a Redis whose other users aren't the operator's."""
    with RedisServer() as server:
        prefix = names.redis_prefix("ml", "sd", "u")
        for user in (name_user(prefix), "somebody"):
            assert server.command("ACL", "SETUSER", user, "on").startswith(b"+OK")
        keys = ServiceKeys(server.url)
        try:
            await keys.forget("c", prefix)
        finally:
            await keys.close()
        users = server.command("ACL", "USERS")
        assert name_user(prefix).encode() not in users
        assert b"somebody" in users
