"""The one registration of the external metrics API, against a real API server, its rights and its garbage collector."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from easel_contract import names
from easel_operator.cluster.capabilities import METRICS_API_SERVICE, Installation
from easel_operator.cluster.client import APPLY_PATCH, ApiRefusedError, KubernetesClient
from easel_operator.cluster.metrics_endpoint import Registration
from easel_operator.objects import API_SERVICES, CLUSTER_ROLES, Json
from kubernetes.aio.client import Configuration

from demo.cluster import devcluster_binary
from tests.support.api_server import OPERATOR_TOKEN, ApiServers
from tests.support.eventually import eventually

pytestmark = pytest.mark.cluster

CHART = Path(__file__).resolve().parents[3] / "helm/easel"
ROLE = "easel-operator"
OURS = Installation("easel-system", "easel-metrics", is_api_wanted=True, cluster_role=ROLE)
DISABLED = Installation("easel-system", "easel-metrics", is_api_wanted=False, cluster_role=ROLE)
CA = b"a CA"
KEDA = "served by keda/keda-operator-metrics-apiserver"


@pytest.fixture(scope="module")
def servers() -> Iterator[ApiServers]:
    with ApiServers() as started:
        yield started


@pytest.fixture(scope="module")
def api_server(servers: ApiServers) -> Configuration:
    configuration = servers.start("1.36")
    servers.start_controllers(configuration, "garbage-collector-controller")
    return configuration


class OperatorsClient(KubernetesClient):
    """With the rights of the operator's ServiceAccount, as the API server knows them; and what comes in between."""

    before: Callable[[str], Any] | None = None  # called with the method of each request

    async def _send(self, method: str, path: str, query: Mapping[str, str], *rest: Any, **more: Any) -> Any:
        if self.before is not None:
            await self.before(method)
        return await super()._send(method, path, query, *rest, **more)


@pytest.fixture
async def admin(api_server: Configuration) -> AsyncIterator[KubernetesClient]:
    client = KubernetesClient(api_server)
    await install_rights(client)
    yield client
    live = await client.get(API_SERVICES, None, METRICS_API_SERVICE)
    if live is not None:
        await client.delete(API_SERVICES, None, METRICS_API_SERVICE, uid=live["metadata"]["uid"])
    await client.close()


@pytest.fixture
async def operator(api_server: Configuration, admin: KubernetesClient) -> AsyncIterator[OperatorsClient]:
    configuration = copy(api_server)
    configuration.api_key = {"BearerToken": f"Bearer {OPERATOR_TOKEN}"}
    client = OperatorsClient(configuration)
    yield client
    await client.close()


