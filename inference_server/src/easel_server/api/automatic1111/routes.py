"""AUTOMATIC1111's API: ``/sdapi/v1``. Progress and interrupts are of the caller's own latest job.

https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/API
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from easel_server.api.automatic1111.fields import NAMES, GenerationBody, ImageToImageBody, TextToImageBody
from easel_server.api.automatic1111.inpainting import build_pictures, is_part_drawn, put_back
from easel_server.api.automatic1111.response_models import (
    NothingAnswer,
    ProgressAnswer,
    describe_drawing,
    describe_told,
)
from easel_server.api.automatic1111.responses import build_progress_answer, build_result
from easel_server.api.automatic1111.samplers import choose_sampler
from easel_server.api.context import Gateway
from easel_server.api.links import AUTOMATIC1111_PATH
from easel_server.api.openapi import describe_body
from easel_server.gateway.admission import Wanted
from easel_server.gateway.api_keys import Customer
from easel_server.gateway.orders import Order, new_job_id
from easel_server.gateway.queue_estimate import build_progress
from easel_server.gateway.refusals import RefusalError, refuse_field
from easel_server.gateway.waiting import WAIT, expect_success, wait_while_connected
from easel_server.generation.job import Job, JobState
from easel_server.generation.models import ModelFacts
from easel_server.generation.parameters import ImageFormat
from easel_server.generation.request import CachePolicy, InputPictures
from easel_server.stores.facts.interface import FactStore
from easel_server.transport.bodies import read_body


class LatestJobs:
    """Kept in the broker, so that any gateway knows."""

    def __init__(self, facts: FactStore, *, ttl_seconds: float) -> None:
        self._facts = facts
        self._ttl_seconds = ttl_seconds

    async def remember(self, customer: str, job_id: str) -> None:
        """This is the latest now. Raises StoreUnavailableError."""
        await self._facts.put_fact(_name(customer), job_id.encode(), ttl_seconds=self._ttl_seconds)

    async def find(self, customer: str) -> str | None:
        """The id of the latest, if there was any lately. Raises StoreUnavailableError."""
        found = await self._facts.get_fact(_name(customer))
        return found.decode() if found is not None else None


def _name(customer: str) -> str:
    return "automatic1111-latest-" + hashlib.sha256(customer.encode()).hexdigest()


DEFAULT_STRENGTH: Final = 0.75


LIVE_PREVIEWS: Final = 2  # for `current_image`: each costs about as much as a step


FORMATS: Final = {"png": ImageFormat.PNG, "jpg": ImageFormat.JPEG, "jpeg": ImageFormat.JPEG, "webp": ImageFormat.WEBP}


class Automatic1111:
    """The handlers of the routes that draw."""

    def __init__(self, gateway: Gateway, latest: LatestJobs) -> None:
        self._gateway = gateway
        self._latest = latest

    def build_router(self) -> APIRouter:
        """All routes."""
        router = APIRouter(prefix=AUTOMATIC1111_PATH, tags=["AUTOMATIC1111"])
        for path, handler, body in (
            ("/txt2img", self.text_to_image, TextToImageBody),
            ("/img2img", self.image_to_image, ImageToImageBody),
        ):
            router.add_api_route(
                path, handler, methods=["POST"], responses=describe_drawing(), openapi_extra=describe_body(body)
            )
        router.add_api_route("/progress", self.progress, methods=["GET"], responses=describe_told(ProgressAnswer, 422))
        for path in ("/interrupt", "/skip"):
            router.add_api_route(
                path, self.interrupt, methods=["POST"], name=path[1:], responses=describe_told(NothingAnswer)
            )
        return router

    async def text_to_image(self, request: Request) -> JSONResponse:
        """Draw from a prompt, and wait for it."""
        customer = self._gateway.find_customer(request)
        body = await read_body(request, TextToImageBody, limit_bytes=self._gateway.limits.max_body_bytes)
        drawn = await self._draw(request, customer, body, None)
        return self._answer(body, drawn, drawn.images)

    async def image_to_image(self, request: Request) -> JSONResponse:
        """Draw over a picture, or over the part of it that a mask marks, and wait for it."""
        customer = self._gateway.find_customer(request)
        body = await read_body(request, ImageToImageBody, limit_bytes=self._gateway.limits.max_body_bytes)
        defaults = (await self._gateway.generation.facts()).defaults
        pictures = await self._gateway.decoders.run(partial(build_pictures, body, defaults, self._gateway.limits))
        drawn = await self._draw(request, customer, body, pictures)
        images = drawn.images
        if images and is_part_drawn(body):
            size = (pictures.width_pixels, pictures.height_pixels)
            work = partial(put_back, body, images, size, drawn.job.parameters.image_format, self._gateway.limits)
            images = await self._gateway.decoders.run(work)
        return self._answer(body, drawn, images)

    async def progress(self, request: Request, *, skip_current_image: bool = False) -> dict[str, Any]:
        """How far the caller's latest job is."""
        job = await self._find_latest(self._gateway.find_customer(request))
        if job is None or job.state.is_final:
            return build_progress_answer(job, None, None)
        progress = build_progress(job, await self._gateway.generation.estimate(job))
        previews = () if skip_current_image or not job.previews else await self._gateway.generation.previews(job)
        return build_progress_answer(job, progress, previews[-1] if previews else None)

    async def interrupt(self, request: Request) -> dict[str, Any]:
        """Stop the caller's latest job."""
        job = await self._find_latest(self._gateway.find_customer(request))
        if job is not None and not job.state.is_final:
            await self._gateway.generation.cancel(job.id, job.owner)
        return {}

    async def _find_latest(self, customer: Customer) -> Job | None:
        job_id = await self._latest.find(customer.name)
        if job_id is None:
            return None
        try:
            return await self._gateway.generation.find(job_id, customer.name)
        except RefusalError:  # it has expired meanwhile
            return None

    async def _draw(
        self, request: Request, customer: Customer, body: GenerationBody, pictures: InputPictures | None
    ) -> "_Drawn":
        checkpoint = body.override_settings.sd_model_checkpoint if body.override_settings else None
        self._gateway.check_model(checkpoint or None)
        wanted = build_wanted(body, pictures, await self._gateway.generation.facts())
        order = Order(
            customer=customer,
            job_id=new_job_id(),
            wanted=wanted,
            names=NAMES,
            cache=CachePolicy.from_header(request.headers.get("cache-control", "")),
            deadline=WAIT,
            wanted_previews=LIVE_PREVIEWS,
            inputs=wanted.inputs,
            needs_job=False,
        )
        placed = await self._gateway.generation.place(order)
        if placed.images is not None:
            return _Drawn(placed.job, placed.images, placed.headers)
        await self._latest.remember(customer.name, placed.job.id)
        job = await wait_while_connected(request, self._gateway.generation, placed, cancel=True)
        if job.state is JobState.CANCELED:
            return _Drawn(job, (), placed.headers)
        return _Drawn(job, await self._gateway.generation.images(expect_success(job)), placed.headers)

    def _answer(self, body: GenerationBody, drawn: "_Drawn", images: Sequence[bytes]) -> JSONResponse:
        return JSONResponse(
            build_result(body, drawn.job, images, model=self._gateway.model_name), headers=drawn.headers
        )


