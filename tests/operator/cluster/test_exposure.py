"""Service, Ingress, HTTPRoute and budgets on a real API server: applied once, changed, and taken away."""

import pytest
import yaml
from easel_operator.cluster.capabilities import is_served
from easel_operator.cluster.client import KubernetesClient
from easel_operator.decide.snapshot import Handover
from easel_operator.objects import (
    DEPLOYMENTS,
    HTTP_ROUTES,
    POD_MONITORS,
    PROMETHEUS_RULES,
    RESOURCE_BY_KIND,
    Json,
    Resource,
    to_object_key,
)

from tests.operator.cluster.test_pod_templates import build, find_drifted, write
from tests.support.eventually import eventually
from tests.support.go_module import fetch_module

pytestmark = pytest.mark.cluster

CRDS = Resource("CustomResourceDefinition", "apiextensions.k8s.io/v1", "customresourcedefinitions")
PARENT = {"name": "public", "namespace": "gateways", "sectionName": "https"}
WAYS_IN: Json = {
    "service": {
        "type": "LoadBalancer",
        "annotations": {"service.example/internal": "true"},
        "loadBalancerClass": "example.com/inner",
        "loadBalancerSourceRanges": ["10.0.0.0/8", "192.0.2.7"],
        "externalTrafficPolicy": "Local",
    },
    "ingress": {"className": "nginx", "hosts": ["a.example", "*.b.example"], "tlsSecretName": "tls"},
    "httpRoute": {"parentRefs": [PARENT], "hosts": ["c.example"]},
    "disruptionBudget": {"maxUnavailable": "50%"},
}


def read_route_crd() -> Json:
    """The Gateway API's own, with its schema and its rules."""
    folder = fetch_module("sigs.k8s.io/gateway-api", "v1.4.0") / "config/crd/standard"
    crd: Json = yaml.safe_load((folder / "gateway.networking.k8s.io_httproutes.yaml").read_text())
    return crd


