"""The StableDiffusionService resource: the one source of the CRD, the reference docs and the operator's view of it.

Defaults are written into the CRD, so that the API server shows users what they get. Rules that span fields are CEL
(``x-kubernetes-validations``), so that ``kubectl apply`` refuses a bad resource with a sentence; the pydantic
validators say the same for resources that reach the operator some other way. A file a section.
"""

from typing import Final, Self

from pydantic import ConfigDict, Field, model_validator

from easel_contract.gateway_config import QueueOrder
from easel_contract.resource.add_ons import (
    ADD_ON_RULES,
    HOST_NOT_ALLOWED,
    Adapters,
    AddOnSource,
    AddOnSpec,
    ControlNets,
    DownloadsSpec,
    Preprocessors,
    Upscalers,
    find_stranger,
)
from easel_contract.resource.exposure import NetworkPolicySpec
from easel_contract.resource.gateway import GatewayAutoscaling, GatewaySpec, ResultsSpec
from easel_contract.resource.model import ModelSource, ModelSpec
from easel_contract.resource.monitoring import MonitoringSpec
from easel_contract.resource.pod_template import PodTemplate
from easel_contract.resource.rollout import (
    MAX_REVISIONS,
    CanaryFigures,
    CanaryPhase,
    CanarySpec,
    CanaryStatus,
    OnFailure,
    RevisionStatus,
    RolloutHold,
    RolloutSpec,
    RolloutStatus,
    Surge,
)
from easel_contract.resource.scaling import ExecutionMode, ScalingSpec, ScheduleSpec
from easel_contract.resource.status import (
    ColdStartStatus,
    HeadroomStatus,
    ModelCacheStatus,
    ScalingStatus,
    StableDiffusionServiceStatus,
    TerminationStatus,
)
from easel_contract.resource.worker import (
    BatchingSpec,
    DisruptionBudget,
    ResourceRequirements,
    RoleDefaults,
    ServiceDefaults,
    WorkerSpec,
)
from easel_contract.schema import Model, cel, validations
from easel_contract.server_config import TracingConfig

__all__ = [
    "MAX_REVISIONS",
    "AddOnSource",
    "AddOnSpec",
    "CanaryFigures",
    "CanaryPhase",
    "CanarySpec",
    "CanaryStatus",
    "ColdStartStatus",
    "DisruptionBudget",
    "ExecutionMode",
    "GatewayAutoscaling",
    "HeadroomStatus",
    "ModelCacheStatus",
    "ModelSource",
    "OnFailure",
    "PodTemplate",
    "QueueOrder",
    "ResourceRequirements",
    "ResultsSpec",
    "RevisionStatus",
    "RoleDefaults",
    "RolloutHold",
    "RolloutSpec",
    "RolloutStatus",
    "ScalingSpec",
    "ScalingStatus",
    "ScheduleSpec",
    "ServiceDefaults",
    "StableDiffusionServiceSpec",
    "StableDiffusionServiceStatus",
    "Surge",
    "TerminationStatus",
    "WorkerSpec",
]


SAME_TOKEN: Final = "all is fetched with one token: downloads.tokenSecretName must be the model's, where that has one"  # noqa: S105


CANARY_OF_ONE: Final = (
    "a canary runs beside a worker of the stable revision: allow two workers (replicas or scaling.maxReplicas), let "
    "rollout.surge be WhereSpare, or leave rollout.canary out"
)


class StableDiffusionServiceSpec(Model):
    """What a team asks for."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "has(self.replicas) != has(self.scaling)",
                "exactly one of replicas (a fixed number) and scaling must be set",
            ),
            *(
                cel(
                    f"{guard}!has(self.downloads) || !has(self.downloads.tokenSecretName) "
                    f"|| !has({source}.huggingFace) || !has({source}.huggingFace.tokenSecretName) "
                    f"|| {source}.huggingFace.tokenSecretName == self.downloads.tokenSecretName",
                    SAME_TOKEN,
                )
                for guard, source in (
                    ("", "self.model.source"),
                    ("!has(self.model.refiner) || ", "self.model.refiner.source"),
                    ("!has(self.model.vae) || ", "self.model.vae.source"),
                    ("!has(self.model.safetyChecker) || ", "self.model.safetyChecker.source"),
                )
            ),
            cel(
                "!has(self.rollout) || !has(self.rollout.canary) || !has(self.rollout.surge) || self.rollout.surge != "
                "'Never' || (has(self.replicas) ? self.replicas != 1 : self.scaling.maxReplicas > 1)",
                CANARY_OF_ONE,
            ),
            *ADD_ON_RULES,
        )
    )

    model: ModelSpec
    worker: WorkerSpec = WorkerSpec()
    batching: BatchingSpec = BatchingSpec()
    gateway: GatewaySpec = GatewaySpec()
    tracing: TracingConfig = TracingConfig()
    network_policy: NetworkPolicySpec | None = Field(default=None, description="Unset: none.")
    monitoring: MonitoringSpec | None = Field(default=None, description="Unset: none.")
    replicas: int | None = Field(
        default=None, ge=0, le=1000, description="A fixed number of workers; `kubectl scale` writes it."
    )
    scaling: ScalingSpec | None = None
    rollout: RolloutSpec = RolloutSpec()
    adapters: Adapters
    control_nets: ControlNets
    upscalers: Upscalers
    preprocessors: Preprocessors
    downloads: DownloadsSpec = DownloadsSpec()

    @property
    def add_ons(self) -> tuple[AddOnSpec, ...]:
        """All that requests may ask for beside the model."""
        return (*self.adapters, *self.control_nets, *self.upscalers, *self.preprocessors)

    @property
    def hub_token_secret_name(self) -> str | None:
        """The Secret with the token that everything on the Hub is fetched with."""
        hubs = [each.hugging_face for each in self.model.sources.values()]
        named = [each.token_secret_name for each in hubs if each is not None]
        return next((name for name in (*named, self.downloads.token_secret_name) if name is not None), None)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.replicas is None) == (self.scaling is None):
            raise ValueError("exactly one of replicas (a fixed number) and scaling must be set")
        return self

    @model_validator(mode="after")
    def _has_room_for_a_canary(self) -> Self:
        most = self.scaling.max_replicas if self.scaling is not None else self.replicas
        if self.rollout.canary is not None and self.rollout.surge is Surge.NEVER and most == 1:
            raise ValueError(CANARY_OF_ONE)
        return self

    @model_validator(mode="after")
    def _may_be_fetched(self) -> Self:
        if self.downloads.token_secret_name not in {None, self.hub_token_secret_name}:
            raise ValueError(SAME_TOKEN)
        if (host := find_stranger(self.add_ons, self.downloads.allowed_hosts)) is not None:
            raise ValueError(f"{HOST_NOT_ALLOWED}: {host} isn't")
        return self
