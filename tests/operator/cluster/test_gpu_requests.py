"""How workers ask for GPUs, whoever makes them, on a real API server; and resources that a ResourceQuota asks for."""

from typing import Any

import pytest
from easel_operator.cluster.client import ApiRefusedError, KubernetesClient
from easel_operator.objects import PODS, SERVICE_ACCOUNTS, Json, Resource

from tests.operator.cluster.test_pod_templates import build, find_drifted, write

pytestmark = pytest.mark.cluster

QUOTAS = Resource("ResourceQuota", "v1", "resourcequotas")
LIMIT_RANGES = Resource("LimitRange", "v1", "limitranges")
NAMESPACES = Resource("Namespace", "v1", "namespaces")
DEFAULTS: Json = {
    "worker": {
        "resources": {
            "requests": {"cpu": "1", "memory": "8Gi", "ephemeral-storage": "2Gi"},
            "limits": {"cpu": "4", "memory": "16Gi", "ephemeral-storage": "20Gi"},
        }
    },
    "gateway": {
        "resources": {
            "requests": {"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "64Mi"},
            "limits": {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "1Gi"},
        }
    },
}


def read_worker(children: tuple[Json, ...]) -> Json:
    (found,) = [
        each for each in children if each["kind"] == "Deployment" and each["metadata"]["name"].endswith("-worker")
    ]
    template: Json = found["spec"]["template"]
    return template


@pytest.mark.parametrize(
    ("name", "count", "resource"),
    [
        ("nvidia", 1, "nvidia.com/gpu"),
        ("amd", 2, "amd.com/gpu"),
        ("intel", 1, "gpu.intel.com/xe"),
        ("mig", 1, "nvidia.com/mig-3g.40gb"),
        ("sliced", 1, "nvidia.com/gpu.shared"),
    ],
)
async def test_gpus_of_any_maker_are_asked_for_by_their_name_and_their_taint_is_tolerated(
    name: str, count: int, resource: str, client: KubernetesClient
) -> None:
    children = build(name, {"worker": {"gpu": {"resourceName": resource, "count": count}}})
    assert await write(client, children) == ()
    assert await find_drifted(client, children) == []
    pod = read_worker(children)["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {resource: str(count)}
    assert {"key": resource, "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]


async def test_gpus_can_be_claimed_by_dynamic_resource_allocation(client: KubernetesClient) -> None:
    claim = {"name": "gpu", "resourceClaimTemplateName": "one-l4"}
    overlay = {
        "resourceClaims": [claim],
        "containers": [{"name": "server", "resources": {"claims": [{"name": "gpu"}]}}],
    }
    spec: Json = {"worker": {"gpu": {"count": 0}, "podTemplate": {"spec": overlay}}}
    children = build("claimed", spec)
    assert await write(client, children) == ()
    assert await find_drifted(client, children) == []
    assert await write(client, build("claimed", {"worker": {"gpu": {"count": 1}}})) == (), "and back"
    pod = read_worker(children)["spec"]
    assert (pod["resourceClaims"], pod["containers"][0]["resources"]) == ([claim], {"claims": [{"name": "gpu"}]})


async def find_refusal(client: KubernetesClient, namespace: str, template: Json) -> str:
    """What the API server's admission says of a pod of this template; empty if it takes it. Nothing is stored."""
    metadata = {**template["metadata"], "namespace": namespace, "generateName": "pod-"}
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    try:
        await client.request("POST", PODS.path(namespace), query={"dryRun": "All"}, body=pod)
    except ApiRefusedError as error:
        return error.message
    return ""


def build_cached(name: str, defaults: Json | None) -> tuple[Json, ...]:
    """With the Job that fills the model's cache."""
    source = {"huggingFace": {"repository": "studio/model"}}
    return build(name, {"model": {"source": source, "cache": {"size": "8Gi"}}}, defaults)


async def make_namespace(client: KubernetesClient, namespace: str) -> None:
    body: Json = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    await client.request("POST", NAMESPACES.path(None), body=body)
    metadata = {"namespace": namespace, "name": namespace}
    await client.apply(SERVICE_ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})


async def test_default_resources_pass_a_quota_that_asks_for_them_in_all_pods(client: KubernetesClient) -> None:
    namespace, hard = (
        "metered",
        {
            "requests.cpu": "40",
            "requests.memory": "80Gi",
            "limits.cpu": "90",
            "limits.memory": "90Gi",
            "requests.ephemeral-storage": "40Gi",
            "limits.ephemeral-storage": "90Gi",
        },
    )
    await make_namespace(client, namespace)
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"namespace": namespace, "name": "all"}}
    await client.apply(QUOTAS, {**quota, "spec": {"hard": hard}})
    # A controller's part, which doesn't run here: how much of it is in use.
    status = {"hard": hard, "used": dict.fromkeys(hard, "0")}
    await client.merge(QUOTAS, namespace, "all", {"status": status}, subresource="status")
    for defaults, is_taken in ((None, False), (DEFAULTS, True)):
        asked = [each for each in build_cached(namespace, defaults) if each["kind"] in {"Deployment", "Job"}]
        assert len(asked) == 3
        for child in asked:
            said = await find_refusal(client, namespace, child["spec"]["template"])
            assert ("must specify" in said and "limits.cpu" in said) is not is_taken, said
            assert (said == "") is is_taken, said


async def test_a_limit_range_fills_in_what_nobody_named_and_takes_pods_with_defaults(client: KubernetesClient) -> None:
    namespace = "ranged"
    await make_namespace(client, namespace)
    filled = {"cpu": "3", "memory": "5Gi", "ephemeral-storage": "3Gi"}
    limit = {"type": "Container", "default": filled, "defaultRequest": filled, "max": {"cpu": "4", "memory": "16Gi"}}
    limit["min"] = {"cpu": "50m", "memory": "64Mi"}
    body: Json = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"namespace": namespace, "name": "all"}}
    await client.apply(LIMIT_RANGES, {**body, "spec": {"limits": [limit]}})
    for defaults in (None, DEFAULTS):
        for child in build_cached(namespace, defaults):
            if child["kind"] in {"Deployment", "Job"}:
                assert await find_refusal(client, namespace, child["spec"]["template"]) == ""
