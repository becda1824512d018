"""AUTOMATIC1111's API: ``/sdapi/v1``. Progress and interrupts are of the caller's own latest job.

https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/API
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.background import BackgroundTask

from easel_server.api.automatic1111.catalog import TAGS, add_catalog_routes
from easel_server.api.automatic1111.controlnet import drop_images, read_unit
from easel_server.api.automatic1111.enlarging import (
    EnlargeBody,
    EnlargedAnswer,
    EnlargedImagesAnswer,
    EnlargeImageBody,
    EnlargeImagesBody,
    encode_images,
    read_enlarge_inputs,
)
from easel_server.api.automatic1111.errors import build_automatic1111_error
from easel_server.api.automatic1111.fields import GenerationBody, ImageToImageBody, TextToImageBody
from easel_server.api.automatic1111.inpainting import (
    build_inputs,
    cut_controls,
    finish,
    is_finished_here,
    is_part_generated,
)
from easel_server.api.automatic1111.response_models import (
    NothingAnswer,
    ProgressAnswer,
    describe_generated,
    describe_reported,
)
from easel_server.api.automatic1111.responses import build_progress_answer, build_result
from easel_server.api.context import Api, ApiContext
from easel_server.api.controls import prepare_controls
from easel_server.api.links import AUTOMATIC1111_PATH, CONTROLNET_PATH
from easel_server.api.openapi import GENERATION_HEADERS, describe_body, describe_flag
from easel_server.gateway.refusals import RefusalError
from easel_server.gateway.results import WAIT, expect_success
from easel_server.gateway.submit import SubmitResult
from easel_server.generation.job import Job, JobState
from easel_server.generation.models import GenerationDefaults
from easel_server.generation.request import (
    CachePolicy,
    Customer,
    GenerationRequest,
    InputImages,
    job_id_for_key,
    new_job_id,
)
from easel_server.stores.facts.interface import FactStore
from easel_server.transport.bodies import read_body, read_flag
from easel_server.transport.body_bounds import release_body

Body = TypeVar("Body", bound=GenerationBody)
LIVE_PREVIEWS: Final = 2  # for `current_image`: each costs about as much as a step


def add_automatic1111_routes(router: APIRouter, context: ApiContext) -> None:
    """All routes."""
    handlers = Automatic1111Handlers(context)
    for name, handler, body in (
        ("txt2img", handlers.text_to_image, TextToImageBody),
        ("img2img", handlers.image_to_image, ImageToImageBody),
    ):
        router.add_api_route(
            f"{AUTOMATIC1111_PATH}/{name}",
            handler,
            methods=["POST"],
            tags=TAGS,
            responses=describe_generated(),
            openapi_extra={**describe_body(body), **GENERATION_HEADERS},
        )
    for name, enlarge, enlarge_body, answer in (
        ("extra-single-image", handlers.enlarge_image, EnlargeImageBody, EnlargedAnswer),
        ("extra-batch-images", handlers.enlarge_images, EnlargeImagesBody, EnlargedImagesAnswer),
    ):
        router.add_api_route(
            f"{AUTOMATIC1111_PATH}/{name}",
            enlarge,
            methods=["POST"],
            tags=TAGS,
            responses=describe_reported(answer, 400, 404, 408, 413, 422, 504, 507),
            openapi_extra=describe_body(enlarge_body),
        )
    router.add_api_route(
        f"{AUTOMATIC1111_PATH}/progress",
        handlers.progress,
        tags=TAGS,
        responses=describe_reported(ProgressAnswer, 422),
        openapi_extra=describe_flag("skip_current_image", "Leave out the unfinished image."),
    )
    for name in ("interrupt", "skip"):
        router.add_api_route(
            f"{AUTOMATIC1111_PATH}/{name}",
            handlers.interrupt,
            methods=["POST"],
            name=name,
            tags=TAGS,
            responses=describe_reported(NothingAnswer),
        )
    add_catalog_routes(router, context)


AUTOMATIC1111: Final = Api(
    add_automatic1111_routes,
    is_spoken_at=lambda path: path.startswith((AUTOMATIC1111_PATH, CONTROLNET_PATH)),
    build_error=build_automatic1111_error,
)


class LatestJobs:
    """Kept as facts, so that any gateway knows."""

    def __init__(self, facts: FactStore, *, ttl_seconds: float) -> None:
        self._facts = facts
        self._ttl_seconds = ttl_seconds

    async def remember(self, customer: str, job_id: str) -> None:
        """This is the latest now. Raises StoreUnavailableError."""
        await self._facts.put(_name(customer), job_id.encode(), ttl_seconds=self._ttl_seconds)

    async def find(self, customer: str) -> str | None:
        """The id of the latest, if there was any lately. Raises StoreUnavailableError."""
        found = await self._facts.get(_name(customer))
        return found.decode() if found is not None else None


def _name(customer: str) -> str:
    return "automatic1111-latest-" + hashlib.sha256(customer.encode()).hexdigest()


@dataclass(frozen=True)
class Generated:
    """What became of a request."""

    job: Job  # at its end
    images: Sequence[bytes]  # none if it was interrupted
    headers: dict[str, str]
    is_done_with: bool  # nobody can ask for its images again: there is a job, and no key by which to find it


class Automatic1111Handlers:
    """The handlers of the routes that generate."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._latest = LatestJobs(context.stores.facts, ttl_seconds=context.config.gateway.results.ttl_seconds)

    async def text_to_image(self, request: Request) -> JSONResponse:
        """Generate from a prompt, and wait for it."""
        customer = self._context.keys.find_customer(request.headers.get("authorization"))
        body = await read_body(request, TextToImageBody, limit_bytes=self._context.limits.max_body_bytes)
        body = await self._fit(body)
        body.check(model=self._context.model_name, vae=self._context.vae_name)
        submitted = await self._submit(request, customer, body, None, {})
        if body.units:
            body = body.model_copy(update={"alwayson_scripts": drop_images(body.alwayson_scripts)})
            release_body(request.scope)  # the wait may be long
        generated = await self._wait(request, submitted)
        return self._answer(body, generated, generated.images)

    async def image_to_image(self, request: Request) -> JSONResponse:
        """Generate over an image, or over the part of it that a mask marks, and wait for it."""
        context = self._context
        customer = context.keys.find_customer(request.headers.get("authorization"))
        body = await read_body(request, ImageToImageBody, limit_bytes=context.limits.max_body_bytes)
        body = await self._fit(body)
        body.check(model=context.model_name, vae=context.vae_name)
        defaults = (await context.model_facts()).defaults
        fetched: dict[str, bytes] = {}
        build = partial(build_inputs, body, defaults, context.limits)
        inputs = await context.decoders.run(customer.name, build, fetched)
        submitted = await self._submit(request, customer, body, inputs, fetched)
        del build, inputs  # the wait may be long
        if not (is_finished_here(body) or body.include_init_images):
            body = body.model_copy(update={"init_images": [], "mask": None})
            fetched.clear()
            release_body(request.scope)
        if body.units:
            body = body.model_copy(update={"alwayson_scripts": drop_images(body.alwayson_scripts)})
        generated = await self._wait(request, submitted)
        images = generated.images
        if images and is_finished_here(body):
            work = partial(finish, body, images, generated.job.parameters, context.limits)
            images = await context.decoders.run(customer.name, work, fetched)
        return self._answer(body, generated, images)

    async def enlarge_image(self, request: Request) -> JSONResponse:
        """Enlarge an image, and wait for it."""
        customer = self._context.keys.find_customer(request.headers.get("authorization"))
        body = await read_body(request, EnlargeImageBody, limit_bytes=self._context.limits.max_body_bytes)
        body.check()
        images = await self._enlarge(request, customer, body, "image", body.image)
        return JSONResponse({"html_info": "", "image": encode_images(images)[0] if images else ""})

    async def enlarge_images(self, request: Request) -> JSONResponse:
        """Enlarge images one after the other, and wait for all."""
        customer = self._context.keys.find_customer(request.headers.get("authorization"))
        body = await read_body(request, EnlargeImagesBody, limit_bytes=self._context.limits.max_body_bytes)
        body.check()
        images: list[bytes] = []
        for each in body.image_list:
            images += await self._enlarge(request, customer, body, "imageList", each.data)
        return JSONResponse({"html_info": "", "images": encode_images(images)})

    async def _enlarge(
        self, request: Request, customer: Customer, body: EnlargeBody, field: str, image: str
    ) -> Sequence[bytes]:
        context = self._context
        build = partial(read_enlarge_inputs, field, image, context.limits)
        inputs = await context.decoders.run(customer.name, build)
        submitted = await context.submitter.submit(
            GenerationRequest(
                customer=customer,
                job_id=new_job_id(),
                given={"upscale": body.to_request(), **inputs.size()},
                field_names={**EnlargeBody.NAMES, "image_digest": field, "task": field},
                inputs=inputs,
                is_prompt_required=False,
                cache=CachePolicy.from_header(request.headers.get("cache-control", "")),
                deadline=WAIT,
                is_waited_for=True,
                needs_job=False,
            )
        )
        return (await self._wait(request, submitted)).images

    async def progress(self, request: Request) -> JSONResponse:
        """How far the caller's latest job is."""
        is_image_skipped = read_flag(request, "skip_current_image")
        job = await self._find_latest(self._context.keys.find_customer(request.headers.get("authorization")))
        if job is None or job.state.is_final:
            return JSONResponse(build_progress_answer(job, None, None))
        progress = await self._context.estimates.progress(job)
        previews = () if is_image_skipped or not job.previews else await self._context.stores.jobs.previews(job.id)
        return JSONResponse(build_progress_answer(job, progress, previews[-1] if previews else None))

    async def interrupt(self, request: Request) -> JSONResponse:
        """Stop the caller's latest job."""
        job = await self._find_latest(self._context.keys.find_customer(request.headers.get("authorization")))
        if job is not None and not job.state.is_final:
            await self._context.results.cancel(job.id, job.owner)
        return JSONResponse({})

    async def _find_latest(self, customer: Customer) -> Job | None:
        job_id = await self._latest.find(customer.name)
        if job_id is None:
            return None
        try:
            return await self._context.results.find(job_id, customer.name)
        except RefusalError:  # it has expired meanwhile
            return None

    async def _fit(self, body: Body) -> Body:
        return body.fit_to((await self._context.model_facts()).defaults.traits.size_step_pixels)

    async def _submit(
        self,
        request: Request,
        customer: Customer,
        body: GenerationBody,
        inputs: InputImages | None,
        fetched: dict[str, bytes],
    ) -> SubmitResult:
        context = self._context
        key = request.headers.get("idempotency-key")
        facts = await context.model_facts()
        inputs, controls = await self._add_controls(customer, body, inputs, fetched, facts.defaults)
        return await context.submitter.submit(
            GenerationRequest(
                customer=customer,
                job_id=job_id_for_key(customer.name, key) if key else new_job_id(),
                given=body.given_for(facts.samplers) | (inputs.size() if inputs else {}) | controls,
                field_names=body.field_names(),
                model=body.checkpoint,
                inputs=inputs,
                recipe=body.recipe,
                is_prompt_required=False,
                cache=CachePolicy.from_header(request.headers.get("cache-control", "")),
                deadline=WAIT,
                is_waited_for=True,
                previews=LIVE_PREVIEWS,
                needs_job=key is not None,
                warnings=tuple(body.find_warnings()),
            )
        )

    async def _add_controls(
        self,
        customer: Customer,
        body: GenerationBody,
        inputs: InputImages | None,
        fetched: dict[str, bytes],
        defaults: GenerationDefaults,
    ) -> tuple[InputImages | None, dict[str, Any]]:
        """The inputs with the control images of the body's units, and what the job says of them."""
        context = self._context
        if not (given := body.units):
            return inputs, {}
        known = context.live.add_ons.control_nets
        preprocessors = [each.name for each in context.live.add_ons.preprocessors]
        units = await context.decoders.run(
            customer.name, lambda: [read_unit(field, unit, known, preprocessors) for field, unit in given]
        )
        if isinstance(body, ImageToImageBody) and inputs is not None and is_part_generated(body):
            size = (inputs.width_pixels, inputs.height_pixels)
            cut = partial(cut_controls, body, units, size, context.limits)
            units = await context.decoders.run(customer.name, cut, fetched)
        return await prepare_controls(
            context, customer, units, inputs, requested=body.size, names=body.field_names(), defaults=defaults
        )

    async def _wait(self, request: Request, submitted: SubmitResult) -> Generated:
        context = self._context
        key = request.headers.get("idempotency-key")
        is_done_with = submitted.is_stored and not key
        if submitted.images is not None:
            return Generated(submitted.job, submitted.images, submitted.headers, is_done_with)
        await self._latest.remember(submitted.job.owner, submitted.job.id)
        job = await context.results.wait_while_connected(submitted.job, request.receive, cancel=not key)
        if job.state is JobState.CANCELED:
            return Generated(job, (), submitted.build_headers(job), is_done_with)
        images = await context.results.images(expect_success(job), has_just_ended=True)
        return Generated(job, images, submitted.build_headers(job), is_done_with)

    def _answer(self, body: GenerationBody, generated: Generated, images: Sequence[bytes]) -> JSONResponse:
        answer = build_result(body, generated.job, images, model=self._context.model_name, vae=self._context.vae_name)
        after = BackgroundTask(self._context.results.remove_delivered, generated.job)
        return JSONResponse(answer, headers=generated.headers, background=after if generated.is_done_with else None)