async def install_rights(client: KubernetesClient) -> None:
    """The chart's ClusterRole and its binding, as `helm template | kubectl apply --server-side` does it."""
    helm = str(Path(devcluster_binary()).parent / "helm")
    command = [helm, "template", "easel", str(CHART), "--namespace", "easel-system"]
    rendered = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    for item in yaml.safe_load_all(rendered.stdout):
        if item and item["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            path = f"/apis/{item['apiVersion']}/{item['kind'].lower()}s/{item['metadata']['name']}"
            query = {"fieldManager": "kubectl"}
            await client.request("PATCH", path, query=query, body=item, content_type=APPLY_PATCH)


def build_kedas() -> Json:
    """KEDA's registration, as its chart and its manifests have it."""
    return {
        "apiVersion": API_SERVICES.api_version,
        "kind": API_SERVICES.kind,
        "metadata": {"name": METRICS_API_SERVICE, "labels": {"app.kubernetes.io/name": METRICS_API_SERVICE}},
        "spec": {
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": {"namespace": "keda", "name": "keda-operator-metrics-apiserver", "port": 443},
            "caBundle": "a2VkYQ==",
        },
    }


async def read(client: KubernetesClient) -> Json | None:
    return await client.get(API_SERVICES, None, METRICS_API_SERVICE)


async def test_the_operator_s_rights_are_enough_to_register_the_api_where_nobody_has_it(
    operator: OperatorsClient, admin: KubernetesClient
) -> None:
    assert await Registration(operator, OURS).settle(CA) == ""
    live = await read(admin)
    assert live is not None
    assert live["spec"]["service"] == {"namespace": "easel-system", "name": "easel-metrics", "port": 443}
    assert live["spec"]["caBundle"]
    assert "insecureSkipTLSVerify" not in live["spec"]
    methods = []

    async def note(method: str) -> None:
        methods.append(method)

    operator.before = note
    assert await Registration(operator, OURS).settle(CA) == ""
    assert set(methods) == {"GET"}, "a second look writes nothing"


async def test_the_operator_may_register_no_other_api(operator: OperatorsClient) -> None:
    other = {**build_kedas(), "metadata": {"name": "v1.metrics.k8s.io"}}
    with pytest.raises(ApiRefusedError) as refused:
        await operator.apply(API_SERVICES, other)
    assert refused.value.status == 403


async def test_a_replica_that_does_not_lead_registers_nothing(operator: OperatorsClient) -> None:
    assert "isn't registered yet" in await Registration(operator, OURS).settle(None)
    assert await read(operator) is None


async def test_another_adapter_s_registration_is_never_written(
    operator: OperatorsClient, admin: KubernetesClient
) -> None:
    await admin.create(API_SERVICES, build_kedas())
    methods = []

    async def note(method: str) -> None:
        methods.append(method)

    operator.before = note
    for installation in (OURS, DISABLED):
        said = await Registration(operator, installation).settle(CA)
        assert (KEDA in said) == installation.is_api_wanted
    live = await read(admin)
    assert live is not None
    assert live["spec"] == build_kedas()["spec"]
    assert set(methods) == {"GET"}


async def test_an_adapter_that_comes_between_a_look_and_the_registration_keeps_it(
    operator: OperatorsClient, admin: KubernetesClient
) -> None:
    methods = []

    async def install_keda(method: str) -> None:
        methods.append(method)
        if method == "PATCH":
            await admin.create(API_SERVICES, build_kedas())

    operator.before = install_keda
    assert KEDA in await Registration(operator, OURS).settle(CA)
    assert methods.count("PATCH") == 1, "the API server has refused it"
    live = await read(admin)
    assert live is not None
    assert live["spec"] == build_kedas()["spec"]


async def test_with_the_switch_the_slot_is_given_back_and_another_adapter_can_be_installed(
    operator: OperatorsClient, admin: KubernetesClient
) -> None:
    await Registration(operator, OURS).settle(CA)
    note = await Registration(operator, DISABLED).settle(CA)
    assert "externalMetrics.mode is Disabled" in note
    await admin.create(API_SERVICES, build_kedas())  # it would refuse one that is there
    assert "externalMetrics.mode is Disabled" in await Registration(operator, DISABLED).settle(CA)


async def test_the_slot_is_given_back_although_somebody_writes_its_status_meanwhile(
    operator: OperatorsClient, admin: KubernetesClient
) -> None:
    await Registration(operator, OURS).settle(CA)
    touches = iter(["once"])

    async def touch(method: str) -> None:
        if method == "DELETE" and (word := next(touches, None)):
            patch = {"metadata": {"annotations": {"example.com/touched": word}}}
            await admin.merge(API_SERVICES, None, METRICS_API_SERVICE, patch)

    operator.before = touch
    await Registration(operator, DISABLED).settle(CA)
    assert await read(admin) is None


async def test_what_is_given_back_is_left_where_another_adapter_has_just_taken_it(
    operator: OperatorsClient, admin: KubernetesClient
) -> None:
    await Registration(operator, OURS).settle(CA)

    async def install_keda(method: str) -> None:
        if method == "DELETE":
            await admin.apply(API_SERVICES, build_kedas(), field_manager="argocd-controller")

    operator.before = install_keda
    await Registration(operator, DISABLED).settle(CA)
    live = await read(admin)
    assert live is not None
    assert live["spec"]["service"]["namespace"] == "keda"


async def test_an_adapter_applied_over_ours_is_not_deleted_together_with_us(
    operator: OperatorsClient, admin: KubernetesClient
) -> None:
    await Registration(operator, OURS).settle(CA)
    await admin.apply(API_SERVICES, build_kedas(), field_manager="argocd-controller")
    assert KEDA in await Registration(operator, OURS).settle(CA)
    live = await read(admin)
    assert live is not None
    assert "ownerReferences" not in live["metadata"]
    assert names.LABEL_MANAGED_BY not in live["metadata"].get("labels", {})
    assert live["spec"]["caBundle"] == "a2VkYQ=="


@pytest.mark.parametrize("earlier", ["nobody", "the chart of before"])
async def test_uninstalling_in_any_way_gives_the_api_back(
    operator: OperatorsClient, admin: KubernetesClient, earlier: str
) -> None:
    """The operator is gone by then: what deletes the ClusterRole (helm, kubectl, Argo, Flux) deletes this too."""
    if earlier != "nobody":
        rendered = build_kedas()  # as the chart rendered its own
        rendered["spec"] |= {"service": {"namespace": "easel-system", "name": "easel-metrics", "port": 443}}
        await admin.apply(API_SERVICES, rendered, field_manager="helm")
    assert await Registration(operator, OURS).settle(CA) == ""
    role = await admin.get(CLUSTER_ROLES, None, ROLE)
    assert role is not None
    await admin.delete(CLUSTER_ROLES, None, ROLE, uid=role["metadata"]["uid"])

    async def is_given_back() -> bool:
        return await read(admin) is None

    await eventually(is_given_back, 60)


async def test_a_registration_whose_owner_was_made_anew_goes_on(
    operator: OperatorsClient, admin: KubernetesClient
) -> None:
    """Whether the operator or the garbage collector notices the dangling reference first."""
    await Registration(operator, OURS).settle(CA)
    live = await read(admin)
    assert live is not None
    (owner,) = live["metadata"]["ownerReferences"]
    stale = {**owner, "uid": "8f3b4c52-0000-4000-8000-000000000009"}
    await admin.merge(API_SERVICES, None, METRICS_API_SERVICE, {"metadata": {"ownerReferences": [stale]}})

    async def goes_on() -> bool:
        with suppress(ApiRefusedError):
            await Registration(operator, OURS).settle(CA)
        live = await read(admin)
        return live is not None and live["metadata"].get("ownerReferences") == [owner]

    await eventually(goes_on, 60)
