"""Whatever another hand sets in a child, the child can be applied again: on a real API server, by its own rules."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
from easel_contract.resource import StableDiffusionServiceSpec
from easel_operator.cluster.client import ApiRefusedError, KubernetesClient
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.decide.drift import is_applied
from easel_operator.decide.snapshot import ReconcilePlan
from easel_operator.manifests.children import build_children
from easel_operator.manifests.metadata import ChildContext, Owner
from easel_operator.objects import RESOURCE_BY_KIND, Json, to_object_key
from kubernetes.aio.client import Configuration

from tests.operator.objects import HUB_MODEL, RELEASE
from tests.support.api_server import ApiServers

pytestmark = pytest.mark.cluster

OWNER = Owner("default", "painter", "8f3b4c52-0000-4000-8000-000000000001")
STRATEGIC_PATCH = "application/strategic-merge-patch+json"


@pytest.fixture(scope="module")
def api_server() -> Iterator[Configuration]:
    with ApiServers() as servers:
        yield servers.start("1.36")


class Bench:
    """A service's children on the API server, and the writer that keeps them."""

    def __init__(self, client: KubernetesClient, name: str) -> None:
        self.client = client
        self.owner = replace(OWNER, name=name)
        self.writer = ClusterWriter(client, ObjectStore(lambda _: None), pod_name="a", clock=lambda: datetime.now(UTC))

    def build(self, *, grace_seconds: int = 60) -> tuple[Json, ...]:
        """All children; another grace period is another worker Deployment."""
        resources = {"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}}
        spec = {"model": HUB_MODEL, "scaling": {"maxReplicas": 3}, "worker": {"resources": resources}}
        context = ChildContext(self.owner, StableDiffusionServiceSpec.model_validate(spec), RELEASE, grace_seconds)
        return build_children(context, has_hpa=True, is_tolerance_supported=True)

    async def apply(self, children: tuple[Json, ...]) -> None:
        """As a reconcile does; none may be refused."""
        assert await self.writer.write_children(self.owner, ReconcilePlan(applies=children), {}) == ()

    async def read(self, child: Json) -> Json:
        """The child as it is stored."""
        key = to_object_key(child)
        live = await self.client.get(RESOURCE_BY_KIND[key.kind], key.namespace, key.name)
        assert live is not None
        return {**live, "kind": key.kind}

    async def meddle(self, child: Json, patch: Json) -> None:
        """What kubectl set, edit and patch do."""
        key = to_object_key(child)
        path = RESOURCE_BY_KIND[key.kind].path(key.namespace, key.name)
        query = {"fieldManager": "kubectl-set"}
        await self.client.request("PATCH", path, query=query, body=patch, content_type=STRATEGIC_PATCH)


@dataclass(frozen=True)
class Meddling:
    """What somebody sets in which child."""

    kind: str
    suffix: str  # of the child's name
    patch: Json
    event: str = "FieldsTakenOver"


def in_pod(**members: object) -> Json:
    return {"spec": {"template": {"spec": members}}}


def in_container(**members: object) -> Json:
    return in_pod(containers=[{"name": "server", **members}])


MEDDLINGS = {
    "a variable's value": Meddling(
        "Deployment", "-worker", in_container(env=[{"name": "EASEL_POD_NAME", "value": "x", "valueFrom": None}])
    ),
    "another handler of a probe": Meddling(
        "Deployment", "-gateway", in_container(livenessProbe={"httpGet": None, "tcpSocket": {"port": 1}})
    ),
    "another kind of volume": Meddling(
        "Deployment",
        "-worker",
        in_pod(volumes=[{"name": "tmp", "emptyDir": None, "hostPath": {"path": "/var/scratch"}}]),
    ),
    "another handler before the stop": Meddling(
        "Deployment", "-gateway", in_container(lifecycle={"preStop": {"sleep": None, "exec": {"command": ["true"]}}})
    ),
    "a port of ours by another number": Meddling(
        "Deployment",
        "-worker",
        in_container(ports=[{"$patch": "replace"}, {"name": "http", "containerPort": 1234}]),
    ),
    "another strategy": Meddling(
        "Deployment", "-worker", {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}}
    ),
    "a budget by the other measure": Meddling(
        "PodDisruptionBudget", "-gateway", {"spec": {"maxUnavailable": None, "minAvailable": 1}}
    ),
    "a Service of another type": Meddling("Service", "", {"spec": {"type": "NodePort"}}),
    "a Service that leads elsewhere": Meddling(
        "Service", "", {"spec": {"type": "ExternalName", "externalName": "example.com", "clusterIP": None}}
    ),
}


