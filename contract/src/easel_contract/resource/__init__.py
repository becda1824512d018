"""The StableDiffusionService resource: the one source of the CRD, the reference docs and the operator's view of it.

Defaults are written into the CRD, so that the API server shows users what they get. Rules that span fields are CEL
(``x-kubernetes-validations``), so that ``kubectl apply`` refuses a bad resource with a sentence; the pydantic
validators say the same for resources that reach the operator some other way. A file a section.
"""

from typing import Self

from pydantic import ConfigDict, Field, model_validator

from easel_contract.resource.gateway import GatewaySpec, ResultsSpec
from easel_contract.resource.model import ModelSource, ModelSpec
from easel_contract.resource.scaling import ExecutionMode, ScalingSpec, ScheduleSpec
from easel_contract.resource.status import (
    ColdStartStatus,
    ScalingStatus,
    StableDiffusionServiceStatus,
    TerminationStatus,
)
from easel_contract.resource.worker import BatchingSpec, ResourceRequirements, WorkerSpec
from easel_contract.schema import Model, cel, validations
from easel_contract.server_config import TracingConfig

__all__ = [
    "ColdStartStatus",
    "ExecutionMode",
    "ModelSource",
    "ResourceRequirements",
    "ResultsSpec",
    "ScalingSpec",
    "ScalingStatus",
    "ScheduleSpec",
    "StableDiffusionServiceSpec",
    "StableDiffusionServiceStatus",
    "TerminationStatus",
]


class StableDiffusionServiceSpec(Model):
    """What a team asks for."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel(
                "has(self.replicas) != has(self.scaling)",
                "exactly one of replicas (a fixed number) and scaling must be set",
            )
        )
    )

    model: ModelSpec
    worker: WorkerSpec = WorkerSpec()
    batching: BatchingSpec = BatchingSpec()
    gateway: GatewaySpec = GatewaySpec()
    tracing: TracingConfig = TracingConfig()
    replicas: int | None = Field(
        default=None, ge=0, le=1000, description="A fixed number of workers; `kubectl scale` writes it."
    )
    scaling: ScalingSpec | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.replicas is None) == (self.scaling is None):
            raise ValueError("exactly one of replicas (a fixed number) and scaling must be set")
        return self
