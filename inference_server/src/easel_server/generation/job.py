"""A job: one request for images, from submit to its end. Values only; the job store keeps them, no I/O lives here.

State machine (the job store is the only place that makes a transition, atomically):

    from      event                                        to
    ----      -----                                        --
    (none)    submit                                       Waiting
    (none)    submit with a known answer (the cache)       Succeeded
    Waiting   claim (attempts + 1)                         Running
    (none)    submit, an equal one is under way            Waiting or Running: as that one, whose end it shares
    Waiting   cancel                                       Canceled
    Waiting   deadline passes                              Failed
    Waiting   its model is served no longer                Failed
    Running   finish                                       Succeeded | Failed | Canceled
    Running   cancel, while others share the run           Canceled
    Running   deadline passes, while others share the run  Failed
    Running   release (drain; attempts - 1)                Waiting, at the head; Canceled if cancel was asked for
    Running   attempt failed, by no fault of the job's     as when its lease expires
    Running   lease expires, cancel was asked for          Canceled
    Running   lease expires, attempts < max_attempts       Waiting, at the head
    Running   lease expires, attempts = max_attempts       Failed

Succeeded, Failed and Canceled are final: exactly one of them is ever seen.

Jobs of one flight (``submit`` with the same ``flight_key``) are generated once. The first leads; the others follow its
state and share its end and its images. When a leader is cancelled, the next of the flight leads, at the same place in
the queue or with the same run; the work ends only when nobody of the flight is left. A flight that waits goes with the
highest priority that a job of it has had.
"""

import hashlib
from enum import StrEnum

from easel_contract.add_ons import AddOnConfig
from easel_contract.schema import Model
from easel_contract.server_config import Priority
from pydantic import AwareDatetime, Field

from easel_server.generation.images import ImageReference
from easel_server.generation.messages import bound_warnings, find_flagged
from easel_server.generation.models import ModelIdentity, RequestedModel
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.request import WebhookTarget


class JobState(StrEnum):
    """Where a job stands; see the table above."""

    WAITING = "Waiting"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELED = "Canceled"

    @property
    def is_final(self) -> bool:
        """Whether no transition leaves this state."""
        return self in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED}


class Job(Model):
    """A job as it is stored and reported; its images are stored beside it."""

    id: str
    owner: str  # whose API key it was ("anonymous" without keys), never the key itself
    parameters: GenerationParameters
    # Where the weights are that it uses beside the model; left out where there are none, as in its parameters
    add_ons: tuple[AddOnConfig, ...] = Field(default=(), exclude_if=lambda value: not value)
    # Stored beside it: the model that it asks for (None: any, as an earlier version had it), and what generated it
    model: RequestedModel | None = Field(default=None, exclude=True)
    generated_by: ModelIdentity | None = Field(default=None, exclude=True)
    # Stored beside it too, where somebody will ask: what its client calls it, if not by its id, and what was called
    # (http://HOST), which links in webhooks begin with
    client_id: str | None = Field(default=None, max_length=64, exclude=True)
    base_url: str | None = Field(default=None, max_length=300, exclude=True)
    submitted_at: AwareDatetime
    state: JobState = JobState.WAITING
    attempts: int = 0
    steps_done: int = 0
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    deadline_at: AwareDatetime | None = None
    worker: str | None = None
    error: str | None = None
    cancel_requested: bool = False
    webhook: WebhookTarget | None = None
    priority: Priority = Priority.NORMAL
    weight: int = Field(default=1, ge=1)  # of the owner, beside others who wait
    predicted_gpu_seconds: float = Field(default=1.0, gt=0)
    wanted_previews: int = Field(default=0, ge=0, le=3)  # unfinished images on the way, evenly spaced over the steps
    previews: int = 0  # how many there are so far
    # Of a job that has succeeded, stored beside it: its images, in order, and whether they were removed once delivered
    images: tuple[ImageReference, ...] = Field(default=(), exclude=True)
    # Stored beside it: what was done otherwise than asked, in sentences; known at the submit, and once it was generated
    request_warnings: tuple[str, ...] = Field(default=(), exclude=True)
    generation_warnings: tuple[str, ...] = Field(default=(), exclude=True)
    data_removed: bool = Field(default=False, exclude=True)
    # Of its parameters, for the key under which its images are cached with what generated them; None: they may not be.
    cache_key: str | None = None
    request_id: str | None = None  # of the HTTP request that submitted it
    trace_parent: str | None = None  # https://www.w3.org/TR/trace-context/#traceparent-header

    @property
    def warnings(self) -> tuple[str, ...]:
        """What its client should know was done otherwise than asked, as far as is known now."""
        warnings = (*self.request_warnings, *self.generation_warnings)
        return bound_warnings(warnings) if warnings else ()

    @property
    def flagged(self) -> frozenset[int]:
        """Which of its images the model's safety checker flagged, by their indices."""
        return find_flagged(self.generation_warnings) if self.generation_warnings else frozenset()


def job_fingerprint(job: Job) -> str:
    """Equal for jobs that ask for the same: owner, parameters and webhook. Times and progress don't count."""
    parts = [job.parameters, *([job.webhook] if job.webhook else [])]
    documents = [part.model_dump_json(by_alias=True, exclude_none=True) for part in parts]
    # JSON has no raw NUL, so that no two jobs give the same bytes.
    return hashlib.sha256("\0".join([*documents, job.owner]).encode()).hexdigest()
