"""How clients reach the gateways: the Service, the ways to it from outside the cluster, and who is let through."""

from collections.abc import Iterable
from typing import Final

from easel_contract import names
from easel_contract.resource.exposure import GatewayService, HttpRouteSpec, IngressSpec, NetworkPolicySpec
from easel_contract.resource.model import CacheFill

from easel_operator.manifests.metadata import ChildContext, Owner, build_metadata, build_pod_selector
from easel_operator.objects import HTTP_ROUTES, Json

# To any address: what answers may be a pod, the node or an address of the link. 5353: the pods of OpenShift's.
DNS: Final[Json] = {
    "ports": [{"port": port, "protocol": protocol} for port in (53, 5353) for protocol in ("UDP", "TCP")]
}


def build_service(context: ChildContext) -> Json:
    """The address that clients use: the gateways only, since workers pull their work."""
    owner = context.owner
    asked = context.spec.gateway.service or GatewayService()
    port = {
        "name": names.HTTP_PORT_NAME,
        "port": names.SERVICE_PORT,
        "targetPort": names.HTTP_PORT_NAME,
        "protocol": "TCP",
    }
    spec = {"type": asked.type, "selector": build_pod_selector(owner, names.COMPONENT_GATEWAY), "ports": [port]}
    more = asked.to_wire()
    fields = ("loadBalancerClass", "loadBalancerSourceRanges", "externalTrafficPolicy")
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _build_metadata(owner, asked.annotations),
        "spec": {**spec, **{field: more[field] for field in fields if field in more}},
    }


def build_ingress(context: ChildContext, ingress: IngressSpec) -> Json:
    """Each host, whatever the path, to the Service."""
    owner = context.owner
    service = {"name": owner.name, "port": {"name": names.HTTP_PORT_NAME}}
    paths = [{"path": "/", "pathType": "Prefix", "backend": {"service": service}}]
    spec: Json = {"rules": [{"host": host, "http": {"paths": paths}} for host in ingress.hosts]}
    if ingress.class_name is not None:
        spec["ingressClassName"] = ingress.class_name
    if ingress.tls_secret_name is not None:
        spec["tls"] = [{"hosts": list(ingress.hosts), "secretName": ingress.tls_secret_name}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": _build_metadata(owner, ingress.annotations),
        "spec": spec,
    }


def build_http_route(context: ChildContext, route: HttpRouteSpec) -> Json:
    """The same by the Gateway API; TLS ends at the Gateway's listener."""
    owner = context.owner
    return {
        "apiVersion": HTTP_ROUTES.api_version,
        "kind": HTTP_ROUTES.kind,
        "metadata": _build_metadata(owner, route.annotations),
        "spec": {
            "parentRefs": [parent.to_wire() for parent in route.parent_refs],
            "hostnames": list(route.hosts),
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                    "backendRefs": [{"name": owner.name, "port": names.SERVICE_PORT}],
                }
            ],
        },
    }


def build_network_policies(context: ChildContext, policy: NetworkPolicySpec) -> list[Json]:
    """One a role, and one for the Job that fills the model's cache. Nobody calls pods but for metrics, except gateways;
    kubelets' probes need no rule."""
    owner, cache = context.owner, context.spec.model.cache
    metrics = _allow((*_find_chart_pods(context, names.COMPONENT_OPERATOR), *policy.monitors), names.METRICS_PORT_NAME)
    calls = _allow(policy.clients, names.HTTP_PORT_NAME)
    redis = _find_chart_pods(context, names.COMPONENT_REDIS)
    to_redis: list[Json] = [{"to": redis, "ports": [{"port": names.REDIS_PORT, "protocol": "TCP"}]}]
    gateway, worker, job = names.COMPONENT_GATEWAY, names.COMPONENT_WORKER, names.COMPONENT_MODEL_CACHE
    policies = [
        _build_policy(
            owner, names.gateway_name(owner.name), gateway, [calls, metrics], _allow_egress(policy, to_redis)
        ),
        _build_policy(owner, names.worker_name(owner.name), worker, [metrics], _allow_egress(policy, to_redis)),
    ]
    if cache is not None and cache.fill is CacheFill.JOB:
        name = names.model_cache_name(owner.name)
        policies.append(_build_policy(owner, name, job, [metrics], _allow_egress(policy, [])))
    return policies


def _build_policy(owner: Owner, name: str, component: str, ingress: list[Json], egress: list[Json] | None) -> Json:
    """Without egress rules pods may go anywhere."""
    selector = {"matchLabels": build_pod_selector(owner, component)}
    spec: Json = {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": ingress}
    if egress is not None:
        spec |= {"policyTypes": ["Ingress", "Egress"], "egress": egress}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": build_metadata(owner, name, component),
        "spec": spec,
    }


def _allow_egress(policy: NetworkPolicySpec, needed: list[Json]) -> list[Json] | None:
    return None if policy.egress is None else [DNS, *needed, *policy.egress]


def _find_chart_pods(context: ChildContext, component: str) -> list[Json]:
    """Peers: pods of the chart, wherever it is installed."""
    pods = {names.LABEL_NAME: names.APP_NAME, names.LABEL_COMPONENT: component}
    namespace = {names.LABEL_NAMESPACE_NAME: context.release.operator_namespace}
    return [{"namespaceSelector": {"matchLabels": namespace}, "podSelector": {"matchLabels": pods}}]


def _allow(peers: Iterable[Json] | None, port: str) -> Json:
    """A rule for a port; peers None is anybody."""
    rule: Json = {"ports": [{"port": port, "protocol": "TCP"}]}
    return rule if peers is None else {"from": list(peers), **rule}


def service_url(owner: Owner) -> str:
    """Where clients inside the cluster reach the service."""
    return f"http://{owner.name}.{owner.namespace}.svc"


def _build_metadata(owner: Owner, annotations: dict[str, str]) -> Json:
    metadata = build_metadata(owner, owner.name, names.COMPONENT_GATEWAY)
    return {**metadata, "annotations": annotations} if annotations else metadata
