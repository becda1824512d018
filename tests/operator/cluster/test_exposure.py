"""Service, Ingress, HTTPRoute and budgets on a real API server: applied once, changed, and taken away."""

import pytest
from easel_operator.cluster.capabilities import is_served
from easel_operator.cluster.client import KubernetesClient
from easel_operator.decide.snapshot import Handover
from easel_operator.objects import DEPLOYMENTS, HTTP_ROUTES, RESOURCE_BY_KIND, Json, Resource, to_object_key

from tests.operator.cluster.test_pod_templates import build, find_drifted, write
from tests.support.eventually import eventually

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


def build_route_crd() -> Json:
    """As much of the Gateway API as a route needs: its own controller and schema are somebody else's."""
    group, version = HTTP_ROUTES.api_version.split("/")
    spec = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": spec}}
    return {
        "apiVersion": CRDS.api_version,
        "kind": CRDS.kind,
        "metadata": {
            "name": f"{HTTP_ROUTES.plural}.{group}",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/2466"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": HTTP_ROUTES.kind, "plural": HTTP_ROUTES.plural},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


async def test_whether_the_cluster_has_the_gateway_api_is_seen_when_it_comes(client: KubernetesClient) -> None:
    assert await is_served(client, HTTP_ROUTES) is False
    await client.apply(CRDS, build_route_crd())
    await eventually(lambda: is_served(client, HTTP_ROUTES))


async def test_every_way_in_is_written_once(client: KubernetesClient) -> None:
    await client.apply(CRDS, build_route_crd())
    await eventually(lambda: is_served(client, HTTP_ROUTES))
    children = build("ways", {"gateway": WAYS_IN, "worker": {"disruptionBudget": {"maxUnavailable": 2}}, "replicas": 4})
    kinds = [child["kind"] for child in children]
    assert [kinds.count(kind) for kind in ("Ingress", "HTTPRoute", "PodDisruptionBudget")] == [1, 1, 2]
    assert await write(client, children) == ()
    assert await find_drifted(client, children) == []


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
