"""Ways in from outside that are refused, and such that aren't: of the resource, for both sides that read it."""

from typing import Any

MODEL = {"source": {"huggingFace": {"repository": "stabilityai/sdxl-turbo"}}}


def of_gateway(**gateway: Any) -> dict[str, Any]:
    return {"model": MODEL, "replicas": 1, "gateway": gateway}


REFUSED_WAYS_IN: dict[str, tuple[dict[str, Any], str]] = {
    "a load balancer's networks without a load balancer": (
        of_gateway(service={"loadBalancerSourceRanges": ["10.0.0.0/8"]}),
        "need type LoadBalancer",
    ),
    "a load balancer's class without a load balancer": (
        of_gateway(service={"type": "NodePort", "loadBalancerClass": "a/b"}),
        "need type LoadBalancer",
    ),
    "clients' addresses behind a ClusterIP": (
        of_gateway(service={"externalTrafficPolicy": "Local"}),
        "externalTrafficPolicy needs type NodePort or LoadBalancer",
    ),
    "networks with bits beyond": (
        of_gateway(service={"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.1/8"]}),
        "10.0.0.0/8",
    ),
    "a Service without a type that there is": (of_gateway(service={"type": "ExternalName"}), "ClusterIP"),
    "an Ingress without a host": (of_gateway(ingress={"hosts": []}), "hosts"),
    **{
        f"an Ingress for {host}": (of_gateway(ingress={"hosts": [host]}), "must be a host's name in lower case")
        for host in ("Images.example.com", "https://a.example", "a.example:443", "*", "a.*.example", "a..b")
    },
    "an annotation of Easel's own": (
        of_gateway(ingress={"hosts": ["a.example"], "annotations": {"easel.dev/applied-hash": "0"}}),
        "are Easel's own: the operator writes them",
    ),
    "a route to no Gateway": (of_gateway(httpRoute={"hosts": ["a.example"], "parentRefs": []}), "parentRefs"),
    "a budget that keeps nodes from being drained": (of_gateway(disruptionBudget={"maxUnavailable": 0}), "greater"),
    "more gateways at least than at most": (
        of_gateway(autoscaling={"minReplicas": 3, "maxReplicas": 2}),
        "minReplicas must not be greater than maxReplicas",
    ),
    "gateways between two and one, as the defaults have it": (
        of_gateway(autoscaling={"maxReplicas": 1}),
        "minReplicas must not be greater than maxReplicas",
    ),
    "a policy that lets no client through": ({**of_gateway(), "networkPolicy": {"clients": []}}, "at least 1"),
    "a budget of nothing in a hundred": (of_gateway(disruptionBudget={"maxUnavailable": "0%"}), "match pattern"),
}

ACCEPTED_WAYS_IN: dict[str, dict[str, Any]] = {
    "all of them": of_gateway(
        service={"type": "LoadBalancer", "loadBalancerClass": "a/b", "externalTrafficPolicy": "Local"},
        ingress={"hosts": ["a.example", "*.b.example"], "tlsSecretName": "tls", "className": "nginx"},
        httpRoute={"hosts": ["c.example"], "parentRefs": [{"name": "public", "sectionName": "https"}]},
        disruptionBudget={"maxUnavailable": "100%"},
    ),
    "gateways by their CPU": of_gateway(autoscaling={"minReplicas": 1, "maxReplicas": 1, "targetCpu": "1.5"}),
    "a policy with clients and monitors": {
        **of_gateway(),
        "networkPolicy": {
            "clients": [{"namespaceSelector": {"matchLabels": {"team": "art"}}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}],
            "monitors": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        },
    },
    "a policy for anybody's calls": {**of_gateway(), "networkPolicy": {}},
    "a policy with a way out": {**of_gateway(), "networkPolicy": {"egress": [{"ports": [{"port": 443}]}]}},
    "a policy without one": {**of_gateway(), "networkPolicy": {"egress": []}},
    "a number of pods": of_gateway(disruptionBudget={"maxUnavailable": 3}),
}
