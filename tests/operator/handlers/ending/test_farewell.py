"""What an operator leaves behind when it is told to end: to another replica, or to nobody."""

import asyncio
from typing import Any

import pytest
from easel_contract.conditions import ConditionStatus, ConditionType, Reason
from easel_operator.cluster.capabilities import METRICS_API_SERVICE, Installation
from easel_operator.cluster.client import ApiRefusedError, ApiUnreachableError
from easel_operator.cluster.leadership import Leadership
from easel_operator.cluster.metrics_endpoint import MetricsEndpoint
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.decide.status import read_conditions
from easel_operator.handlers.ending.farewell import Farewell
from easel_operator.handlers.ending.last_words import LastWords
from easel_operator.objects import API_SERVICES, DEPLOYMENTS, ENDPOINT_SLICES, LEASES, Json

from tests.operator.fake_api import FakeApi
from tests.operator.handlers.test_reconciler import KEY, PATH, Bench
from tests.operator.objects import NOW, build_service

REGISTRATION = API_SERVICES.path(None, METRICS_API_SERVICE)
DEPLOYMENT = DEPLOYMENTS.path("easel", "easel-operator")
LEASE = LEASES.path("easel", "easel-operator")
SLICE = ENDPOINT_SLICES.path("easel", "easel-metrics-x")
OURS = Installation("easel", "easel-metrics", is_api_wanted=True)


class ServedEndpoint(MetricsEndpoint):
    """As one that listens."""

    is_serving = True


class Ending:
    """An operator that leads, with a settled service, an API that it has registered, and its Deployment."""

    def __init__(self, bench: Bench, *, identity: str = "operator-a") -> None:
        self.api = bench.api
        self.bench = bench
        self.leadership = Leadership(
            bench.api, namespace="easel", identity=identity, duration_seconds=5, clock=lambda: NOW, monotonic=float
        )
        endpoint = ServedEndpoint(bench.api, None, installation=OURS, port=0, clock=lambda: NOW)  # type: ignore[arg-type]
        writer = ClusterWriter(bench.api, bench.children, pod_name=identity, clock=lambda: NOW)
        self.farewell = Farewell(
            client=bench.api,
            last_words=LastWords(writer, give_back=endpoint.give_back, clock=lambda: NOW),
            services=bench.services,
            endpoint=endpoint,
            leadership=self.leadership,
            namespace="easel",
            deployment="easel-operator",
            pod_name=identity,
            serve_on_seconds=0,
        )

    @classmethod
    async def begin(cls, *, replicas: int) -> "Ending":
        bench = Bench(FakeApi())
        bench.submit(build_service())
        await bench.settle()
        ending = cls(bench)
        target = {"namespace": "easel", "name": "easel-metrics"}
        bench.api.store(REGISTRATION, {"metadata": {"name": METRICS_API_SERVICE}, "spec": {"service": target}})
        bench.api.store(DEPLOYMENT, {"metadata": {"name": "easel-operator"}, "spec": {"replicas": replicas}})
        ending.say_who_is_ready("operator-a")
        await ending.lead()
        return ending

    async def lead(self) -> None:
        running = asyncio.create_task(self.leadership.run())
        await self.leadership.wait_until_leader()
        running.cancel()
        await asyncio.wait([running])

    def say_who_is_ready(self, *pods: str) -> None:
        endpoints = [{"conditions": {"ready": True}, "targetRef": {"name": pod}} for pod in pods]
        self.api.store(SLICE, {"metadata": {"name": "easel-metrics-x"}, "endpoints": endpoints})

    @property
    def holder(self) -> str:
        return str(self.api.objects[LEASE]["spec"]["holderIdentity"])

    def read_status(self) -> dict[str, tuple[str, str]]:
        conditions: list[Json] = self.api.objects[PATH]["status"]["conditions"]
        return {each["type"]: (each["status"], each["reason"]) for each in conditions}


async def test_a_restarted_operator_leaves_the_lease_at_once_and_the_api_to_the_replica_that_serves_it() -> None:
    ending = await Ending.begin(replicas=2)
    ending.say_who_is_ready("operator-a", "operator-b")
    before = ending.read_status()
    await ending.farewell.say()
    assert ending.holder == ""
    assert REGISTRATION in ending.api.objects
    assert ending.read_status() == before


