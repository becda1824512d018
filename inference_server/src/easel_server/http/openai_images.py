"""OpenAI's images API: POST /v1/images/generations, GET /v1/models. Extensions travel as extra body fields.

https://platform.openai.com/docs/api-reference/images/create
"""

import asyncio
import base64
import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

from easel_contract.server_config import GatewayConfig, ModelConfig
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from easel_server.http.admission import FieldNames, Wanted
from easel_server.http.api_keys import Customer, KeyRing
from easel_server.http.body import WireInteger, WireNumber, describe_body, read_body, show
from easel_server.http.cache_policy import CachePolicy
from easel_server.http.generation import Generation
from easel_server.http.links import links_for
from easel_server.http.orders import Order, Placed, job_id_for_key, new_job_id
from easel_server.http.refusals import RefusalError, refuse_field, refuse_unknown_model
from easel_server.job import ImageFormat, Job, JobState

# As long as OpenAI's own clients wait by default. A job that hasn't ended by then fails, since nobody waits for it.
WAIT_SECONDS = 600.0
DEADLINE_MARGIN_SECONDS = 5.0  # the wait outlives the deadline, so that the client reads which of the two it was
SIZE_PATTERN = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
AUTO = "auto"
MODELS_SINCE = 1704067200  # clients want a creation time of models; this one means nothing: 2024-01-01

NAMES = FieldNames(
    prompt="prompt",
    negative_prompt="negative_prompt",
    width="size",
    height="size",
    steps="num_inference_steps",
    guidance_scale="guidance_scale",
    seed="seed",
    images="n",
)


class ResponseFormat(StrEnum):
    """How images travel."""

    B64_JSON = "b64_json"
    URL = "url"


class GenerationsBody(BaseModel):
    """What OpenAI's clients send, and our extensions. Unknown fields are refused, so that a typo is noticed."""

    model_config = ConfigDict(extra="forbid")

    prompt: str
    model: str | None = None
    n: WireInteger | None = None
    size: str | None = None
    response_format: ResponseFormat | None = None
    output_format: ImageFormat | None = None
    # Accepted for the clients' sake, without effect: they choose among variants that one model doesn't have.
    quality: str | None = None
    style: str | None = None
    user: str | None = None
    moderation: str | None = None
    output_compression: WireInteger | None = None
    # Accepted in the one value that describes what this service does.
    background: Literal["auto", "opaque"] | None = None
    stream: Literal[False] | None = None
    partial_images: Literal[0] | None = None
    # Extensions.
    negative_prompt: str | None = None
    seed: WireInteger | None = None
    num_inference_steps: WireInteger | None = None
    guidance_scale: WireNumber | None = None

    def to_wanted(self) -> Wanted:
        """What is asked for, by our names. Raises RefusalError for a size that can't be read."""
        width, height = _parse_size(self.size)
        return Wanted(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt or "",
            width_pixels=width,
            height_pixels=height,
            steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            images=1 if self.n is None else self.n,
            image_format=self.output_format or ImageFormat.PNG,
        )


def _parse_size(size: str | None) -> tuple[int | None, int | None]:
    if size is None or size == AUTO:
        return None, None
    match = SIZE_PATTERN.fullmatch(size)
    if match is None:
        allowed = '"WIDTHxHEIGHT" in pixels, such as "512x512", and "auto"'
        raise refuse_field("size", f"is {show(size)}, allowed are {allowed}")
    return int(match[1]), int(match[2])


