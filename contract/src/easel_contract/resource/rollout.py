"""How what the workers run is replaced, and what they ran before."""

from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Final, Self

from pydantic import AwareDatetime, ConfigDict, Field, model_validator

from easel_contract.schema import Model, cel, validations

MAX_REVISIONS: Final = 10
MAX_CANARY_STEPS: Final = 10
STEPS_NOT_RISING: Final = "canary.steps must rise: each is a larger share of the workers than the one before"


class OnFailure(StrEnum):
    """What follows where no worker of a new revision becomes ready within its time."""

    ROLLBACK = "Rollback"  # the last good revision runs again, and is what clients are served by
    HOLD = "Hold"  # the new one goes on being tried


class Surge(StrEnum):
    """Whether a roll-out starts a new worker before it ends an earlier one."""

    WHERE_SPARE = "WhereSpare"  # there is a node for it
    NEVER = "Never"


Steps = Annotated[tuple[Annotated[int, Field(ge=1, le=99)], ...], Field(min_length=1, max_length=MAX_CANARY_STEPS)]


class CanarySpec(Model):
    """How a new revision of workers is tried on a share of the jobs before it replaces the one that serves.

    Workers pull from one queue, so that a share of the workers is the same share of the jobs. Names as in Argo
    Rollouts and Flagger where they have one: https://argo-rollouts.readthedocs.io/en/stable/features/canary/
    """

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel("self.steps.all(i, self.steps.filter(j, j == i).size() == 1)", STEPS_NOT_RISING),
            cel("self.steps.isSorted()", STEPS_NOT_RISING),
        )
    )

    steps: Steps = Field(
        default=(10, 50),
        description="Percent of the workers that are of the new revision, step by step: whole workers, and at least "
        "one. After the last it replaces the others.",
    )
    min_jobs: int = Field(
        default=100,
        ge=20,
        le=100_000,
        description="Jobs that the new revision has to end in a step before the next one; fewer tell less.",
    )
    max_step_seconds: int = Field(
        default=1800,
        ge=60,
        le=86_400,
        description="After this long a step ends by the jobs that there were; not while none of the new revision's has "
        "ended and those of the stable one do.",
    )
    max_failure_increase_percent: int = Field(
        default=5,
        ge=0,
        le=100,
        description="By so many of 100 jobs more than of the stable revision may those of the new one fail.",
    )
    max_p95_increase_percent: int = Field(
        default=50,
        ge=10,
        le=1000,
        description="By so much longer may its workers take for a job, in the 95th percentile, from claimed to done.",
    )

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if any(later <= earlier for earlier, later in pairwise(self.steps)):
            raise ValueError(STEPS_NOT_RISING)
        return self


class RolloutSpec(Model):
    """How changes of what the workers run are carried out."""

    pinned: bool = Field(
        default=False,
        description="Stay with the installation's release that the service has, while others follow a newer one; "
        "changes of this resource are carried out all the same.",
    )
    paused: bool = Field(
        default=False,
        description="Replace no worker, as a Deployment's `paused`: for whatever reason, and in the midst of a "
        "roll-out too. Requests for a model that was changed meanwhile wait as long.",
    )
    to_revision: int | None = Field(
        default=None,
        ge=1,
        description="Run what this revision of `status.revisions` ran: its model, `worker`, `batching` and release, "
        "whatever the rest of the spec and the installation say of them. Without it they count again.",
    )
    surge: Surge = Field(
        default=Surge.WHERE_SPARE,
        description="Whether a new worker is started before an earlier one ends: `WhereSpare`, while the cluster has a "
        "node for it (and workers mount no claim that one node has at a time), else one makes room first. A cluster "
        "autoscaler may order a node for it; `Never` keeps to the GPUs that the service has.",
    )
    deadline_seconds: int = Field(
        default=1800, ge=60, le=86_400, description="For a new worker to become ready, before a roll-out has failed."
    )
    on_failure: OnFailure = Field(
        default=OnFailure.ROLLBACK,
        description="`Rollback`: run what ran before, with its model, until the spec or the release changes. `Hold`: "
        "go on trying, and a canary that fails stays at its step. A worker that no node has room for is no failure.",
    )
    canary: CanarySpec | None = Field(
        default=None,
        description="Try a new revision of the workers on a share of the jobs first. Not of another model, which no "
        "worker of the stable revision could serve beside it. Unset: it replaces the workers at once.",
    )


class RolloutHold(StrEnum):
    """Why a service hasn't the installation's release."""

    WAITING = "Waiting"  # for its turn
    PINNED = "Pinned"
    PAUSED = "Paused"
    REVISION = "Revision"  # it runs an earlier revision, as it was told to
    CANARY = "Canary"  # its canary has no workers to be compared with


class RolloutStatus(Model):
    """That the service runs something else than the spec and the installation's release together say."""

    hold: RolloutHold
    message: str = Field(description="What it has, what it is to have, and what it waits for.")


class CanaryPhase(StrEnum):
    """How a canary stands."""

    WAITING = "Waiting"  # for workers of the stable revision to compare it with
    RUNNING = "Running"
    HELD = "Held"  # it failed, and rollout.onFailure is Hold


class CanaryFigures(Model):
    """What the workers of one revision did in a step."""

    jobs: int = Field(default=0, ge=0, description="That succeeded, or whose attempt failed on them.")
    failures: int = Field(default=0, ge=0, description="Of these.")
    p95_seconds: float | None = Field(default=None, ge=0, description="Claimed to done, of those that succeeded.")
    durations: tuple[int, ...] = Field(
        default=(),
        max_length=64,
        description="Those that succeeded by how long they took, as the buckets of easel_job_worker_seconds; what a "
        "restarted operator knows.",
    )


class CanaryStatus(Model):
    """A new revision of the workers that is tried on a share of the jobs. Unset: none is."""

    phase: CanaryPhase
    revision: str = Field(default="", description="Of its template, as in `status.revisions`.")
    step: int = Field(default=0, ge=0, description="Which of the steps, from 1; 0 while it waits.")
    percent: int = Field(default=0, ge=0, le=100, description="Of the workers, by that step.")
    workers: int = Field(default=0, ge=0, description="Of the new revision that are wanted.")
    since: AwareDatetime | None = Field(default=None, description="When the step began.")
    message: str = Field(description="What it waits for, or why it failed.")
    canary: CanaryFigures = Field(default=CanaryFigures(), description="Of the new revision, in this step.")
    stable: CanaryFigures = Field(default=CanaryFigures(), description="Of the one that serves beside it.")
    counted_at: AwareDatetime | None = Field(default=None, description="When these figures were written down.")


class RevisionStatus(Model):
    """One change of what the workers run."""

    number: int = Field(ge=1)
    revision: str = Field(description="Of the template, as its pods' annotation easel.dev/revision has it.")
    image: str = ""
    model: str = Field(default="", description="spec.model, as JSON.")
    since: AwareDatetime
    ready_at: AwareDatetime | None = Field(
        default=None, description="When a worker of it was first seen ready. Unset: none was."
    )
