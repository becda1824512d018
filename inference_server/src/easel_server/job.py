"""A job: one request for images, from submit to its end. Values only; the broker stores them, no I/O lives here.

State machine (the broker is the only place that makes a transition, atomically):

    from      event                                        to
    ----      -----                                        --
    (none)    submit                                       Waiting
    (none)    submit with a known answer (the cache)       Succeeded
    Waiting   claim (attempts + 1)                         Running
    Waiting   cancel                                       Canceled
    Waiting   deadline passes                              Failed
    Running   finish                                       Succeeded | Failed | Canceled
    Running   release (drain; attempts - 1)                Waiting, at the head; Canceled if cancel was asked for
    Running   lease expires, cancel was asked for          Canceled
    Running   lease expires, attempts < max_attempts       Waiting, at the head
    Running   lease expires, attempts = max_attempts       Failed

Succeeded, Failed and Canceled are final: exactly one of them is ever seen.
"""

from enum import StrEnum

from easel_contract.schema import Model
from pydantic import AwareDatetime, Field


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


class ImageFormat(StrEnum):
    """Encoding of the images that a job returns."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


class GenerationParameters(Model):
    """Everything that determines the pixels, with defaults filled in: what the cache is keyed by.

    ``seed`` is set by the gateway when the client gave none, so that a retried job draws the same picture.
    Image number i of ``images`` uses seed + i.
    """

    prompt: str
    negative_prompt: str = ""
    width_pixels: int = Field(multiple_of=8, ge=8)
    height_pixels: int = Field(multiple_of=8, ge=8)
    steps: int = Field(ge=1)
    guidance_scale: float = Field(ge=0.0, allow_inf_nan=False)
    seed: int = Field(ge=0, lt=2**63)
    images: int = Field(default=1, ge=1)
    image_format: ImageFormat = ImageFormat.PNG


class WebhookTarget(Model):
    """Whom to tell, and of which events (``start``, ``completed``: the names of Replicate's API)."""

    url: str
    events: tuple[str, ...] = ("completed",)


class Job(Model):
    """A job as it is stored and reported; its images are stored beside it."""

    id: str
    owner: str  # whose API key it was ("anonymous" without keys), never the key itself
    parameters: GenerationParameters
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
