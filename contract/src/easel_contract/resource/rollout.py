"""How what the workers run is replaced, and what they ran before."""

from enum import StrEnum
from typing import Final

from pydantic import AwareDatetime, Field

from easel_contract.schema import Model

MAX_REVISIONS: Final = 10


class OnFailure(StrEnum):
    """What follows where no worker of a new revision becomes ready within its time."""

    ROLLBACK = "Rollback"  # the last good revision runs again, and is what clients are served by
    HOLD = "Hold"  # the new one goes on being tried


class Surge(StrEnum):
    """Whether a roll-out starts a new worker before it ends an earlier one."""

    WHERE_SPARE = "WhereSpare"  # there is a node for it
    NEVER = "Never"


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
        "go on trying. A worker that no node has room for is no failure.",
    )


class RolloutHold(StrEnum):
    """Why a service hasn't the installation's release."""

    WAITING = "Waiting"  # for its turn
    PINNED = "Pinned"
    PAUSED = "Paused"
    REVISION = "Revision"  # it runs an earlier revision, as it was told to


class RolloutStatus(Model):
    """That the service runs something else than the spec and the installation's release together say."""

    hold: RolloutHold
    message: str = Field(description="What it has, what it is to have, and what it waits for.")


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
