"""Another password of Redis reaches every service, and no pod ends for it."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator

import pytest
from easel_contract import names
from easel_operator.cluster.client import ApiRefusedError, ApiUnreachableError
from easel_operator.cluster.redis.password_keeper import RedisSource
from easel_operator.cluster.redis.service_keys import RedisUnreachableError, ServiceKeys
from easel_operator.handlers.redis_upkeep import RedisUpkeep
from easel_operator.manifests.redis_user import derive_password
from easel_operator.objects import Json

from tests.operator.fake_api import FakeApi
from tests.operator.handlers.test_reconciler import KEY, Bench
from tests.operator.objects import NOW, OWNER, build_service
from tests.support.eventually import eventually

INSTALLATIONS = "/api/v1/namespaces/easel-system/secrets/easel-redis"
KEYS = "/api/v1/namespaces/easel-system/secrets/easel-redis-service-users"
SERVICES = f"/api/v1/namespaces/{OWNER.namespace}/secrets/{names.redis_secret_name(OWNER.name)}"
DEPLOYMENTS = [
    f"/apis/apps/v1/namespaces/{OWNER.namespace}/deployments/painter-{role}" for role in ("gateway", "worker")
]


class Upkeep:
    """The loop beside a reconciler; Redis itself is away, which keeps nobody from agreeing on a password."""

    def __init__(self, source: RedisSource) -> None:
        self.bench = Bench(FakeApi())
        self.bench.submit(build_service())
        self.keys = ServiceKeys()
        self.loop = RedisUpkeep(
            client=self.bench.api,
            source=source,
            services=self.bench.services,
            keys=self.keys,
            reconciler=self.bench.reconciler,
            queue=self.bench.queue,
            grant=self.bench.access.grant,
            clock=lambda: NOW,
            look_seconds=0.01,
        )

    def set(self, **data: str) -> None:
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        self.bench.api.store(INSTALLATIONS, {"metadata": {"name": "easel-redis"}, "data": encoded})

    def read_url(self) -> str:
        """What the service was given."""
        return base64.b64decode(self.bench.api.objects[SERVICES]["data"]["url"]).decode()

    async def has_reached_the_service(self, part: str) -> None:
        async def has_part() -> bool:
            self.bench.reconciler._secrets_checked_at.clear()  # the clock stands still
            await self.bench.settle()
            return part in self.read_url()

        await eventually(has_part)

    def read_templates(self) -> list[Json]:
        return [self.bench.api.objects[path]["spec"]["template"] for path in DEPLOYMENTS]


@contextlib.asynccontextmanager
async def running(source: RedisSource) -> AsyncIterator[Upkeep]:
    upkeep = Upkeep(source)
    task = asyncio.create_task(upkeep.loop.run())
    try:
        yield upkeep
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await upkeep.keys.close()


async def test_another_key_of_passwords_reaches_every_service_and_rolls_no_pod() -> None:
    async with running(RedisSource("easel-system", "easel-redis", servers=("127.0.0.1:1",))) as upkeep:
        await asyncio.wait_for(upkeep.loop.has_url.wait(), 5)
        await upkeep.bench.settle()
        before = upkeep.read_templates()
        key = base64.b64encode(b"another").decode()
        upkeep.bench.api.store(KEYS, {"metadata": {"name": "easel-redis-service-users"}, "data": {"key": key}})
        prefix = names.redis_prefix(OWNER.namespace, OWNER.name, OWNER.uid)
        await upkeep.has_reached_the_service(f":{derive_password('another', prefix)}@127.0.0.1:1")
        assert upkeep.read_templates() == before


async def test_another_address_of_users_own_redis_rolls_pods_and_another_password_does_not() -> None:
    async with running(RedisSource("easel-system", "easel-redis")) as upkeep:
        upkeep.set(url="redis://u:one@a.example:6379/0")
        await upkeep.has_reached_the_service("one@a.example")
        before = upkeep.read_templates()
        upkeep.set(url="redis://u:two@a.example:6379/0")
        await upkeep.has_reached_the_service("two@a.example")
        assert upkeep.read_templates() == before
        upkeep.set(url="redis://u:two@b.example:6379/0")
        await upkeep.has_reached_the_service("two@b.example")
        assert all(after != known for after, known in zip(upkeep.read_templates(), before, strict=True))


async def test_nothing_is_said_of_redis_before_it_is_known_where_it_is() -> None:
    async with running(RedisSource("easel-system", "nowhere")) as upkeep:
        with pytest.raises(RedisUnreachableError, match="isn't known yet"):
            await upkeep.keys.count_work("easel:{a/b/c}:")
        assert not upkeep.loop.has_url.is_set()


async def test_an_api_server_that_is_away_only_delays_the_upkeep() -> None:
    async with running(RedisSource("easel-system", "easel-redis", servers=("127.0.0.1:1",))) as upkeep:
        refused = []

        def refuse(method: str, path: str) -> Exception | None:
            refused.append(path)
            return ApiUnreachableError(method, path, TimeoutError())

        upkeep.bench.api.fault = refuse

        async def has_been_refused() -> bool:
            return len(refused) > 1

        await eventually(has_been_refused)
        upkeep.bench.api.fault = lambda _method, _path: None
        await asyncio.wait_for(upkeep.loop.has_url.wait(), 5)


POLICIES = "/apis/networking.k8s.io/v1/namespaces/easel-system/networkpolicies"


def store_charts_policy(upkeep: Upkeep) -> None:
    spec = {
        "podSelector": {"matchLabels": {"app.kubernetes.io/component": "redis"}},
        "ingress": [{"ports": [{"port": "redis"}], "from": [{"podSelector": {"matchLabels": {"operator": "s"}}}]}],
    }
    metadata = {"namespace": "easel-system", "name": "easel-redis", "uid": "policy-uid"}
    upkeep.bench.api.store(f"{POLICIES}/easel-redis", {"metadata": metadata, "spec": spec})


def lets_in(policy: Json, namespace: str, **labels: str) -> bool:
    """Whether a pod of this namespace reaches Redis by the operator's policy."""
    labels = {f"easel.dev/{key}" if key == "service" else f"app.kubernetes.io/{key}": v for key, v in labels.items()}
    return any(
        source["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
        and all(labels.get(each["key"]) in each["values"] for each in source["podSelector"]["matchExpressions"])
        for rule in policy["spec"]["ingress"]
        for source in rule["from"]
    )


async def test_pods_of_services_reach_redis_and_no_pod_elsewhere_does_by_a_label() -> None:
    async with running(RedisSource("easel-system", "easel-redis", servers=("127.0.0.1:1",))) as upkeep:
        store_charts_policy(upkeep)

        async def is_there() -> Json | None:
            return upkeep.bench.api.objects.get(f"{POLICIES}/easel-redis-services")

        policy = await eventually(is_there)
        assert policy is not None
        assert policy["spec"]["podSelector"] == {"matchLabels": {"app.kubernetes.io/component": "redis"}}
        assert [rule["ports"] for rule in policy["spec"]["ingress"]] == [[{"port": "redis"}]]
        for role in ("gateway", "worker"):
            assert lets_in(policy, OWNER.namespace, service=OWNER.name, component=role)
        assert not lets_in(policy, "elsewhere", service=OWNER.name, component="worker")
        assert not lets_in(policy, OWNER.namespace, service="nobody", component="worker")
        assert not lets_in(policy, OWNER.namespace, component="worker")
        assert policy["metadata"]["ownerReferences"][0]["uid"] == "policy-uid", "it goes with the chart's"


async def test_the_last_service_that_goes_leaves_nobody_who_reaches_redis() -> None:
    async with running(RedisSource("easel-system", "easel-redis", servers=("127.0.0.1:1",))) as upkeep:
        store_charts_policy(upkeep)

        async def is_there() -> bool:
            return f"{POLICIES}/easel-redis-services" in upkeep.bench.api.objects

        await eventually(is_there)
        upkeep.bench.services.forget(KEY)

        async def is_empty() -> bool:
            policy = upkeep.bench.api.objects[f"{POLICIES}/easel-redis-services"]
            return policy["spec"]["ingress"] == [] and policy["spec"]["policyTypes"] == ["Ingress"]

        await eventually(is_empty)
        writes = [path for _, path in upkeep.bench.api.writes if path.startswith(POLICIES)]
        assert len(writes) == 2, "once for each change"


async def test_services_learn_of_redis_although_its_policy_is_refused() -> None:
    async with running(RedisSource("easel-system", "easel-redis", servers=("127.0.0.1:1",))) as upkeep:
        store_charts_policy(upkeep)

        def refuse(method: str, path: str) -> Exception | None:
            is_of_policy = method != "GET" and path.startswith(POLICIES)
            return ApiRefusedError(method, path, 403, "Forbidden", "cannot patch") if is_of_policy else None

        upkeep.bench.api.fault = refuse
        await asyncio.wait_for(upkeep.loop.has_url.wait(), 5)


async def test_without_the_charts_policy_there_is_none_of_the_operators() -> None:
    async with running(RedisSource("easel-system", "easel-redis", servers=("127.0.0.1:1",))) as upkeep:
        await asyncio.wait_for(upkeep.loop.has_url.wait(), 5)
        assert [path for _, path in upkeep.bench.api.writes if path.startswith(POLICIES)] == []


@pytest.mark.parametrize("is_ours", [True, False])
async def test_the_key_of_passwords_goes_with_the_installation_whose_redis_goes(is_ours: bool) -> None:
    """With a Redis of users' own it stays: what runs goes on with those passwords until Easel comes back."""
    source = RedisSource(
        "easel-system", "easel-redis", servers=("127.0.0.1:1",) if is_ours else (), service="easel-metrics"
    )
    async with running(source) as upkeep:
        metadata = {"name": "easel-metrics", "uid": "uid-of-the-service"}
        upkeep.bench.api.store("/api/v1/namespaces/easel-system/services/easel-metrics", {"metadata": metadata})
        data = {"key": base64.b64encode(b"of an earlier release").decode()}
        upkeep.bench.api.store(KEYS, {"metadata": {"name": "easel-redis-service-users"}, "data": data})

        async def is_kept() -> list[Json] | None:
            secret = upkeep.bench.api.objects[KEYS]
            is_written = "key-in-force" in secret["data"]
            return [secret["metadata"]] if is_written else None

        found = await eventually(is_kept)
        assert found is not None
        owners = found[0].get("ownerReferences", [])
        wanted = [{"apiVersion": "v1", "kind": "Service", **metadata}]
        assert owners == (wanted if is_ours else [])