class OpenAIImages:
    """The routes' handlers."""

    def __init__(
        self,
        generation: Generation,
        keys: KeyRing,
        model: ModelConfig,
        config: GatewayConfig,
    ) -> None:
        self._generation = generation
        self._keys = keys
        self._model = model
        self._config = config

    def build_router(self) -> APIRouter:
        """All routes."""
        router = APIRouter(tags=["OpenAI images"])
        body = describe_body(GenerationsBody)
        router.add_api_route("/v1/images/generations", self.create_image, methods=["POST"], openapi_extra=body)
        router.add_api_route("/v1/models", self.list_models, methods=["GET"])
        # A Hub id holds a slash, hence the path converter.
        router.add_api_route("/v1/models/{name:path}", self.get_model, methods=["GET"])
        return router

    async def create_image(self, request: Request) -> JSONResponse:
        """Generate images and wait for them."""
        customer = self._find_customer(request)
        body = await read_body(request, GenerationsBody, limit_bytes=self._config.limits.max_body_bytes)
        if body.model is not None and body.model != self._model.name:
            raise refuse_unknown_model(body.model, self._model.name)
        key = request.headers.get("idempotency-key")
        placed = await self._generation.place(
            Order(
                customer=customer,
                job_id=job_id_for_key(customer.name, key) if key else new_job_id(),
                wanted=body.to_wanted(),
                names=NAMES,
                cache=CachePolicy.from_header(request.headers.get("cache-control", "")),
                deadline=timedelta(seconds=WAIT_SECONDS),
                needs_job=key is not None or body.response_format is ResponseFormat.URL,
            )
        )
        job = await _wait_while_connected(request, self._generation, placed, cancel=key is None)
        images = placed.images or await self._generation.images(_expect_success(job))
        if body.response_format is ResponseFormat.URL:
            data = [{"url": url} for url in links_for(request, self._config.public_url).outputs(job)]
        else:
            data = [{"b64_json": base64.b64encode(image).decode("ascii")} for image in images]
        return JSONResponse(_build_answer(job, data), headers=placed.headers)

    async def list_models(self, request: Request) -> dict[str, Any]:
        """The models that are served: one."""
        self._find_customer(request)
        return {"object": "list", "data": [_build_model(self._model.name)]}

    async def get_model(self, request: Request, name: str) -> dict[str, Any]:
        """One model."""
        self._find_customer(request)
        if name != self._model.name:
            raise refuse_unknown_model(name, self._model.name)
        return _build_model(name)

    def _find_customer(self, request: Request) -> Customer:
        return self._keys.find_customer(request.headers.get("authorization"))


async def _wait_while_connected(request: Request, generation: Generation, placed: Placed, *, cancel: bool) -> Job:
    """The job at its end. If the client leaves first, the job is cancelled: nobody else waits for it."""
    waiting = asyncio.create_task(generation.wait(placed, WAIT_SECONDS + DEADLINE_MARGIN_SECONDS))
    # The body is read, so the next thing that the connection says is that it's closed.
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        if cancel:
            await generation.cancel(placed.job.id, placed.job.owner)
        raise RefusalError(400, "client_disconnected", "the client left before its images were ready")
    finally:
        waiting.cancel()
        leaving.cancel()


def _expect_success(job: Job) -> Job:
    if job.state is JobState.SUCCEEDED:
        return job
    if job.state is JobState.CANCELED:
        raise RefusalError(422, "canceled", f"request {job.id} was cancelled")
    is_late = job.deadline_at is not None and datetime.now(UTC) >= job.deadline_at
    if is_late or not job.state.is_final:
        message = f"no images within {WAIT_SECONDS:.0f} s; for work that may wait longer use POST /v1/predictions"
        raise RefusalError(504, "deadline_exceeded", message)
    raise RefusalError(422, "generation_failed", job.error or f"request {job.id} failed")


def _build_answer(job: Job, data: list[dict[str, str]]) -> dict[str, Any]:
    finished_at = job.finished_at or job.submitted_at
    return {
        "created": int(finished_at.timestamp()),
        "data": data,
        "output_format": job.parameters.image_format,
        "size": f"{job.parameters.width_pixels}x{job.parameters.height_pixels}",
        "seed": job.parameters.seed,  # extension: image i was drawn from seed + i
    }


def _build_model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": MODELS_SINCE, "owned_by": "easel"}
