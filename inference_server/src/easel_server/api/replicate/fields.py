"""Replicate's prediction as it travels: request bodies, and a job in its shape. Pure.

https://replicate.com/docs/reference/http
"""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from easel_contract.server_config import Priority
from pydantic import BaseModel, ConfigDict, Field

from easel_server.api.links import Links
from easel_server.gateway.admission import FieldNames, Wanted
from easel_server.gateway.queue_estimate import Progress
from easel_server.gateway.refusals import refuse_field
from easel_server.generation.job import Job, JobState, WebhookTarget
from easel_server.generation.messages import truncate_repr
from easel_server.generation.parameters import ImageFormat
from easel_server.generation.request import InputPictures
from easel_server.transport.bodies import WireInteger, WireNumber

MAX_URL_CHARACTERS = 2048


MAX_PREVIEWS = 3


EVENTS = ("start", "completed")


PROGRESS_BAR_CHARACTERS = 10


STATUSES = {
    JobState.WAITING: "starting",
    JobState.RUNNING: "processing",
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELED: "canceled",
}

# Replicate's Stable Diffusion models call samplers so.
SCHEDULERS = {
    "DDIM": "DDIM",
    "PNDM": "PNDM",
    "K_EULER": "Euler",
    "K_EULER_ANCESTRAL": "Euler a",
    "HeunDiscrete": "Heun",
    "DPMSolverMultistep": "DPM++ 2M",
    "KarrasDPM": "DPM++ 2M Karras",
}


NAMES = FieldNames(
    prompt="input.prompt",
    negative_prompt="input.negative_prompt",
    width="input.width",
    height="input.height",
    steps="input.num_inference_steps",
    guidance_scale="input.guidance_scale",
    seed="input.seed",
    images="input.num_outputs",
    sampler="input.scheduler",
    image="input.image",
    mask="input.mask",
    strength="input.prompt_strength",
)


Previews = Annotated[int, Field(ge=0, le=MAX_PREVIEWS)]


class PredictionInput(BaseModel):
    """What to draw, by the names that Replicate's Stable Diffusion models use."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    negative_prompt: str | None = None
    width: WireInteger | None = None
    height: WireInteger | None = None
    num_outputs: WireInteger | None = None
    num_inference_steps: WireInteger | None = None
    guidance_scale: WireNumber | None = None
    seed: WireInteger | None = None
    output_format: ImageFormat | None = None
    scheduler: str | None = Field(default=None, description="A sampler's name, AUTOMATIC1111's or Replicate's.")
    image: str | None = Field(default=None, description="The picture to begin with: a data: URL of PNG, JPEG or WebP.")
    mask: str | None = Field(default=None, description="Where to redraw `image`: white. A data: URL.")
    prompt_strength: WireNumber | None = Field(
        default=None, description="Share of the steps that are drawn over `image`; 1 forgets it."
    )
    priority: Priority | None = Field(default=None, description="Which waiting jobs go first.")
    previews: Previews | None = Field(default=None, description="Unfinished pictures on the way.")

    def to_wanted(self, pictures: InputPictures | None) -> Wanted:
        """What is asked for, by our names; ``pictures`` are made of ``image`` and ``mask``."""
        return Wanted(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt or "",
            width_pixels=pictures.width_pixels if pictures else self.width,
            height_pixels=pictures.height_pixels if pictures else self.height,
            steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            images=1 if self.num_outputs is None else self.num_outputs,
            image_format=self.output_format or ImageFormat.PNG,
            sampler=SCHEDULERS.get(self.scheduler, self.scheduler) if self.scheduler else None,
            pictures=pictures,
            strength=self.prompt_strength,
        )


class PredictionBody(BaseModel):
    """The body of POST and PUT."""

    model_config = ConfigDict(extra="forbid")

    input: PredictionInput
    version: str | None = None  # the served model's name; Replicate's clients need one
    model: str | None = None
    webhook: str | None = None
    webhook_events_filter: list[Literal["start", "output", "logs", "completed"]] | None = Field(
        default=None,
        description="Of start and completed, which are told. output and logs are accepted and never told: all images "
        "come at once, with completed, and progress is at urls.stream.",
    )
    stream: bool | None = Field(default=None, description="Without effect: every prediction has events at urls.stream.")

    def to_webhook(self, *, is_signing_configured: bool) -> WebhookTarget | None:
        """Whom to tell. Raises RefusalError for an address that can't be one, or if nothing could sign the message."""
        if self.webhook is None:
            return None
        if not is_signing_configured:
            raise refuse_field(
                "webhook",
                "can't be used: this service has no signing secret; whoever runs it sets "
                "gateway.webhook.signingSecretName (EASEL_WEBHOOK_SECRET outside Kubernetes)",
            )
        _check_url(self.webhook)
        chosen = EVENTS if self.webhook_events_filter is None else self.webhook_events_filter
        events = tuple(event for event in EVENTS if event in chosen)
        if chosen and not events:
            raise refuse_field(
                "webhook_events_filter",
                f"is {truncate_repr(chosen)}, of which nothing would be told; add start or completed",
            )
        return WebhookTarget(url=self.webhook, events=events)


