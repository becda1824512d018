"""A prediction's answers, for the API's description; ``prediction_wire`` builds them."""

from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel

from easel_server.api.openapi import (
    JOB_HEADERS,
    PredictionError,
    Responses,
    describe_answer,
    describe_errors,
    describe_events,
    describe_headers,
    describe_media,
)

Status = Literal["starting", "processing", "succeeded", "failed", "canceled"]


class PredictionProgress(BaseModel):
    """How far a prediction is."""

    status: Status
    queue_position: int | None
    jobs_ahead: int | None
    eta_seconds: float | None
    steps_done: int
    steps: int
    previews: list[str]


class PredictionUrls(BaseModel):
    """Where a prediction is, is cancelled, and tells its events."""

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
    data_removed: Literal[False]
    source: Literal["api"]
    metrics: dict[str, float]
    urls: PredictionUrls
    progress: PredictionProgress


CREATE_HEADERS = describe_headers(
    Prefer="`wait=SECONDS`: answer when the prediction is over, or after so long; 1 to 60.",
    Cancel_After="The prediction fails if it isn't over after so long: seconds, or such as `30s`, `1h30m`.",
    Idempotency_Key="Requests of one key with the same content create one prediction.",
    Cache_Control="`no-cache` draws anew, `no-store` keeps nothing, `only-if-cached` draws nothing.",
)


STREAM_HEADERS = describe_headers(Last_Event_ID="The id of the last event that was seen.")


def describe_created() -> Responses:
    """Of the routes that create."""
    return {
        200: describe_answer(Prediction, "It had been created before", headers=JOB_HEADERS),
        201: describe_answer(Prediction, "Created", headers=JOB_HEADERS),
        **describe_errors(PredictionError, 400, 404, 413, 422, 504),
    }


def describe_found() -> Responses:
    """Of the routes that tell of one prediction."""
    return {200: describe_answer(Prediction, "The prediction"), **describe_errors(PredictionError, 404)}


def describe_picture(*kinds: str) -> Responses:
    """Of the routes that give a picture."""
    return {200: describe_media(*kinds, description="The picture"), **describe_errors(PredictionError, 404)}


def describe_followed() -> Responses:
    """Of the events' route."""
    return {
        200: describe_events("Events until the prediction is over"),
        204: {"description": "The client had seen the end"},
        **describe_errors(PredictionError, 404, 422),
    }
