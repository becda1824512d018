"""What each route answers with, for the API's description (OpenAPI): answers and errors in each API's own shape."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel, Field

Responses = dict[int | str, dict[str, Any]]

# Whatever is asked for, this may be the answer.
COMMON_ERRORS: Final = (401, 429, 500, 503)


class OpenAIErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    """An error as OpenAI's API gives it."""

    error: OpenAIErrorDetail


class InvalidField(BaseModel):
    """A field that can't be accepted."""

    field: str
    description: str


class PredictionError(BaseModel):
    """An error as Replicate's API gives it."""

    title: str
    detail: str
    status: int
    code: str
    invalid_fields: list[InvalidField] = Field(default_factory=list)


class Automatic1111Error(BaseModel):
    """An error as AUTOMATIC1111's API gives it."""

    error: str
    detail: str
    body: str
    errors: str


def describe_errors(model: type[BaseModel], *statuses: int) -> Responses:
    """These errors and those that may come anywhere."""
    return {
        status: {"model": model, "description": HTTPStatus(status).phrase} for status in (*statuses, *COMMON_ERRORS)
    }


def describe_json(
    model: type[BaseModel] | Any, description: str, *, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """An answer in JSON."""
    return {"model": model, "description": description, "headers": _describe_headers(headers or {})}


def describe_media(*kinds: str, description: str) -> dict[str, Any]:
    """An answer that isn't JSON."""
    return {
        "description": description,
        "content": {kind: {"schema": {"type": "string"}} for kind in kinds},
    }


def _describe_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}
