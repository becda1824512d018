"""The pods that generate: their GPUs, their resources, where they may run; how they batch; and what an installation
gives the pods of all its services, below what each says itself."""

from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, WithJsonSchema, model_validator

from easel_contract.resource.egress import EgressSpec
from easel_contract.resource.pod_template import POD_TEMPLATE_DESCRIPTION, PodTemplate
from easel_contract.schema import Model, ObjectName, Quantity, Word, cel, validations
from easel_contract.server_config import EngineConfig

IMAGE_DESCRIPTION: Final = "Container image; the operator's own release if unset."
CURRENCY_PATTERN: Final = "^[A-Z]{3}$"  # ISO 4217
MAX_PRICE: Final = 1_000_000
TOLERATIONS_SENTENCE: Final = "tolerations and podTemplate.spec.tolerations say the same: keep one of them"


class Toleration(Model):
    """core/v1 Toleration."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "self.operator == 'Exists' ? !has(self.value) : has(self.key)",
                "operator Exists takes no value, and operator Equal needs a key",
            ),
            cel(
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "tolerationSeconds needs effect NoExecute",
            ),
        )
    )

    key: str | None = Field(default=None, max_length=317)
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = Field(default=None, max_length=63)
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _admitted(self) -> Self:
        if (self.operator == "Exists" and self.value is not None) or (self.operator == "Equal" and self.key is None):
            raise ValueError("operator Exists takes no value, and operator Equal needs a key")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("tolerationSeconds needs effect NoExecute")
        return self


class ResourceRequirements(Model):
    """core/v1 ResourceRequirements, without claims. GPUs belong in worker.gpu."""

    requests: dict[str, Quantity] = Field(default_factory=dict, description="What the scheduler sets aside.")
    limits: dict[str, Quantity] = Field(default_factory=dict, description="What the pod can't exceed.")


class GatewayScratchSpec(Model):
    """Scratch room on the node's disk; above it the kubelet evicts the pod."""

    tmp: Quantity | None = Field(default=None, description="Of /tmp, such as uploads under way. Unset: 2Gi.")


class WorkerScratchSpec(Model):
    """Scratch room on the node's disk; above it the kubelet evicts the pod."""

    tmp: Quantity | None = Field(default=None, description="Of /tmp, of the cache's Job too. Unset: 10Gi.")
    cache: Quantity | None = Field(
        default=None,
        description="Of what a worker downloads (models and add-ons without a claim) and compiles, where "
        "cacheClaimName doesn't keep it. Unset: 200Gi.",
    )


MAX_UNAVAILABLE_PATTERN: Final = "^([1-9][0-9]?|100)%$"


class DisruptionBudget(Model):
    """How many pods the drain of nodes may take away at once; of a single pod there is no budget."""

    max_unavailable: Annotated[
        Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=MAX_UNAVAILABLE_PATTERN)],
        Field(union_mode="left_to_right"),
        WithJsonSchema(
            {"x-kubernetes-int-or-string": True, "minimum": 1, "maxLength": 4, "pattern": MAX_UNAVAILABLE_PATTERN}
        ),
    ] = Field(default=1, description="A number of pods, or a share of them such as 25%.")


class GpuSpec(Model):
    """The GPUs that one worker pod asks for."""

    resource_name: str = Field(
        default="nvidia.com/gpu",
        max_length=317,
        pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$",
        description="Extended resource, such as nvidia.com/gpu or nvidia.com/mig-1g.10gb. Its taint is tolerated.",
    )
    count: int = Field(default=1, ge=0, le=16, description="GPUs a pod; 0 runs on CPU.")


