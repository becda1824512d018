"""What Replicate's API answers: a job in its shape, and its description. Pure."""

from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import AwareDatetime, BaseModel

from easel_server.api.links import Links
from easel_server.api.openapi import (
    JOB_HEADERS,
    Responses,
    describe_answer,
    describe_errors,
    describe_events,
    describe_flag,
    describe_headers,
    describe_media,
    describe_text,
)
from easel_server.api.replicate.errors import PredictionError
from easel_server.api.replicate.fields import PredictionInput
from easel_server.gateway.queue_estimate import Progress
from easel_server.generation.job import Job, JobState

STATUSES: Final = {
    JobState.WAITING: "starting",
    JobState.RUNNING: "processing",
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELED: "canceled",
}
PROGRESS_BAR_CHARACTERS: Final = 10

Status = Literal["starting", "processing", "succeeded", "failed", "canceled"]


class PredictionProgress(BaseModel):
    """How far a prediction is."""

    status: Status
    queue_position: int | None
    jobs_ahead: int | None
    workers: int | None
    eta_seconds: float | None
    steps_done: int
    steps: int
    previews: list[str]


class PredictionUrls(BaseModel):
    """Where a prediction is, is cancelled, and sends its events."""

    get: str
    cancel: str
    stream: str


class Prediction(BaseModel):
    """A prediction."""

    id: str
    model: str
    version: str
    input: dict[str, Any]
    output: list[str] | None
    error: str | None
    logs: str
    status: Status
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    completed_at: AwareDatetime | None
    data_removed: bool  # true: the images were delivered with the answer to their request, and not kept
    source: Literal["api"]
    metrics: dict[str, float]
    urls: PredictionUrls
    flagged: list[bool] | None = None  # which images the model's safety checker flagged; absent if none
    progress: PredictionProgress | None = None  # absent where nobody asked for this one
    webhook: str | None = None  # absent if there is none
    webhook_events_filter: list[str] | None = None


class PredictionPage(BaseModel):
    """Some predictions, newest first."""

    previous: str | None
    next: str | None  # where older ones are
    results: list[Prediction]


CREATE_HEADERS = describe_headers(
    Prefer="`wait=SECONDS`: answer when the prediction is over, or after so long; 1 to 60.",
    Cancel_After="The prediction fails if it isn't over after so long: seconds, or such as `30s`, `1h30m`.",
    Idempotency_Key="Requests of one key with the same content create one prediction.",
    Cache_Control="`no-cache` generates anew, `no-store` keeps nothing, `only-if-cached` generates nothing.",
)
LIST_PARAMETERS = describe_text("cursor", "Where the list goes on: from `next` of the page before.")
STREAM_PARAMETERS = {
    "parameters": [
        *describe_headers(Last_Event_ID="The id of the last event that was seen.")["parameters"],
        *describe_flag("progress", "Send `progress` events too, which Replicate's API doesn't have.")["parameters"],
    ]
}


def describe_created() -> Responses:
    """Of the routes that create."""
    return {
        200: describe_answer(Prediction, "It had been created before", headers=JOB_HEADERS),
        201: describe_answer(Prediction, "Created", headers=JOB_HEADERS),
        **describe_errors(PredictionError, 400, 404, 408, 413, 422, 504, 507),
    }


def describe_found() -> Responses:
    """Of the routes that return one prediction."""
    return {200: describe_answer(Prediction, "The prediction"), **describe_errors(PredictionError, 404)}


def describe_listed() -> Responses:
    """Of the list."""
    return {200: describe_answer(PredictionPage, "Predictions"), **describe_errors(PredictionError, 422)}


def describe_image(*kinds: str) -> Responses:
    """Of the routes that give an image."""
    return {200: describe_media(*kinds, description="The image"), **describe_errors(PredictionError, 404)}


def describe_followed() -> Responses:
    """Of the events' route."""
    return {
        200: describe_events("Events until the prediction is over"),
        204: {"description": "The client had seen the end"},
        **describe_errors(PredictionError, 404, 422),
    }


def build_prediction(
    job: Job,
    *,
    model: str,
    links: Links,
    image_urls: Sequence[str | None] = (),
    progress: Progress | None = None,
) -> dict[str, Any]:
    """A job in Replicate's shape, with our field ``progress`` if it is known.

    ``image_urls``: of images that can be fetched without this service.
    """
    has_output = job.state is JobState.SUCCEEDED and not job.data_removed
    named = job.generated_by or job.model  # which may be served no longer
    made_with = named.name if named is not None else model
    prediction: dict[str, Any] = {
        "id": job.client_id or job.id,
        "model": made_with,
        "version": made_with,
        "input": PredictionInput.echo(job.parameters) | {"priority": job.priority},
        "output": links.outputs(job, image_urls) if has_output else None,
        "error": job.error,
        "logs": build_warning_lines(job.warnings) + build_progress_line(job),
        "status": STATUSES[job.state],
        "created_at": job.submitted_at.isoformat(),
        "started_at": job.started_at.isoformat() if job.started_at else None,
        "completed_at": job.finished_at.isoformat() if job.finished_at else None,
        "data_removed": job.data_removed,
        "source": "api",
        "metrics": {},
        "urls": {"get": links.prediction(job), "cancel": links.cancel(job), "stream": links.stream(job)},
    }
    if job.webhook is not None:
        prediction |= {"webhook": job.webhook.url, "webhook_events_filter": list(job.webhook.events)}
    if job.flagged:
        prediction["flagged"] = [index in job.flagged for index in range(job.parameters.images)]
    if progress is not None:
        prediction["progress"] = build_progress_fields(job, progress, links)
    if job.started_at and job.finished_at:
        prediction["metrics"] = {
            "predict_time": (job.finished_at - job.started_at).total_seconds(),
            "total_time": (job.finished_at - job.submitted_at).total_seconds(),
        }
    return prediction


def build_progress_fields(job: Job, progress: Progress, links: Links) -> dict[str, Any]:
    """How far a job is, as ``stream.py`` describes it."""
    return {
        "status": STATUSES[job.state],
        "queue_position": progress.queue_position,
        "jobs_ahead": progress.jobs_ahead,
        "workers": progress.workers,
        "eta_seconds": progress.eta_seconds,
        "steps_done": progress.steps_done,
        "steps": progress.steps,
        "previews": links.previews(job),
    }


def build_warning_lines(warnings: Sequence[str]) -> str:
    """A line in logs for each; Replicate's clients look for progress in the last line, so these go first."""
    return "".join(f"warning: {warning}\n" for warning in warnings)


def build_progress_line(job: Job) -> str:
    """Progress in the form that Replicate's clients find in logs: tqdm's, such as `` 40%|####      | 12/30``."""
    if job.started_at is None:
        return ""
    total = job.parameters.steps
    done = total if job.state is JobState.SUCCEEDED else min(job.steps_done, total)
    bar = "#" * (PROGRESS_BAR_CHARACTERS * done // total)
    return f"{100 * done // total:3d}%|{bar:<{PROGRESS_BAR_CHARACTERS}}| {done}/{total}\n"
