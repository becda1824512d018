"""Workers on counted devices of every name, by the real scheduler: as many as there are, and who is left says why.

The nodes are objects without a kubelet: their devices are what a device plugin or a DRA driver would have published.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from easel_operator.cluster.client import KubernetesClient
from easel_operator.objects import PODS, SERVICE_ACCOUNTS, Json, Resource, find_condition
from kubernetes.aio.client import Configuration

from tests.operator.cluster.test_gpu_requests import read_worker
from tests.operator.cluster.test_pod_templates import build
from tests.support.api_server import ApiServers
from tests.support.eventually import eventually

pytestmark = pytest.mark.cluster

NODES = Resource("Node", "v1", "nodes")
DEVICE_CLASSES = Resource("DeviceClass", "resource.k8s.io/v1", "deviceclasses")
RESOURCE_SLICES = Resource("ResourceSlice", "resource.k8s.io/v1", "resourceslices")
CLAIM_TEMPLATES = Resource("ResourceClaimTemplate", "resource.k8s.io/v1", "resourceclaimtemplates")
DRIVER = "gpu.example.com"
DEVICES = 2


@pytest.fixture(scope="module")
def api_server() -> Iterator[Configuration]:
    with ApiServers() as servers:
        configuration = servers.start("1.37")  # the scheduler's own: it asks for kinds that are new
        servers.start_controllers(configuration, "resourceclaim-controller")
        servers.start_scheduler(configuration)
        yield configuration


@pytest.fixture
async def client(api_server: Configuration) -> AsyncIterator[KubernetesClient]:
    made = KubernetesClient(api_server)
    yield made
    await made.close()


async def make_node(client: KubernetesClient, name: str, devices: dict[str, str]) -> None:
    """Ready, with a label of its name and with the taint that nodes with such devices have."""
    body: Json = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"pool": name}}}
    await client.request("POST", NODES.path(None), body=body)
    # In place of the taint of a node that isn't ready, which the API server gave it.
    taints = [{"key": resource, "value": "present", "effect": "NoSchedule"} for resource in devices]
    await client.merge(NODES, None, name, {"spec": {"taints": taints}})
    amounts = {"cpu": "64", "memory": "256Gi", "pods": "110", **devices}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "as told by a test"}
    status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
    await client.merge(NODES, None, name, {"status": status}, subresource="status")


async def run_workers(client: KubernetesClient, name: str, spec: Json, count: int) -> None:
    """As many pods of the worker's template as a Deployment would have."""
    children = build(name, {**spec, "worker": {**spec["worker"], "nodeSelector": {"pool": name}}})
    template = read_worker(children)
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "default", "name": name}}
    await client.apply(SERVICE_ACCOUNTS, account)
    for number in range(count):
        metadata = {**template["metadata"], "namespace": "default", "name": f"{name}-{number}"}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        await client.request("POST", PODS.path("default"), body=pod)


async def find_placed(client: KubernetesClient, name: str, count: int) -> tuple[int, str]:
    """How many have a node, and what the scheduler says of another."""
    pods = await asyncio.gather(*(client.get(PODS, "default", f"{name}-{number}") for number in range(count)))
    said = [find_condition(pod, "PodScheduled") for pod in pods if pod is not None]
    placed = sum(bool(pod["spec"].get("nodeName")) for pod in pods if pod is not None)
    refusals = [each["message"] for each in said if each is not None and each["status"] == "False"]
    return placed, refusals[0] if refusals else ""


@pytest.mark.parametrize(
    ("name", "resource", "each"),
    [
        ("nvidia", "nvidia.com/gpu", 1),
        ("amd", "amd.com/gpu", 1),
        ("mig", "nvidia.com/mig-1g.5gb", 1),
        ("sliced", "nvidia.com/gpu.shared", 1),
        ("pairs", "nvidia.com/gpu", 2),
    ],
)
async def test_workers_take_the_devices_that_there_are_and_no_more(
    name: str, resource: str, each: int, client: KubernetesClient
) -> None:
    await make_node(client, name, {resource: str(DEVICES * each)})
    await run_workers(client, name, {"worker": {"gpu": {"resourceName": resource, "count": each}}}, DEVICES + 1)

    async def are_taken() -> bool:
        placed, refusal = await find_placed(client, name, DEVICES + 1)
        return placed == DEVICES and f"Insufficient {resource}" in refusal

    await eventually(are_taken, 60)


async def test_workers_take_the_devices_that_a_driver_publishes_by_claim(client: KubernetesClient) -> None:
    name = "claimed"
    await make_node(client, name, {})
    selector = {"cel": {"expression": f'device.driver == "{DRIVER}"'}}
    body: Json = {"apiVersion": "resource.k8s.io/v1", "metadata": {"name": "gpu"}}
    await client.apply(DEVICE_CLASSES, {**body, "kind": "DeviceClass", "spec": {"selectors": [selector]}})
    published = {
        "driver": DRIVER,
        "nodeName": name,
        "pool": {"name": name, "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": f"gpu-{number}"} for number in range(DEVICES)],
    }
    await client.apply(RESOURCE_SLICES, {**body, "kind": "ResourceSlice", "spec": published})
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu"}}
    template = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"namespace": "default", "name": "one-gpu"},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }
    await client.apply(CLAIM_TEMPLATES, template)
    overlay = {
        "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
        "containers": [{"name": "server", "resources": {"claims": [{"name": "gpu"}]}}],
    }
    spec: Json = {"worker": {"gpu": {"count": 0}, "podTemplate": {"spec": overlay}}}
    await run_workers(client, name, spec, DEVICES + 1)

    async def are_taken() -> bool:
        placed, refusal = await find_placed(client, name, DEVICES + 1)
        return placed == DEVICES and "cannot allocate all claims" in refusal

    await eventually(are_taken, 60)