class WorkerSpec(Model):
    """The pods that run the denoising loop."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                # Also asked of the default, an empty worker, whose members have none yet.
                "!has(self.resources) || !has(self.gpu) "
                "|| [has(self.resources.requests) ? self.resources.requests : {}, "
                "has(self.resources.limits) ? self.resources.limits : {}]"
                ".all(each, !(self.gpu.resourceName in each))",
                "resources must not have the GPU's resource: gpu.count says how many",
            ),
            cel(
                "!has(self.tolerations) || size(self.tolerations) == 0 || !has(self.podTemplate) "
                "|| !has(self.podTemplate.spec) || !has(self.podTemplate.spec.tolerations)",
                TOLERATIONS_SENTENCE,
            ),
        )
    )

    image: Word | None = Field(default=None, description=IMAGE_DESCRIPTION)
    gpu: GpuSpec = GpuSpec()
    price_per_gpu_hour: float | None = Field(
        default=None,
        ge=0,
        le=MAX_PRICE,
        description="What one of its GPUs costs for an hour, in the installation's currency: what metrics of cost and "
        "the report of usage are counted by. A change replaces no pod. Unset: the chart's "
        "defaults.worker.pricePerGpuHour, if there is one.",
    )
    engine: EngineConfig = EngineConfig()
    cache_claim_name: ObjectName | None = Field(
        default=None,
        description="PersistentVolumeClaim that keeps what a worker downloads or makes once (models from the Hub, "
        "compiled code, measured batch sizes) for the workers after it; ReadWriteMany where they are on several nodes, "
        "and writable for the image's user. Unset: each pod has its own, which goes with it.",
    )
    scratch: WorkerScratchSpec | None = None
    resources: ResourceRequirements = ResourceRequirements()
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels of the nodes to run on.")
    tolerations: tuple[Toleration, ...] = Field(
        default=(), max_length=32, description="Besides the one for the GPU resource's own taint."
    )
    disruption_budget: DisruptionBudget | None = None
    pod_template: PodTemplate | None = Field(default=None, description=POD_TEMPLATE_DESCRIPTION)
    termination_grace_period_seconds: int | None = Field(
        default=None,
        ge=5,
        le=3600,
        description="Time for a stopping pod to finish its images; what doesn't fit goes back to the queue. Unset: 60, "
        "and from the longest job seen 120, 240, 480, 960 or 1800, changed only where that alone replaces no worker.",
    )

    @model_validator(mode="after")
    def _counts_gpus_once(self) -> Self:
        if self.gpu.resource_name in {*self.resources.requests, *self.resources.limits}:
            raise ValueError(f"resources must not have {self.gpu.resource_name}: gpu.count says how many")
        return self

    @model_validator(mode="after")
    def _tolerates_once(self) -> Self:
        if self.tolerations and self.pod_template is not None and "tolerations" in self.pod_template.spec:
            raise ValueError(TOLERATIONS_SENTENCE)
        return self


class BatchingSpec(Model):
    """How many images a worker generates at once."""

    max_images: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Images of requests of one size that share denoising steps; whatever else the requests ask for, "
        "each begins and ends by itself. Unset: what gives the best rate, as each worker measures it for each size.",
    )
    step_timeout_seconds: int | None = Field(
        default=None,
        ge=1,
        le=86_400,
        description="After which a denoising step counts as one that never ends: the worker's pod is restarted, and "
        "others repeat its requests. Unset: 20 times the longest so far, at least 300.",
    )


class RoleDefaults(Model):
    """For the gateways, or the workers, of all services."""

    resources: ResourceRequirements = Field(
        default=ResourceRequirements(), description="Of Easel's container, for resources that a service doesn't name."
    )
    pod_template: PodTemplate | None = Field(default=None, description="Merged below the service's own.")


class WorkerDefaults(RoleDefaults):
    """Of the workers alone."""

    price_per_gpu_hour: float | None = Field(
        default=None, ge=0, le=MAX_PRICE, description="Of services that say none; unset: nothing is counted."
    )


class ServiceDefaults(Model):
    """The chart's value ``defaults``."""

    gateway: RoleDefaults = RoleDefaults()
    worker: WorkerDefaults = WorkerDefaults()
    downloads: EgressSpec = EgressSpec()
    currency: str = Field(default="USD", pattern=CURRENCY_PATTERN, description="Of all prices, by ISO 4217.")

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, value: object) -> object:
        """An empty value in a chart is an empty map, or null where somebody has taken the default away."""
        if not isinstance(value, dict):
            return value
        return {
            role: {name: each for name, each in said.items() if each} if isinstance(said, dict) else said
            for role, said in value.items()
            if said
        }
