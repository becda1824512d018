"""Replicate's prediction as it travels: request bodies, and a job in its shape. Pure.

https://replicate.com/docs/reference/http
"""

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from easel_server.http.admission import FieldNames, Wanted
from easel_server.http.body import WireInteger, WireNumber, show
from easel_server.http.links import Links
from easel_server.http.refusals import refuse_field
from easel_server.job import ImageFormat, Job, JobState, WebhookTarget

MAXIMUM_URL_CHARACTERS = 2048
EVENTS = ("start", "completed")
PROGRESS_BAR_CHARACTERS = 10

STATUSES = {
    JobState.WAITING: "starting",
    JobState.RUNNING: "processing",
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELED: "canceled",
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
)


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

    def to_wanted(self) -> Wanted:
        """What is asked for, by our names."""
        return Wanted(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt or "",
            width_pixels=self.width,
            height_pixels=self.height,
            steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            images=1 if self.num_outputs is None else self.num_outputs,
            image_format=self.output_format or ImageFormat.PNG,
        )


class PredictionBody(BaseModel):
    """The body of POST and PUT."""

    model_config = ConfigDict(extra="forbid")

    input: PredictionInput
    version: str | None = None  # the served model's name; Replicate's clients need one
    model: str | None = None
    webhook: str | None = None
    webhook_events_filter: list[Literal["start", "completed"]] | None = None
    stream: Literal[False] | None = None

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
        return WebhookTarget(url=self.webhook, events=tuple(event for event in EVENTS if event in chosen))


def _check_url(url: str) -> None:
    if len(url) > MAXIMUM_URL_CHARACTERS:
        raise refuse_field("webhook", f"has {len(url)} characters, at most {MAXIMUM_URL_CHARACTERS} are allowed")
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an IPv6 address that isn't one
        is_address = False
    if not is_address or not url.isascii() or not url.isprintable() or " " in url:
        raise refuse_field("webhook", f"is {show(url)}, allowed is an absolute http:// or https:// URL")


def build_prediction(job: Job, *, model: str, links: Links) -> dict[str, Any]:
    """A job in Replicate's shape."""
    parameters = job.parameters
    prediction: dict[str, Any] = {
        "id": job.id,
        "model": model,
        "version": model,
        "input": {
            "prompt": parameters.prompt,
            "negative_prompt": parameters.negative_prompt,
            "width": parameters.width_pixels,
            "height": parameters.height_pixels,
            "num_outputs": parameters.images,
            "num_inference_steps": parameters.steps,
            "guidance_scale": parameters.guidance_scale,
            "seed": parameters.seed,
            "output_format": parameters.image_format,
        },
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
        "urls": {"get": links.prediction(job), "cancel": f"{links.prediction(job)}/cancel"},
    }
    if job.started_at and job.finished_at:
        prediction["metrics"] = {
            "predict_time": (job.finished_at - job.started_at).total_seconds(),
            "total_time": (job.finished_at - job.submitted_at).total_seconds(),
        }
    return prediction


def build_progress_line(job: Job) -> str:
    """Progress in the form that Replicate's clients find in logs: tqdm's, such as `` 40%|####      | 12/30``."""
    if job.started_at is None:
        return ""
    total = job.parameters.steps
    done = total if job.state is JobState.SUCCEEDED else min(job.steps_done, total)
    bar = "#" * (PROGRESS_BAR_CHARACTERS * done // total)
    return f"{100 * done // total:3d}%|{bar:<{PROGRESS_BAR_CHARACTERS}}| {done}/{total}\n"
