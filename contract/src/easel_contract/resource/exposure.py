"""How clients reach the gateways: the Service, and the way to it from outside the cluster."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, model_validator

from easel_contract import names
from easel_contract.gateway_config import NETWORK_RULES, Network
from easel_contract.schema import Model, ObjectName, ServedHost, cel, validations

PREFIX: Final = f"{names.API_GROUP}/"
ANNOTATIONS_SENTENCE: Final = f"annotations that begin with {PREFIX} are Easel's own: the operator writes them"


def _check_annotations(value: dict[str, str]) -> dict[str, str]:
    if any(key.startswith(PREFIX) for key in value):
        raise ValueError(ANNOTATIONS_SENTENCE)
    return value


Annotations = Annotated[
    dict[str, str],
    AfterValidator(_check_annotations),
    Field(
        default_factory=dict,
        json_schema_extra=validations(cel(f"self.all(key, !key.startsWith('{PREFIX}'))", ANNOTATIONS_SENTENCE)),
        description="For the controller that serves it.",
    ),
]
ServedHosts = Annotated[tuple[ServedHost, ...], Field(min_length=1, max_length=16)]

OF_LOAD_BALANCERS: Final = ("loadBalancerClass", "loadBalancerSourceRanges")
LOAD_BALANCER_SENTENCE: Final = f"{' and '.join(OF_LOAD_BALANCERS)} need type LoadBalancer"
EXTERNAL_SENTENCE: Final = "externalTrafficPolicy needs type NodePort or LoadBalancer"


PEERS_DESCRIPTION: Final = "Peers as in a NetworkPolicy's `from`: namespaceSelector, podSelector, ipBlock."
# The API server checks them, as part of the NetworkPolicy.
PartsOfPolicy = Annotated[
    tuple[
        Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})], ...
    ],
    Field(max_length=32),
]


class NetworkPolicySpec(Model):
    """Who may reach the pods, where the cluster enforces NetworkPolicies: the gateways their clients, all pods the
    operator and whoever reads metrics, and nobody else. Where pods may go is left alone unless `egress` says so."""

    clients: PartsOfPolicy | None = Field(
        default=None, min_length=1, description=f"Who may call the gateways. {PEERS_DESCRIPTION} Unset: anybody."
    )
    monitors: PartsOfPolicy = Field(
        default=(), description=f"Who may read the pods' metrics, beside the operator. {PEERS_DESCRIPTION}"
    )
    egress: PartsOfPolicy | None = Field(
        default=None,
        description="Where pods may go beside DNS and the Redis that the chart installs: the Hub, buckets, webhooks, "
        "collectors, a Redis of your own. Rules as in a NetworkPolicy's `egress`: to, ports. Unset: anywhere.",
    )


class GatewayService(Model):
    """The Service in front of the gateways."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                f"self.type == 'LoadBalancer' || ({' && '.join(f'!has(self.{each})' for each in OF_LOAD_BALANCERS)})",
                LOAD_BALANCER_SENTENCE,
            ),
            cel("self.type != 'ClusterIP' || !has(self.externalTrafficPolicy)", EXTERNAL_SENTENCE),
        )
    )

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    annotations: Annotations
    load_balancer_class: str | None = Field(default=None, min_length=1, max_length=317)
    load_balancer_source_ranges: tuple[Network, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Networks in CIDR form that clients may come from.",
        json_schema_extra=NETWORK_RULES,
    )
    external_traffic_policy: Literal["Cluster", "Local"] | None = Field(
        default=None, description="Local keeps clients' addresses. Unset: Kubernetes', Cluster."
    )

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if self.type != "LoadBalancer" and (self.load_balancer_class or self.load_balancer_source_ranges):
            raise ValueError(LOAD_BALANCER_SENTENCE)
        if self.type == "ClusterIP" and self.external_traffic_policy is not None:
            raise ValueError(EXTERNAL_SENTENCE)
        return self


class IngressSpec(Model):
    """An Ingress that leads to the gateways. Its hosts are names that the service may be called by."""

    class_name: ObjectName | None = Field(default=None, description="IngressClass. Unset: the cluster's default.")
    hosts: ServedHosts
    tls_secret_name: ObjectName | None = Field(
        default=None, description="Secret with the hosts' certificate, made by you or by cert-manager. Unset: no TLS."
    )
    annotations: Annotations


class ParentReference(Model):
    """A Gateway that the route attaches to."""

    name: ObjectName
    namespace: ObjectName | None = Field(default=None, description="Unset: the service's.")
    section_name: ObjectName | None = Field(default=None, description="Its listener, which has the TLS. Unset: all.")


class HttpRouteSpec(Model):
    """A route of the Gateway API that leads to the gateways. Its hosts are names that the service may be called by."""

    parent_refs: tuple[ParentReference, ...] = Field(min_length=1, max_length=8, description="Gateways of the cluster.")
    hosts: ServedHosts
    annotations: Annotations