def _check_url(url: str) -> None:
    if len(url) > MAX_URL_CHARACTERS:
        raise refuse_field("webhook", f"has {len(url)} characters, at most {MAX_URL_CHARACTERS} are allowed")
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an IPv6 address that isn't one
        is_address = False
    if not is_address or not url.isascii() or not url.isprintable() or " " in url:
        raise refuse_field("webhook", f"is {truncate_repr(url)}, allowed is an absolute http:// or https:// URL")


def build_prediction(job: Job, *, model: str, links: Links, progress: Progress | None = None) -> dict[str, Any]:
    """A job in Replicate's shape, with our field ``progress`` if it is known."""
    prediction: dict[str, Any] = {
        "id": job.id,
        "model": model,
        "version": model,
        "input": _build_input(job),
        "output": links.outputs(job) if job.state is JobState.SUCCEEDED else None,
        "error": job.error,
        "logs": build_progress_line(job),
        "status": STATUSES[job.state],
        "created_at": job.submitted_at.isoformat(),
        "started_at": job.started_at.isoformat() if job.started_at else None,
        "completed_at": job.finished_at.isoformat() if job.finished_at else None,
        "data_removed": False,
        "source": "api",
        "metrics": {},
        "urls": {"get": links.prediction(job), "cancel": links.cancel(job), "stream": links.stream(job)},
    }
    if progress is not None:
        prediction["progress"] = build_progress_fields(job, progress, links)
    if job.started_at and job.finished_at:
        prediction["metrics"] = {
            "predict_time": (job.finished_at - job.started_at).total_seconds(),
            "total_time": (job.finished_at - job.submitted_at).total_seconds(),
        }
    return prediction


def _build_input(job: Job) -> dict[str, Any]:
    """What was asked for, with defaults filled in; input pictures aren't sent back."""
    parameters = job.parameters
    given: dict[str, Any] = {
        "prompt": parameters.prompt,
        "negative_prompt": parameters.negative_prompt,
        "width": parameters.width_pixels,
        "height": parameters.height_pixels,
        "num_outputs": parameters.images,
        "num_inference_steps": parameters.steps,
        "guidance_scale": parameters.guidance_scale,
        "seed": parameters.seed,
        "output_format": parameters.image_format,
        "priority": job.priority,
    }
    if parameters.sampler is not None:
        given["scheduler"] = parameters.sampler
    if parameters.strength is not None:
        given["prompt_strength"] = parameters.strength
    return given


def build_progress_fields(job: Job, progress: Progress, links: Links) -> dict[str, Any]:
    """How far a job is, as ``prediction_stream`` describes it."""
    return {
        "status": STATUSES[job.state],
        "queue_position": progress.queue_position,
        "jobs_ahead": progress.jobs_ahead,
        "eta_seconds": progress.eta_seconds,
        "steps_done": progress.steps_done,
        "steps": progress.steps,
        "previews": links.previews(job),
    }


def build_progress_line(job: Job) -> str:
    """Progress in the form that Replicate's clients find in logs: tqdm's, such as `` 40%|####      | 12/30``."""
    if job.started_at is None:
        return ""
    total = job.parameters.steps
    done = total if job.state is JobState.SUCCEEDED else min(job.steps_done, total)
    bar = "#" * (PROGRESS_BAR_CHARACTERS * done // total)
    return f"{100 * done // total:3d}%|{bar:<{PROGRESS_BAR_CHARACTERS}}| {done}/{total}\n"


MAX_WAIT_SECONDS = 60


MIN_CANCEL_AFTER = timedelta(seconds=1)


MAX_CANCEL_AFTER = timedelta(days=1)


PREFER_PATTERN = re.compile(r"wait(?:\s*=\s*([0-9]{1,6}))?", re.IGNORECASE)


DURATION_PATTERN = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s?)?")


def parse_wait_seconds(prefer: str) -> int:
    """Seconds of ``Prefer: wait=n``; plain ``wait`` is the maximum; 0 without. Raises RefusalError.

    https://www.rfc-editor.org/rfc/rfc7240
    """
    for preference in prefer.split(","):
        match = PREFER_PATTERN.fullmatch(preference.strip())
        if match is None:
            continue
        seconds = int(match[1]) if match[1] else MAX_WAIT_SECONDS
        if not 1 <= seconds <= MAX_WAIT_SECONDS:
            raise refuse_field("Prefer", f"waits {seconds} s, allowed are 1 to {MAX_WAIT_SECONDS}")
        return seconds
    return 0


def parse_cancel_after(text: str | None) -> timedelta | None:
    """The time of ``Cancel-After: 90``, ``90s``, ``2m`` or ``1h30m``; None without. Raises RefusalError.

    https://replicate.com/docs/topics/predictions/lifecycle
    """
    if text is None:
        return None
    match = DURATION_PATTERN.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise refuse_field(
            "Cancel-After", f'is {truncate_repr(text)}, allowed are seconds, or a duration such as "30s" or "1h30m"'
        )
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    duration = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if not MIN_CANCEL_AFTER <= duration <= MAX_CANCEL_AFTER:
        allowed = f"{MIN_CANCEL_AFTER.total_seconds():.0f} s to {MAX_CANCEL_AFTER.total_seconds() / 3600:.0f} h"
        raise refuse_field("Cancel-After", f"is {truncate_repr(text)}, allowed are {allowed}")
    return duration
