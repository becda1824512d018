"""Rights to Secrets come with a namespace's first service and go with its last, against an API server in memory."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from easel_operator.cluster.client import ApiRefusedError, KubernetesError
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.handlers.tenancy.secrets_access import SecretsAccess
from easel_operator.objects import CLUSTER_ROLES, ROLE_BINDINGS, SELF_ACCESS_REVIEWS, Json

from tests.operator.fake_api import FakeApi
from tests.operator.objects import build_service
from tests.support.eventually import eventually

ROLE = "easel-operator-secrets"
ROLE_PATH = CLUSTER_ROLES.path(None, ROLE)


class RbacApi(FakeApi):
    """Lists bindings of all namespaces; says "not yet" a few times after each binding, as a real one may."""

    def __init__(self) -> None:
        super().__init__()
        self.store(ROLE_PATH, {"metadata": {"name": ROLE, "uid": "uid-of-the-role"}})
        self.refusals = 0

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Any = None, **rest: Any
    ) -> Json:
        if path == ROLE_BINDINGS.path(None):
            assert query is not None
            assert query["fieldSelector"] == f"metadata.name={ROLE}", "it may list no others"
            self.requests.append((method, path))
            items = [each for key, each in self.objects.items() if key.endswith(f"/rolebindings/{ROLE}")]
            return {"items": items, "metadata": {"resourceVersion": "1"}}
        answer = await super().request(method, path, query=query, body=body, **rest)
        if path == SELF_ACCESS_REVIEWS.path(None) and self.refusals:
            self.refusals -= 1
            return {"status": {"allowed": False}}
        return answer


class Bench:
    def __init__(self) -> None:
        self.api = RbacApi()
        self.now = 0.0
        self.services = ServiceStore(on_change=lambda _key: None)
        self.access = SecretsAccess(
            self.api,
            self.services,
            role=ROLE,
            account="easel-operator",
            account_namespace="easel-system",
            monotonic=lambda: self.now,
            resync_seconds=120,
            look_seconds=0,
        )

    def submit(self, namespace: str, name: str = "painter") -> Json:
        service = build_service()
        service["metadata"] |= {"namespace": namespace, "name": name, "uid": f"{namespace}/{name}"}
        self.services.put(service)
        return service

    def delete(self, service: Json) -> None:
        self.services.observe("DELETED", {**service, "metadata": {**service["metadata"], "resourceVersion": "2000"}})

    def bound(self) -> set[str]:
        return {path.split("/")[5] for path in self.api.objects if "/rolebindings/" in path}


async def test_each_namespace_with_services_has_one_binding_which_goes_with_its_last_service() -> None:
    bench = Bench()
    first, second = bench.submit("a", "one"), bench.submit("a", "two")
    bench.submit("b")
    await bench.access.settle()
    assert bench.bound() == {"a", "b"}
    binding = bench.api.objects[ROLE_BINDINGS.path("a", ROLE)]
    assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE}
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "easel-operator", "namespace": "easel-system"}]
    assert binding["metadata"]["ownerReferences"][0]["uid"] == "uid-of-the-role", "it goes with the chart"
    bench.delete(first)
    await bench.access.settle()
    assert bench.bound() == {"a", "b"}
    bench.delete(second)
    await bench.access.settle()
    assert bench.bound() == {"b"}


async def test_what_is_as_it_must_be_is_not_written_again() -> None:
    bench = Bench()
    bench.submit("a")
    await bench.access.settle()
    before = len(bench.api.writes)
    await bench.access.settle()
    await bench.access.grant("a")
    assert len(bench.api.writes) == before


async def test_bindings_of_a_time_when_no_operator_ran_are_put_right() -> None:
    """Of services deleted meanwhile, of a chart that was installed anew, of another account."""
    bench = Bench()
    bench.submit("a")
    await bench.access.settle()
    after = Bench()
    after.api.objects = {**bench.api.objects}
    path = ROLE_BINDINGS.path("gone", ROLE)
    after.api.store(
        path,
        {
            **after.api.objects[ROLE_BINDINGS.path("a", ROLE)],
            "metadata": {
                "namespace": "gone",
                "name": ROLE,
            },
        },
    )
    after.api.store(ROLE_PATH, {"metadata": {"name": ROLE, "uid": "uid-of-another"}})
    after.submit("a")
    await after.access.settle()
    assert after.bound() == {"a"}
    (owner,) = after.api.objects[ROLE_BINDINGS.path("a", ROLE)]["metadata"]["ownerReferences"]
    assert owner["uid"] == "uid-of-another"


async def test_a_right_is_waited_for_until_the_api_server_knows_of_it() -> None:
    bench = Bench()
    bench.api.refusals = 2
    await bench.access.grant("a")
    asked = [path for _, path in bench.api.requests if path == SELF_ACCESS_REVIEWS.path(None)]
    assert len(asked) == 3


async def test_a_binding_that_somebody_took_away_comes_back_once_it_is_missed() -> None:
    bench = Bench()
    bench.submit("a")
    await bench.access.settle()
    del bench.api.objects[ROLE_BINDINGS.path("a", ROLE)]
    await bench.access.grant("a")
    assert bench.bound() == set(), "nothing has shown it yet"
    bench.access.doubt("a")
    await bench.access.grant("a")
    assert bench.bound() == {"a"}


async def test_the_loop_follows_the_services_and_asks_nothing_meanwhile() -> None:
    bench = Bench()
    service = bench.submit("a")
    looking = asyncio.create_task(bench.access.run())

    async def is_bound() -> bool:
        return bench.bound() == {"a"}

    async def is_free() -> bool:
        return bench.bound() == set()

    try:
        await eventually(is_bound)
        before = len(bench.api.requests)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(bench.api.requests) == before
        bench.delete(service)
        await eventually(is_free)
    finally:
        looking.cancel()


async def test_a_chart_without_the_role_is_said_and_the_loop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.submit("a")
    role = bench.api.objects.pop(ROLE_PATH)
    with pytest.raises(KubernetesError, match="install it again"):
        await bench.access.settle()
    looking = asyncio.create_task(bench.access.run())

    async def is_said() -> bool:
        return "trying again" in caplog.text

    async def is_bound() -> bool:
        return bench.bound() == {"a"}

    try:
        await eventually(is_said)
        bench.api.store(ROLE_PATH, role)
        await eventually(is_bound)
    finally:
        looking.cancel()


async def test_without_a_role_nothing_is_asked() -> None:
    api = RbacApi()
    access = SecretsAccess(
        api,
        ServiceStore(on_change=lambda _key: None),
        role="",
        account="easel-operator",
        account_namespace="easel-system",
        monotonic=lambda: 0.0,
        resync_seconds=120,
    )
    await access.grant("a")
    assert api.requests == []


async def test_a_refusal_ends_only_this_try() -> None:
    bench = Bench()
    bench.api.fault = lambda method, path: (
        ApiRefusedError(method, path, 403, "Forbidden", "a policy says no") if method == "PATCH" else None
    )
    with pytest.raises(ApiRefusedError, match="a policy says no"):
        await bench.access.grant("a")
    bench.api.fault = lambda _method, _path: None
    await bench.access.grant("a")
    assert bench.bound() == {"a"}