@dataclass(frozen=True)
class _Drawn:
    job: Job  # at its end
    images: Sequence[bytes]  # none if it was interrupted
    headers: dict[str, str]


def build_wanted(body: GenerationBody, pictures: InputPictures | None, facts: ModelFacts) -> Wanted:
    """What is asked for, by our names. Raises RefusalError."""
    settings = body.override_settings
    written = (settings.samples_format if settings else None) or "png"
    if written.lower() not in FORMATS:
        allowed = ", ".join(FORMATS)
        raise refuse_field("override_settings.samples_format", f"is {written[:20]!r}, allowed are {allowed}")
    strength = None
    if isinstance(body, ImageToImageBody):
        strength = DEFAULT_STRENGTH if body.denoising_strength is None else body.denoising_strength
    return Wanted(
        prompt=body.prompt or "",
        negative_prompt=body.negative_prompt or "",
        width_pixels=pictures.width_pixels if pictures else body.width,
        height_pixels=pictures.height_pixels if pictures else body.height,
        steps=body.steps,
        guidance_scale=body.cfg_scale,
        seed=body.chosen_seed,
        images=body.images,
        image_format=FORMATS[written.lower()],
        sampler=choose_sampler(body.chosen_sampler, body.scheduler, facts.samplers),
        pictures=pictures,
        strength=strength,
        is_prompt_needed=False,
    )
