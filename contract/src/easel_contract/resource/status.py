"""What the operator last saw of a service."""

from typing import Annotated

from pydantic import AwareDatetime, Field

from easel_contract.conditions import Condition
from easel_contract.resource.rollout import MAX_REVISIONS, CanaryStatus, RevisionStatus, RolloutStatus
from easel_contract.schema import Model


class HeadroomStatus(Model):
    """The headroom in use, as it was found by replay; and what a restarted operator needs to go on with it."""

    margin_percent: int = Field(
        ge=-100, le=10000, description="Workers on top of the busy ones, in percent of a worker where one is busy."
    )
    hold_seconds: int = Field(ge=0, description="Without need of it, before a worker is scaled down.")
    last_pod_seconds: int = Field(ge=0, description="Without any request, before the last one is.")
    expected_arrivals_percent: int = Field(
        default=70,
        ge=0,
        le=100,
        description="Of the arriving work, that workers for a backlog are ordered for beside it.",
    )
    reason: str = Field(description="Why this one, with its figures.")
    advice: str = Field(
        default="", description="What would help where too many requests are late; empty where that isn't so."
    )
    seen_minutes: int = Field(default=0, ge=0, description="Of arrivals that it was found by.")
    debt_requests: int = Field(
        default=0, description="Late requests of the last week or so beyond what was planned; negative: fewer."
    )
    debt_of_requests: int = Field(default=0, ge=0, description="Of so many.")


class ScalingStatus(Model):
    """The last scaling decision that changed the number of workers."""

    desired_replicas: int = Field(ge=0)
    reason: str = Field(description="The decision in one sentence, with its figures.")
    decided_at: AwareDatetime
    cold_starts_seconds: tuple[int, ...] = Field(
        default=(),
        max_length=20,
        description="From creation to Ready, of the workers that were started last; what a restarted operator knows.",
    )
    headroom: HeadroomStatus | None = None


class ColdStartStatus(Model):
    """What the start of the worker that became ready last was made of, in whole seconds."""

    pod_name: str
    ready_at: AwareDatetime
    scheduled_seconds: int | None = Field(
        default=None,
        ge=0,
        description="From the pod's creation to its node. Unset: it started again on it.",
    )
    pulled_seconds: int | None = Field(
        default=None, ge=0, description="From there to its container's start: volumes, and the image."
    )
    imported_seconds: int | None = Field(default=None, ge=0, description="From there to its libraries' import.")
    weights_seconds: int | None = Field(default=None, ge=0, description="Until the weights were on their device.")
    compiled_seconds: int | None = Field(default=None, ge=0, description="Until the model was prepared for speed.")
    warm_seconds: int | None = Field(default=None, ge=0, description="Until a first image was generated.")


class TerminationStatus(Model):
    """How long a stopping worker may take, and how long jobs take."""

    grace_period_seconds: int = Field(ge=0, description="What workers that start now have.")
    longest_job_seconds: int = Field(
        ge=0, description="The longest job so far, from claimed to finished; what a restarted operator knows."
    )
    advice: str = Field(default="", description="What to do where the longest job doesn't fit; empty where it does.")


class ModelCacheStatus(Model):
    """How far the Job is that fills the model's cache, in steps of a twentieth."""

    needed_bytes: int = Field(ge=0, description="Of all files that are known to be needed; it may still grow.")
    fetched_bytes: int = Field(ge=0, description="Of them, what is in the cache.")
    verified_bytes: int = Field(ge=0, description="Of these, what was compared with the Hub's sizes and hashes.")


class StableDiffusionServiceStatus(Model):
    """What the operator last saw."""

    observed_generation: int = Field(default=0, ge=0)
    replicas: int = Field(default=0, ge=0, description="Worker pods that exist.")
    ready_replicas: int = Field(default=0, ge=0, description="Worker pods that hold the model and take work.")
    selector: str = Field(default="", description="Label selector of the worker pods, for the scale subresource.")
    url: str | None = Field(default=None, description="Where clients inside the cluster reach the service.")
    scaling: ScalingStatus | None = None
    termination: TerminationStatus | None = None
    cold_start: ColdStartStatus | None = None
    model_cache: ModelCacheStatus | None = Field(
        default=None, description="Set while workers wait for the model's cache to be filled."
    )
    rollout: RolloutStatus | None = Field(
        default=None, description="Set while the installation has a newer release than the service."
    )
    canary: CanaryStatus | None = Field(
        default=None, description="Set while a new revision is tried, see rollout.canary."
    )
    revisions: tuple[RevisionStatus, ...] = Field(
        default=(), max_length=MAX_REVISIONS, description="What the workers ran, the newest last."
    )
    conditions: Annotated[
        tuple[Condition, ...],
        Field(default=(), json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
    ]