def build_open_crd(resource: Resource) -> Json:
    """A stand-in for a kind of the Prometheus operator, which takes any spec: no module has the real one's schema."""
    group, version = resource.api_version.split("/")
    spec = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": spec}}
    return {
        "apiVersion": CRDS.api_version,
        "kind": CRDS.kind,
        "metadata": {"name": f"{resource.plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": resource.kind, "plural": resource.plural},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


async def install(client: KubernetesClient, resource: Resource, crd: Json) -> None:
    await client.apply(CRDS, crd)
    await eventually(lambda: is_served(client, resource))


async def test_whether_the_cluster_has_the_gateway_api_is_seen_when_it_comes(client: KubernetesClient) -> None:
    assert await is_served(client, HTTP_ROUTES) is False
    await install(client, HTTP_ROUTES, read_route_crd())


async def test_every_way_in_is_written_once(client: KubernetesClient) -> None:
    await install(client, HTTP_ROUTES, read_route_crd())
    children = build("ways", {"gateway": WAYS_IN, "worker": {"disruptionBudget": {"maxUnavailable": 2}}, "replicas": 4})
    kinds = [child["kind"] for child in children]
    assert [kinds.count(kind) for kind in ("Ingress", "HTTPRoute", "PodDisruptionBudget")] == [1, 1, 2]
    assert await write(client, children) == ()
    assert await find_drifted(client, children) == []


async def test_a_route_that_the_gateway_api_refuses_is_said(client: KubernetesClient) -> None:
    await install(client, HTTP_ROUTES, read_route_crd())
    twice = [{"name": "public"}, {"name": "public"}]
    children = build("refused", {"gateway": {"httpRoute": {"parentRefs": twice, "hosts": ["c.example"]}}})
    (failure,) = await write(client, children)
    assert failure.key.kind == "HTTPRoute"
    assert "sectionName must be unique" in failure.message


async def test_monitors_and_alerts_are_written_once(client: KubernetesClient) -> None:
    for resource in (POD_MONITORS, PROMETHEUS_RULES):
        await install(client, resource, build_open_crd(resource))
    watched = build("watched", {"monitoring": {"labels": {"release": "prometheus"}}})
    assert await write(client, watched) == ()
    assert await find_drifted(client, watched) == []
    live = await client.get(POD_MONITORS, "default", "watched")
    assert live is not None
    assert live["metadata"]["labels"]["release"] == "prometheus"


async def test_a_service_goes_back_into_the_cluster(client: KubernetesClient) -> None:
    outside = build("back", {"gateway": {"service": WAYS_IN["service"]}})
    inside = build("back", {})
    assert await write(client, outside) == ()
    assert await write(client, inside) == ()
    key = to_object_key(next(child for child in inside if child["kind"] == "Service"))
    live = await client.get(RESOURCE_BY_KIND["Service"], key.namespace, key.name)
    assert live is not None
    assert live["spec"]["type"] == "ClusterIP"
    left = {"loadBalancerClass", "loadBalancerSourceRanges", "externalTrafficPolicy"} & live["spec"].keys()
    assert left == set()
    assert "service.example/internal" not in live["metadata"]["annotations"]
    assert "nodePort" not in live["spec"]["ports"][0]
    assert await find_drifted(client, inside) == []


@pytest.mark.parametrize("budget", ["gateway", "worker"])
async def test_a_budget_can_be_a_share_and_then_a_number(budget: str, client: KubernetesClient) -> None:
    for most in ("25%", 2, 1):
        spec = {budget: {"disruptionBudget": {"maxUnavailable": most}}, "replicas": 4}
        children = build(f"budget-{budget}", spec)
        assert await write(client, children) == ()
        live = await client.get(RESOURCE_BY_KIND["PodDisruptionBudget"], "default", f"budget-{budget}-{budget}")
        assert live is not None
        assert live["spec"]["maxUnavailable"] == most
        assert await find_drifted(client, children) == []


async def test_an_autoscaler_of_gateways_takes_over_their_number_and_gives_it_to_the_resource_again(
    client: KubernetesClient,
) -> None:
    """The number survives each step: a Deployment whose replicas nobody sends any more would fall to 1."""

    async def count() -> int:
        live = await client.get(DEPLOYMENTS, "default", "many-gateway")
        assert live is not None
        return int(live["spec"]["replicas"])

    fixed = build("many", {"gateway": {"replicas": 5}})
    scaled = build("many", {"gateway": {"replicas": 5, "autoscaling": {"maxReplicas": 9, "targetCpu": "0.25"}}})
    assert await write(client, fixed) == ()
    (deployment,) = [
        child for child in scaled if child["metadata"]["name"] == "many-gateway" and "template" in child["spec"]
    ]
    handover = Handover(to_object_key(deployment), 5)
    assert await write(client, scaled, handovers=(handover,)) == ()
    assert await count() == 5
    assert await find_drifted(client, scaled) == []
    await client.apply(DEPLOYMENTS, replicas_of_a_stranger(7), field_manager="hpa", subresource="scale")
    assert await count() == 7
    assert await find_drifted(client, scaled) == [], "the autoscaler's number is nobody else's affair"
    assert await write(client, fixed) == ()
    assert await count() == 5


def replicas_of_a_stranger(replicas: int) -> Json:
    metadata = {"namespace": "default", "name": "many-gateway"}
    return {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": metadata, "spec": {"replicas": replicas}}


async def test_policies_are_written_once_and_what_is_no_peer_is_said(client: KubernetesClient) -> None:
    named: Json = {
        "networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "monitors": [{"podSelector": {}}]}
    }
    open_to_all: Json = {"networkPolicy": {}}
    for spec in (named, open_to_all):
        children = build("guarded", spec)
        assert [child["kind"] for child in children].count("NetworkPolicy") == 2
        assert await write(client, children) == ()
        assert await find_drifted(client, children) == []
    (failure,) = await write(client, build("unguarded", {"networkPolicy": {"clients": [{"pods": "all"}]}}))
    assert failure.key.name == "unguarded-gateway"
    assert "pods: field not declared in schema; correct the spec" in failure.message
