"""The pods that speak HTTP with clients, and what they allow, keep and notify of."""

from typing import Final, Self

from pydantic import ConfigDict, Field, model_validator

from easel_contract.gateway_config import (
    AllowedHosts,
    AllowedOrigins,
    CacheConfig,
    DefaultsConfig,
    InputsConfig,
    LimitsConfig,
    PublicUrl,
    RateLimitConfig,
    ResultsConfig,
    WebhookConfig,
)
from easel_contract.resource.exposure import GatewayService, HttpRouteSpec, IngressSpec
from easel_contract.resource.pod_template import POD_TEMPLATE_DESCRIPTION, PodTemplate
from easel_contract.resource.worker import IMAGE_DESCRIPTION, DisruptionBudget, GatewayScratchSpec, ResourceRequirements
from easel_contract.schema import Model, ObjectName, Quantity, Word, cel, validations
from easel_contract.server_config import BucketConfig


class WebhookSpec(WebhookConfig):
    """How clients are notified that an image is ready (Standard Webhooks)."""

    signing_secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with one `whsec_…` key under `signing-secret`, or two, separated by white space, while "
        "receivers change from one to the other. Unset: webhooks are refused.",
    )


class BucketSpec(BucketConfig):
    """An S3-compatible bucket for images; Redis keeps the references only."""

    credentials_secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with `access-key-id` and `secret-access-key`. Unset: the pods' own identity, such as a "
        "role that the service's ServiceAccount is annotated with (IRSA).",
    )


class ResultsSpec(ResultsConfig):
    """How long finished images are kept, where, and how much room they have."""

    bucket: BucketSpec | None = Field(
        default=None, description="Keeps images in a bucket; links then lead there. Unset: Redis keeps them."
    )


MIN_ABOVE_MAX: Final = "minReplicas must not be greater than maxReplicas"


class GatewayAutoscaling(Model):
    """How many gateways there are, by the CPU that they use: a HorizontalPodAutoscaler of their own."""

    model_config = ConfigDict(json_schema_extra=validations(cel("self.minReplicas <= self.maxReplicas", MIN_ABOVE_MAX)))

    min_replicas: int = Field(default=2, ge=1, le=100, description="Gateways at least.")
    max_replicas: int = Field(ge=1, le=100, description="Gateways at most.")
    target_cpu: Quantity = Field(
        default="500m",
        description="CPU of one gateway, on average, that the autoscaler aims at. It needs the resource metrics API "
        "(metrics-server), and no requests.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(MIN_ABOVE_MAX)
        return self


class GatewaySpec(Model):
    """The pods that speak HTTP with clients."""

    image: Word | None = Field(default=None, description=IMAGE_DESCRIPTION)
    replicas: int = Field(
        default=2,
        ge=1,
        le=100,
        description="Gateway pods, unless autoscaling says how many; two survive the loss of a node.",
    )
    autoscaling: GatewayAutoscaling | None = Field(default=None, description="Unset: as many as replicas says.")
    scratch: GatewayScratchSpec | None = None
    resources: ResourceRequirements = ResourceRequirements()
    pod_template: PodTemplate | None = Field(default=None, description=POD_TEMPLATE_DESCRIPTION)
    disruption_budget: DisruptionBudget | None = None
    service: GatewayService | None = Field(default=None, description="Unset: ClusterIP, without annotations.")
    ingress: IngressSpec | None = Field(default=None, description="Unset: none.")
    http_route: HttpRouteSpec | None = Field(
        default=None, description="Needs the Gateway API (gateway.networking.k8s.io/v1) in the cluster. Unset: none."
    )
    termination_grace_period_seconds: int = Field(
        default=620,
        ge=20,
        le=3600,
        description="Most time that a stopping gateway takes to answer open requests, which may wait for 600 s; 15 s "
        "of it are for the stop itself. What waits for longer gets 503 and its job's id, and the job goes on.",
    )
    api_keys_secret_name: ObjectName | None = Field(
        default=None,
        description="Secret with a value per customer, under the customer's name: API keys, one a line, as they are or "
        "as `sha256:` digests; or JSON with keys, weight, maxPriority and rateLimit. Unset: no check.",
    )
    public_url: PublicUrl = None
    allowed_hosts: AllowedHosts = ()
    allowed_origins: AllowedOrigins = ()
    rate_limit: RateLimitConfig | None = Field(
        default=None, description="Of each customer that has none of its own; unlimited if unset."
    )
    service_rate_limit: RateLimitConfig | None = Field(
        default=None, description="Of all customers together; unlimited if unset."
    )
    limits: LimitsConfig = LimitsConfig()
    defaults: DefaultsConfig | None = Field(
        default=None, description="What a request gets that doesn't say; unset: what suits the model."
    )
    results: ResultsSpec = ResultsSpec()
    cache: CacheConfig = CacheConfig()
    webhook: WebhookSpec = WebhookSpec()
    inputs: InputsConfig = InputsConfig()

    @property
    def served_hosts(self) -> tuple[str, ...]:
        """The names that lead here from outside of the cluster."""
        routes = (self.ingress, self.http_route)
        return tuple(dict.fromkeys(host for route in routes if route is not None for host in route.hosts))

    @property
    def secured_url(self) -> str | None:
        """Where clients outside of the cluster reach it, if its Ingress ends TLS: gateways see plain HTTP then, and
        can't tell. None where nothing is known of TLS, or no host has a name of its own."""
        if self.ingress is None or self.ingress.tls_secret_name is None:
            return None
        return next((f"https://{host}" for host in self.ingress.hosts if not host.startswith("*")), None)
