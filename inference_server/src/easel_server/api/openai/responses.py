"""The answers of OpenAI's API, for the API's description; ``openai_wire`` builds them."""

from typing import Any, Literal

from pydantic import BaseModel

from easel_server.api.openapi import (
    JOB_HEADERS,
    OpenAIError,
    Responses,
    describe_answer,
    describe_errors,
    describe_events,
    describe_headers,
)


class ImageAnswer(BaseModel):
    """One image: one of the two."""

    b64_json: str | None = None
    url: str | None = None


class ImagesAnswer(BaseModel):
    """The images of a request."""

    created: int
    data: list[ImageAnswer]
    background: Literal["opaque"]
    output_format: Literal["png", "jpeg", "webp"]
    size: str
    seed: int


class ModelAnswer(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    engine: str | None
    tasks: list[str]
    samplers: list[str]


class ModelsAnswer(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[ModelAnswer]


IMAGES_HEADERS = describe_headers(
    Idempotency_Key="Requests of one key with the same content are one.",
    Cache_Control="`no-cache` draws anew, `no-store` keeps nothing, `only-if-cached` draws nothing.",
)


def describe_images() -> Responses:
    """Of the routes that draw."""
    drawn: dict[str, Any] = describe_answer(ImagesAnswer, "The images, or their events", headers=JOB_HEADERS)
    drawn["content"] = describe_events("")["content"]
    return {200: drawn, **describe_errors(OpenAIError, 400, 404, 413, 422, 504)}


def describe_models(model: type[BaseModel]) -> Responses:
    """Of the routes that tell of models."""
    return {200: describe_answer(model, "What is served"), **describe_errors(OpenAIError, 404)}
