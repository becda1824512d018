"""A job: one request for images, from submit to its end. Values only; the broker stores them, no I/O lives here.

State machine (the broker is the only place that makes a transition, atomically):

    from      event                                        to
    ----      -----                                        --
    (none)    submit                                       Waiting
    (none)    submit with a known answer (the cache)       Succeeded
    Waiting   claim (attempts + 1)                         Running
    (none)    submit, an equal one is under way            Waiting or Running: as that one, whose end it shares
    Waiting   cancel                                       Canceled
    Waiting   deadline passes                              Failed
    Running   finish                                       Succeeded | Failed | Canceled
    Running   cancel, while others share the run           Canceled
    Running   deadline passes, while others share the run  Failed
    Running   release (drain; attempts - 1)                Waiting, at the head; Canceled if cancel was asked for
    Running   lease expires, cancel was asked for          Canceled
    Running   lease expires, attempts < max_attempts       Waiting, at the head
    Running   lease expires, attempts = max_attempts       Failed

Succeeded, Failed and Canceled are final: exactly one of them is ever seen.

Jobs of one flight (``submit`` with the same ``flight_key``) are drawn once. The first leads; the others follow its
state and share its end and its images. When a leader is cancelled, the next of the flight leads, at the same place in
the queue or with the same run; the work ends only when nobody of the flight is left. A flight that waits goes with the
highest priority that a job of it has had.
"""

from enum import StrEnum

from easel_contract.schema import Model
from pydantic import Field

from easel_server.generation.tasks import TASKS, Task


class ImageFormat(StrEnum):
    """Encoding of the images that a job returns."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


class GenerationParameters(Model):
    """Everything that determines the pixels, with defaults filled in: what the cache is keyed by.

    ``seed`` is set by the gateway when the client gave none, so that a retried job draws the same picture.
    Image number i of ``images`` uses seed + i. Input pictures are named by their SHA-256 (hexadecimal); their bytes, a
    PNG of exactly ``width_pixels`` x ``height_pixels``, travel beside the job.
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
    sampler: str | None = None  # a name of ``samplers.py``; None: the model's own
    task: Task = Task.TEXT_TO_IMAGE
    image_digest: str | None = None  # the picture to begin with: RGB
    mask_digest: str | None = None  # where to redraw: L, 255 is redrawn
    # Share of the steps that are drawn; 1 forgets the picture.
    strength: float | None = Field(default=None, ge=0.0, le=1.0)

    @property
    def passes(self) -> int:
        """Evaluations of the denoiser a step: guidance needs a second one."""
        return 2 if self.guidance_scale > 1.0 else 1

    @property
    def denoising_steps(self) -> int:
        """Steps that are really taken."""
        return TASKS[self.task].count_denoising_steps(self.steps, self.strength)

    @property
    def batch_key(self) -> str:
        """Equal for jobs that one call of a pipeline can draw together."""
        size = f"{self.width_pixels}x{self.height_pixels}"
        # Stable Diffusion XL knows an empty negative prompt from none, so a batch has to have one or the other.
        negated = bool(self.negative_prompt)
        return f"{self.task} {size} {self.steps} {self.guidance_scale!r} {self.strength!r} {negated} {self.sampler}"
