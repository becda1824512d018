"""The external metrics API changes hands while the operator runs: who scales follows, and each service says so."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta

import pytest
from easel_operator.cluster import metrics_endpoint
from easel_operator.cluster.capabilities import Installation
from easel_operator.cluster.client import ApiRefusedError
from easel_operator.cluster.external_metrics import ExternalMetricsServer
from easel_operator.cluster.metrics_endpoint import MetricsEndpoint
from easel_operator.handlers import metrics_api_upkeep
from easel_operator.handlers.metrics_api_upkeep import MetricsApiUpkeep
from easel_operator.objects import RESOURCE_BY_KIND, Json, ObjectKey

from tests.operator.fake_api import FakeApi
from tests.operator.handlers.test_reconciler import KEY, PATH, Bench
from tests.operator.metrics_api.support import NOW, build_authority
from tests.operator.objects import CAPABLE, OWNER, build_service
from tests.support.eventually import eventually
from tests.support.redis_server import find_free_port

CONFIG_MAP = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
API_SERVICE = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io"
HPA = f"/apis/autoscaling/v2/namespaces/{OWNER.namespace}/horizontalpodautoscalers/painter-worker"


class Upkeep:
    """The loops beside a reconciler, on an API server in memory and a real TLS server."""

    def __init__(self, *, is_api_wanted: bool = True, api: FakeApi | None = None) -> None:
        self.bench = Bench(api or FakeApi())
        self.api = self.bench.api
        trust = {"requestheader-client-ca-file": build_authority("ca").pem, "requestheader-allowed-names": "[]"}
        self.api.store(CONFIG_MAP, {"metadata": {"name": "extension-apiserver-authentication"}, "data": trust})
        if api is None:
            self.bench.submit(build_service())
        else:
            self.bench.services.put(api.objects[PATH])
        self.server = ExternalMetricsServer(stale_after=timedelta(seconds=30), clock=lambda: NOW)
        installation = Installation("easel", "easel-metrics", is_api_wanted=is_api_wanted)
        self.loops = MetricsApiUpkeep(
            client=self.api,
            endpoint=MetricsEndpoint(
                self.api, self.server, installation=installation, port=find_free_port(), clock=lambda: NOW
            ),
            installation=installation,
            shared=self.bench.shared,
            services=self.bench.services,
            queue=self.bench.queue,
            is_leader=lambda: True,
        )

    def register(self, namespace: str, service: str) -> None:
        """Somebody applies an APIService over whatever there is."""
        target = {"namespace": namespace, "name": service}
        self.api.store(API_SERVICE, {"metadata": {"name": API_SERVICE.rpartition("/")[2]}, "spec": {"service": target}})

    async def says(self, *parts: str) -> None:
        """The service's ScalingActive holds these, once it is looked at because of what changed."""

        async def does() -> bool:
            if len(self.bench.queue):
                await self.look()
            condition = self.read_condition()
            return all(part in json.dumps(condition) for part in parts)

        await eventually(does, 20)

    async def look(self) -> None:
        """One look at the service, after what the watch says of its HPA."""
        await self.bench.queue.get()
        await self.bench.reconciler.reconcile(KEY)
        self.bench.queue.done(KEY)
        if HPA not in self.api.objects:
            self.bench.children.remove(ObjectKey("HorizontalPodAutoscaler", OWNER.namespace, "painter-worker"))

    def read_condition(self) -> Json:
        conditions = self.api.objects[PATH].get("status", {}).get("conditions", ())
        return next((each for each in conditions if each["type"] == "ScalingActive"), {})


@contextlib.asynccontextmanager
async def running(upkeep: Upkeep) -> AsyncIterator[Upkeep]:
    loops = (upkeep.loops.keep_served(), upkeep.loops.keep_registered())
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield upkeep
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)
        await upkeep.server.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_endpoint, "ANY_ADDRESS", "127.0.0.1")
    monkeypatch.setattr(metrics_api_upkeep, "REGISTRATION_SECONDS", 0.02)
    monkeypatch.setattr(metrics_api_upkeep, "FIRST_LOOKS_SECONDS", 0.02)


async def test_an_adapter_that_takes_the_api_has_the_operator_scale_by_itself_until_it_is_gone() -> None:
    async with running(Upkeep()) as upkeep:

        async def is_ours() -> bool:
            return API_SERVICE in upkeep.api.objects

        await eventually(is_ours)
        await upkeep.look()
        assert HPA in upkeep.api.objects
        upkeep.register("keda", "keda-operator-metrics-apiserver")
        await upkeep.says("DirectScaling", "served by keda/keda-operator-metrics-apiserver", "left alone")
        assert HPA not in upkeep.api.objects
        del upkeep.api.objects[API_SERVICE]
        await upkeep.says("Pending")
        assert HPA in upkeep.api.objects
        assert upkeep.api.objects[API_SERVICE]["spec"]["service"]["namespace"] == "easel"


async def test_with_the_switch_the_operator_lets_go_says_so_and_scales_by_itself() -> None:
    upkeep = Upkeep(is_api_wanted=False)
    upkeep.register("easel", "easel-metrics")  # by the operator of before
    async with running(upkeep):
        await upkeep.says("DirectScaling", "externalMetrics.mode is Disabled", "left to other adapters")

        async def has_let_go() -> bool:
            if len(upkeep.bench.queue):
                await upkeep.look()
            return not {API_SERVICE, HPA} & set(upkeep.api.objects)

        await eventually(has_let_go)


async def test_an_api_server_that_refuses_the_registration_is_asked_again() -> None:
    async with running(Upkeep()) as upkeep:
        refused: list[str] = []

        def refuse(method: str, path: str) -> Exception | None:
            if (method, path) != ("PATCH", API_SERVICE) or len(refused) > 2:
                return None
            refused.append(path)
            return ApiRefusedError(method, path, 403, "Forbidden", "no create")

        upkeep.api.fault = refuse

        async def is_ours() -> bool:
            return API_SERVICE in upkeep.api.objects

        await eventually(is_ours)
        assert len(refused) == 3


async def test_a_restart_takes_no_autoscaler_away_until_the_api_is_registered_again() -> None:
    """The operator of before has given the registration back, as one does that ends without another replica."""
    before = Upkeep()
    async with running(before):
        await asyncio.wait_for(before.loops.wait_until_settled(), 20)
    await before.bench.settle()
    assert HPA in before.api.objects
    del before.api.objects[API_SERVICE]
    after = Upkeep(api=before.api)
    after.bench.shared.capabilities = replace(CAPABLE, is_metrics_api_ours=False, metrics_api_note="nobody has it")
    for body in before.api.objects.values():
        if body.get("kind") in RESOURCE_BY_KIND:
            after.bench.children.put_quietly(body)

    async with running(after):
        await after.loops.wait_until_settled()
        before.api.requests.clear()
        await after.bench.reconciler.reconcile(KEY)

    assert before.api.writes == []
    assert HPA in before.api.objects


async def test_services_do_not_wait_for_ever_for_an_api_that_cannot_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_api_upkeep, "SETTLE_SECONDS", 0.05)
    upkeep = Upkeep()
    upkeep.api.store(CONFIG_MAP, {"metadata": {"name": "extension-apiserver-authentication"}, "data": {}})
    async with running(upkeep):
        await asyncio.wait_for(upkeep.loops.wait_until_settled(), 20)
    assert API_SERVICE not in upkeep.api.objects
