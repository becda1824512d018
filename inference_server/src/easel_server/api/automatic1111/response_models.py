"""The answers of AUTOMATIC1111's API, for the API's description; ``responses.py`` and ``catalog.py`` build them."""

from typing import Any

from pydantic import BaseModel

from easel_server.api.automatic1111.errors import Automatic1111Error
from easel_server.api.openapi import JOB_HEADERS, Responses, describe_answer, describe_errors


class ResultAnswer(BaseModel):
    """What was generated."""

    images: list[str]
    parameters: dict[str, Any]
    info: str


class StateAnswer(BaseModel):
    """What is under way."""

    skipped: bool
    interrupted: bool
    stopping_generation: bool
    job: str
    job_count: int
    job_timestamp: str
    job_no: int
    sampling_step: int
    sampling_steps: int


class ProgressAnswer(BaseModel):
    """How far it is."""

    progress: float
    eta_relative: float
    state: StateAnswer
    current_image: str | None
    textinfo: str | None


class PngInfoAnswer(BaseModel):
    """What a PNG says."""

    info: str
    items: dict[str, str]
    parameters: dict[str, Any]


class NothingAnswer(BaseModel):
    """An empty object."""


def describe_generated() -> Responses:
    """Of txt2img and img2img."""
    return {
        200: describe_answer(ResultAnswer, "What was generated", headers=JOB_HEADERS),
        **describe_errors(Automatic1111Error, 400, 404, 408, 413, 422, 504, 507),
    }


def describe_reported(model: Any, *errors: int) -> Responses:
    """Of the routes that report something."""
    return {200: describe_answer(model, "What there is"), **describe_errors(Automatic1111Error, *errors)}


def describe_refused() -> Responses:
    """Of the routes of what isn't offered."""
    return dict(describe_errors(Automatic1111Error, 404))
