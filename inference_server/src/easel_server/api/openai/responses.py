"""What OpenAI's images API answers: bodies, events and their description. Pure.

image_generation.partial_image, image_edit.partial_image   an unfinished image: up to ``partial_images`` of them
image_generation.completed, image_edit.completed           a finished image; nothing follows the last
error                                                      instead: {"error": …} as other answers have it
"""

import base64
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, Literal

from easel_contract.gateway_config import Reproducibility
from pydantic import BaseModel

from easel_server.api.context import MODEL_CREATED_AT, ApiContext
from easel_server.api.openai.errors import OpenAIError
from easel_server.api.openai.fields import AUTO
from easel_server.api.openapi import (
    JOB_HEADERS,
    Responses,
    describe_answer,
    describe_errors,
    describe_events,
)
from easel_server.generation.job import Job
from easel_server.generation.models import ModelFacts
from easel_server.generation.parameters import ImageFormat

# Of one request, and of its images.
SHOWN_LIMITS: Final = (
    *("max_images", "max_width_pixels", "max_height_pixels", "max_steps", "max_prompt_characters"),
    *("max_adapters", "max_controls"),
)
NO_TOKENS: Final = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


class EventFamily(StrEnum):
    """What the names of a stream's events begin with."""

    GENERATION = "image_generation"
    EDIT = "image_edit"


class ImageAnswer(BaseModel):
    """One image: one of the two."""

    b64_json: str | None = None
    url: str | None = None
    flagged: bool | None = None  # extension: true of an image that the model's safety checker flagged, else absent


class ImagesAnswer(BaseModel):
    """The images of a request."""

    created: int
    data: list[ImageAnswer]
    background: Literal["opaque"]
    output_format: Literal["png", "jpeg", "webp"]
    size: str
    seed: int
    reproducibility: Reproducibility
    warnings: list[str] | None = None


class AdapterAnswer(BaseModel):
    """An adapter that requests may ask for."""

    name: str
    default_weight: float


class ModelAnswer(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    engine: str | None
    tasks: list[str]
    samplers: list[str]
    features: list[str]  # what requests may ask for beside text and images
    adapters: list[AdapterAnswer]
    control_nets: list[str]
    upscalers: list[str]
    vae: str | None  # in place of the model's own autoencoder
    default_sampler: str | None  # of requests that name none; null: the model's own scheduler
    limits: dict[str, int]  # of one request
    owner: str | None = None  # of a name with a slash, as Replicate's API has it
    name: str | None = None
    visibility: str | None = None
    run_count: int | None = None  # 0: not counted
    url: str | None = None
    latest_version: dict[str, Any] | None = None


class ModelsAnswer(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[ModelAnswer]


def describe_images() -> Responses:
    """Of the routes that generate."""
    answer: dict[str, Any] = describe_answer(ImagesAnswer, "The images, or their events", headers=JOB_HEADERS)
    answer["content"] = describe_events("")["content"]
    return {200: answer, **describe_errors(OpenAIError, 400, 404, 408, 413, 422, 504, 507)}


def describe_models(model: type[BaseModel]) -> Responses:
    """Of the routes that list models."""
    return {200: describe_answer(model, "What is served"), **describe_errors(OpenAIError, 404)}


def build_answer(job: Job, images: Sequence[bytes], urls: Sequence[str] | None) -> dict[str, Any]:
    """The answer to a request without ``stream``: by ``urls`` if they are asked for, else the images themselves."""
    encoded = (base64.b64encode(image).decode("ascii") for image in images)
    shown = [{"url": url} for url in urls] if urls is not None else [{"b64_json": text} for text in encoded]
    flagged = job.flagged
    return {
        "created": int((job.finished_at or job.submitted_at).timestamp()),
        "data": [one | ({"flagged": True} if index in flagged else {}) for index, one in enumerate(shown)],
        "background": "opaque",
        "output_format": job.parameters.image_format,
        "size": "x".join(map(str, job.parameters.image_size)),
        "seed": job.parameters.seed,  # extension: image i was generated from seed + i
        "reproducibility": job.parameters.reproducibility,  # extension
        **({"warnings": job.warnings} if job.warnings else {}),  # extension
    }


def build_partial_event(job: Job, family: EventFamily, index: int, preview: bytes) -> dict[str, Any]:
    """An unfinished image in a stream; always a PNG."""
    return {
        "type": f"{family}.partial_image",
        "partial_image_index": index,
        **_describe(job, preview, ImageFormat.PNG),
    }


def build_completed_event(job: Job, family: EventFamily, index: int, image: bytes) -> dict[str, Any]:
    """A finished image in a stream."""
    return {
        "type": f"{family}.completed",
        "usage": NO_TOKENS,
        "seed": job.parameters.seed,
        "reproducibility": job.parameters.reproducibility,
        **({"warnings": job.warnings} if job.warnings else {}),
        **({"flagged": True} if index in job.flagged else {}),
        **_describe(job, image, job.parameters.image_format),
    }


def build_model(context: ApiContext, facts: ModelFacts, *, url: str) -> dict[str, Any]:
    """A model, with extensions; what generates isn't known until a worker has loaded the model. ``url``: its own."""
    name = context.model_name
    created = int(MODEL_CREATED_AT.timestamp())
    model: dict[str, Any] = {"id": name, "object": "model", "created": created, "owned_by": "easel"}
    owner, slash, short = name.rpartition("/")
    if slash:  # Replicate's clients look for a model at the same address, by an owner and a name
        model |= {"owner": owner, "name": short, "visibility": "private", "run_count": 0, "url": url}
        model["latest_version"] = context.build_model_version(facts)
    adapters = context.list_adapters(facts)
    return model | {
        "engine": facts.engine,
        "tasks": facts.tasks,
        "samplers": facts.samplers,
        "features": facts.features,
        "adapters": [{"name": each.name, "default_weight": each.default_weight} for each in adapters],
        "control_nets": [each.name for each in context.list_control_nets(facts)],
        "upscalers": [each.name for each in context.list_upscalers(facts)],
        "vae": context.vae_name,
        "default_sampler": facts.defaults.sampler,
        "limits": context.limits.model_dump(mode="json", by_alias=False, include=set(SHOWN_LIMITS)),
    }


def _describe(job: Job, image: bytes, image_format: ImageFormat) -> dict[str, Any]:
    return {
        "b64_json": base64.b64encode(image).decode("ascii"),
        "background": "opaque",
        "created_at": int((job.finished_at or job.submitted_at).timestamp()),
        "output_format": image_format,
        "quality": AUTO,
        "size": "x".join(map(str, job.parameters.image_size)),
    }