async def test_the_last_one_that_serves_the_api_gives_it_back_so_that_namespaces_can_be_deleted() -> None:
    ending = await Ending.begin(replicas=1)
    before = ending.read_status()
    await ending.farewell.say()
    assert REGISTRATION not in ending.api.objects
    assert ending.read_status() == before, "it comes again"


async def test_an_api_of_another_adapter_is_never_given_back() -> None:
    ending = await Ending.begin(replicas=0)
    keda: Json = {"metadata": {"name": METRICS_API_SERVICE}, "spec": {"service": {"namespace": "keda", "name": "keda"}}}
    ending.api.store(REGISTRATION, keda)
    await ending.farewell.say()
    assert ending.api.objects[REGISTRATION]["spec"] == keda["spec"]


@pytest.mark.parametrize("way", ["scaled to none", "deleted", "being deleted"])
async def test_services_don_t_say_ready_after_the_operator_is_gone_for_good(way: str) -> None:
    ending = await Ending.begin(replicas=0 if way == "scaled to none" else 2)
    if way == "deleted":
        del ending.api.objects[DEPLOYMENT]
    if way == "being deleted":
        ending.api.objects[DEPLOYMENT]["metadata"]["deletionTimestamp"] = "2026-11-27T12:00:00Z"
    ending.say_who_is_ready("operator-a", "operator-b")  # it ends too
    await ending.farewell.say()
    said = ending.read_status()
    for kind in ("Ready", "ModelLoaded", "ScalingActive", "CapacityAvailable"):
        assert said[kind] == ("Unknown", "OperatorGone")
    assert REGISTRATION not in ending.api.objects
    assert ending.holder == "operator-a", "another replica, about to end, must not write over it"


@pytest.mark.parametrize(("refused", "is_said"), [({DEPLOYMENT, LEASE, SLICE}, True), ({DEPLOYMENT}, False)])
async def test_rights_that_are_gone_altogether_are_an_end_for_good_too(refused: set[str], *, is_said: bool) -> None:
    """As where the operator's namespace is deleted; a right that was never given is none."""
    ending = await Ending.begin(replicas=2)
    ending.say_who_is_ready("operator-a", "operator-b")
    ending.api.fault = lambda method, path: (
        ApiRefusedError(method, path, 403, "Forbidden", "not allowed") if path in refused else None
    )
    await ending.farewell.say()
    assert (ending.read_status()["Ready"] == ("Unknown", "OperatorGone")) == is_said
    assert (REGISTRATION not in ending.api.objects) == is_said


async def test_a_replica_that_does_not_lead_says_nothing_of_services() -> None:
    ending = await Ending.begin(replicas=0)
    before = ending.read_status()
    await Ending(ending.bench, identity="operator-b").farewell.say()
    assert ending.read_status() == before


async def test_an_operator_that_is_installed_again_says_what_is_true() -> None:
    ending = await Ending.begin(replicas=0)
    before = ending.read_status()
    await ending.farewell.say()
    bench = ending.bench
    bench.services.put(ending.api.objects[PATH])
    await bench.settle()
    assert ending.read_status() == before
    conditions = read_conditions(ending.api.objects[PATH])
    assert conditions[ConditionType.READY].reason is not Reason.OPERATOR_GONE
    assert conditions[ConditionType.READY].status is not ConditionStatus.UNKNOWN
    assert bench.services.get(KEY) is not None


@pytest.mark.parametrize("what", ["unreachable", "refused"])
async def test_an_api_server_that_is_away_or_refuses_keeps_no_operator_from_ending(what: str) -> None:
    ending = await Ending.begin(replicas=0)

    def fail(method: str, path: str) -> Any:
        if what == "unreachable":
            return ApiUnreachableError(method, path, TimeoutError())
        return ApiRefusedError(method, path, 403, "Forbidden", "no right any more")

    ending.api.fault = fail
    await ending.farewell.say()
    assert REGISTRATION in ending.api.objects