@pytest.mark.parametrize("what", MEDDLINGS)
async def test_what_excludes_ours_is_undone_and_what_is_merely_added_stays(what: str, client: KubernetesClient) -> None:
    case = MEDDLINGS[what]
    bench = Bench(client, f"s{list(MEDDLINGS).index(what)}")
    children = bench.build()
    await bench.apply(children)
    child = next(
        each
        for each in children
        if each["kind"] == case.kind and each["metadata"]["name"] == f"{bench.owner.name}{case.suffix}"
    )
    if case.kind == "Deployment":
        await bench.meddle(child, in_container(env=[{"name": "FOO", "value": "bar"}]))
        await bench.meddle(child, in_pod(containers=[{"name": "mesh", "image": "mesh:1"}]))
    await bench.meddle(child, case.patch)
    assert not is_applied(await bench.read(child), child), "this test would hold for nothing"

    await bench.apply(children)
    healed = await bench.read(child)
    assert is_applied(healed, child)
    if case.kind == "Deployment" and "port" not in what:
        containers = {each["name"]: each for each in healed["spec"]["template"]["spec"]["containers"]}
        assert {"name": "FOO", "value": "bar"} in containers["server"]["env"]
        assert "mesh" in containers
    writes = bench.writer.writes
    await bench.apply(tuple([each for each in children if not is_applied(await bench.read(each), each)]))
    assert bench.writer.writes == writes, "and then it is at rest"


async def test_a_config_map_that_was_made_immutable_is_made_anew(client: KubernetesClient) -> None:
    bench = Bench(client, "immutable")
    children = bench.build()
    await bench.apply(children)
    config = next(each for each in children if each["kind"] == "ConfigMap")
    await bench.meddle(config, {"immutable": True})
    changed = bench.build(grace_seconds=300)
    await bench.apply(changed)
    wanted = next(each for each in changed if each["kind"] == "ConfigMap")
    assert is_applied(await bench.read(wanted), wanted)


async def test_the_users_own_number_of_workers_is_never_taken_over(client: KubernetesClient) -> None:
    bench = Bench(client, "scaled")
    children = bench.build()
    await bench.apply(children)
    worker = next(each for each in children if each["metadata"]["name"] == "scaled-worker")
    await bench.meddle(worker, {"spec": {"replicas": 5}})
    await bench.meddle(worker, MEDDLINGS["a variable's value"].patch)
    await bench.apply(children)
    assert (await bench.read(worker))["spec"]["replicas"] == 5


async def test_an_object_that_took_the_name_since_it_was_looked_at_is_not_written(client: KubernetesClient) -> None:
    bench = Bench(client, "raced")
    children = bench.build()
    await bench.apply(children)
    config = next(each for each in children if each["kind"] == "ConfigMap")
    live = await bench.read(config)
    resource = RESOURCE_BY_KIND["ConfigMap"]
    await client.delete(resource, "default", config["metadata"]["name"], uid=live["metadata"]["uid"])
    named = {"namespace": "default", "name": config["metadata"]["name"]}
    await client.create(resource, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": named})
    with pytest.raises(ApiRefusedError) as refused:
        await bench.writer.write_children(bench.owner, ReconcilePlan(applies=(config,)), {})
    assert refused.value.is_another_object
    assert "data" not in await bench.read(config)


async def test_a_scale_is_written_to_the_very_deployment_that_was_looked_at(client: KubernetesClient) -> None:
    bench = Bench(client, "scale")
    children = bench.build()
    await bench.apply(children)
    worker = next(each for each in children if each["metadata"]["name"] == "scale-worker")
    uid = (await bench.read(worker))["metadata"]["uid"]
    await bench.writer.write_scale("default", "scale-worker", 4, uid=uid)
    assert (await bench.read(worker))["spec"]["replicas"] == 4
    with pytest.raises(ApiRefusedError, match="409 Conflict"):
        await bench.writer.write_scale("default", "scale-worker", 7, uid="8f3b4c52-0000-4000-8000-00000000000f")
    assert (await bench.read(worker))["spec"]["replicas"] == 4
