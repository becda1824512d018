"""OpenAI's images API: POST /v1/images/generations, /edits and /upscales, GET /v1/models."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from enum import Enum
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.background import BackgroundTask

from easel_server.api.context import Api, ApiContext
from easel_server.api.controls import prepare_controls
from easel_server.api.errors import to_refusal
from easel_server.api.links import EDITS_PATH, GENERATIONS_PATH, MODELS_PATH, UPSCALES_PATH
from easel_server.api.openai.edits import build_edit_inputs, describe_edit, read_edit
from easel_server.api.openai.errors import build_openai_error
from easel_server.api.openai.fields import ImagesBody, ResponseFormat
from easel_server.api.openai.responses import (
    EventFamily,
    ModelAnswer,
    ModelsAnswer,
    build_answer,
    build_completed_event,
    build_model,
    build_partial_event,
    describe_images,
    describe_models,
)
from easel_server.api.openai.upscales import build_upscale_inputs, describe_upscale, read_upscale
from easel_server.api.openapi import GENERATION_HEADERS, describe_body
from easel_server.gateway.refusals import refuse_lost
from easel_server.gateway.results import LOOK_SECONDS, WAIT, expect_success
from easel_server.gateway.submit import SubmitResult
from easel_server.generation.request import (
    CachePolicy,
    Customer,
    GenerationRequest,
    InputImages,
    job_id_for_key,
    new_job_id,
)
from easel_server.transport.bodies import read_body
from easel_server.transport.body_bounds import release_body
from easel_server.transport.streams import EventStream, build_event, with_ticks

IMAGES_TAGS: Final[list[str | Enum]] = ["OpenAI images"]
MODELS_TAGS: Final[list[str | Enum]] = ["OpenAI models"]


def add_openai_routes(router: APIRouter, context: ApiContext) -> None:
    """All routes."""
    handlers = OpenAIHandlers(context)
    images = describe_images()
    for path, handler, body in (
        (GENERATIONS_PATH, handlers.create_image, describe_body(ImagesBody)),
        (EDITS_PATH, handlers.edit_image, describe_edit()),
        (UPSCALES_PATH, handlers.upscale_image, describe_upscale()),
    ):
        extra = {**body, **GENERATION_HEADERS}
        router.add_api_route(path, handler, methods=["POST"], tags=IMAGES_TAGS, responses=images, openapi_extra=extra)


def add_model_routes(router: APIRouter, context: ApiContext) -> None:
    """Of models. A Hub id holds a slash, hence the path converter, and whatever lies below a model goes first."""
    handlers = OpenAIHandlers(context)
    for path, get, answer in (
        (MODELS_PATH, handlers.list_models, ModelsAnswer),
        (f"{MODELS_PATH}/{{name:path}}", handlers.get_model, ModelAnswer),
    ):
        router.add_api_route(path, get, tags=MODELS_TAGS, responses=describe_models(answer))


OPENAI: Final = Api(add_openai_routes, is_spoken_at=lambda path: True, build_error=build_openai_error)  # noqa: ARG005


class OpenAIHandlers:
    """The routes' handlers."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def create_image(self, request: Request) -> Response:
        """Generate images and wait for them."""
        customer = self._context.keys.find_customer(request.headers.get("authorization"))
        body = await read_body(request, ImagesBody, limit_bytes=self._context.limits.max_body_bytes)
        submitted = await self._submit(request, customer, body, None)
        return await self._answer_or_stream(request, submitted, body, EventFamily.GENERATION)

    async def edit_image(self, request: Request) -> Response:
        """Generate an image anew over another, or the part of it that a mask marks, and wait for the result."""
        customer = self._context.keys.find_customer(request.headers.get("authorization"))
        limits = self._context.limits
        edit = await read_edit(request, limit_bytes=limits.max_body_bytes)
        defaults = (await self._context.model_facts()).defaults
        inputs = await self._context.decoders.run(customer.name, partial(build_edit_inputs, edit, defaults, limits))
        fields = edit.fields
        submitted = await self._submit(request, customer, fields, inputs)
        del edit, inputs  # the wait may be long
        release_body(request.scope)
        return await self._answer_or_stream(request, submitted, fields, EventFamily.EDIT)

    async def upscale_image(self, request: Request) -> Response:
        """Enlarge an image and wait for it."""
        context = self._context
        customer = context.keys.find_customer(request.headers.get("authorization"))
        limits = context.limits
        upscale = await read_upscale(request, limit_bytes=limits.max_body_bytes)
        fields = upscale.fields
        inputs = await context.decoders.run(customer.name, partial(build_upscale_inputs, upscale, limits))
        key = request.headers.get("idempotency-key")
        submitted = await context.submitter.submit(
            GenerationRequest(
                customer=customer,
                job_id=job_id_for_key(customer.name, key) if key else new_job_id(),
                given=fields.given() | inputs.size(),
                field_names=fields.field_names(),
                model=fields.model or None,
                inputs=inputs,
                recipe=fields.recipe,
                is_prompt_required=False,
                cache=CachePolicy.from_header(request.headers.get("cache-control", "")),
                deadline=WAIT,
                priority=fields.priority,
                is_waited_for=True,
                needs_job=key is not None or fields.response_format is ResponseFormat.URL,
                warnings=tuple(fields.find_warnings()),
            )
        )
        del upscale, inputs  # the wait may be long
        release_body(request.scope)
        return await self._answer(request, submitted, fields.response_format)

    async def list_models(self, request: Request) -> Response:
        """The models that are served: one."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        return JSONResponse({"object": "list", "data": [await self._build_model(request)]})

    async def get_model(self, request: Request, name: str) -> Response:
        """One model."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        self._context.check_model(name)
        return JSONResponse(await self._build_model(request))

    async def _build_model(self, request: Request) -> dict[str, Any]:
        facts = await self._context.model_facts()
        return build_model(self._context, facts, url=self._context.links(request).model(self._context.model_name))

    async def _submit(
        self, request: Request, customer: Customer, body: ImagesBody, inputs: InputImages | None
    ) -> SubmitResult:
        key = request.headers.get("idempotency-key")
        units = await self._context.decoders.run(customer.name, body.list_controls) if body.controlnet else []
        controls: dict[str, Any] = {}
        if units:
            inputs, controls = await prepare_controls(
                self._context,
                customer,
                units,
                inputs,
                requested=body.parse_size(),
                names=body.field_names(),
                defaults=(await self._context.model_facts()).defaults,
            )
        return await self._context.submitter.submit(
            GenerationRequest(
                customer=customer,
                job_id=job_id_for_key(customer.name, key) if key else new_job_id(),
                given=body.given() | (inputs.size() if inputs else {}) | controls,
                field_names=body.field_names(),
                model=body.model or None,
                inputs=inputs,
                recipe=body.recipe,
                cache=CachePolicy.from_header(request.headers.get("cache-control", "")),
                deadline=WAIT,
                priority=body.priority,
                previews=(body.partial_images or 0) if body.stream else 0,
                is_waited_for=True,
                needs_job=key is not None or body.response_format is ResponseFormat.URL,
                warnings=tuple(body.find_warnings()),
            )
        )

    async def _answer_or_stream(
        self, request: Request, submitted: SubmitResult, body: ImagesBody, family: EventFamily
    ) -> Response:
        if body.stream:
            return self._stream(submitted, family, is_only_client="idempotency-key" not in request.headers)
        return await self._answer(request, submitted, body.response_format)

    async def _answer(
        self, request: Request, submitted: SubmitResult, response_format: ResponseFormat | None
    ) -> Response:
        context = self._context
        key = request.headers.get("idempotency-key")
        job = await context.results.wait_while_connected(submitted.job, request.receive, cancel=key is None)
        if response_format is ResponseFormat.URL:
            urls = context.links(request).outputs(expect_success(job), await context.results.image_urls(job))
            return JSONResponse(build_answer(job, (), urls), headers=submitted.build_headers(job))
        images = submitted.images or await context.results.images(expect_success(job), has_just_ended=True)
        # Nobody can ask for them again: without a key of the client's, the same request is another one.
        is_last = key is None and submitted.is_stored
        after = BackgroundTask(context.results.remove_delivered, job) if is_last else None
        headers = submitted.build_headers(job)
        return JSONResponse(build_answer(job, images, None), headers=headers, background=after)

    def _stream(self, submitted: SubmitResult, family: EventFamily, *, is_only_client: bool) -> EventStream:
        is_ours = is_only_client and submitted.is_stored

        async def tidy_up() -> None:
            if is_ours:
                await self._context.results.abandon(submitted.job)  # no effect on one that is over

        events = self._build_events(submitted, family, is_ours=is_ours)
        _, last_words = build_openai_error(self._context.ending.refuse(submitted.job.id))
        return EventStream(
            events,
            self._context.streams,
            customer=submitted.job.owner,
            farewell=build_event("error", last_words),
            headers=submitted.headers,
            on_close=tidy_up,
        )

    async def _build_events(
        self, submitted: SubmitResult, family: EventFamily, *, is_ours: bool
    ) -> AsyncGenerator[bytes]:
        """Events of a job to its end, whatever that is."""
        try:
            async for event in self._follow(submitted, family, is_ours=is_ours):
                yield build_event(event["type"], event)
            if is_ours:  # all were taken
                await self._context.results.remove_delivered(submitted.job)
        except Exception as error:  # the answer's head is sent already: an event is all that can still be sent
            _, body = build_openai_error(to_refusal(error))
            yield build_event("error", body)

    async def _follow(
        self, submitted: SubmitResult, family: EventFamily, *, is_ours: bool
    ) -> AsyncGenerator[dict[str, Any]]:
        job, images = submitted.job, submitted.images
        if images is None:
            sent = 0
            watched = with_ticks(self._context.stores.jobs.watch(job.id), LOOK_SECONDS)
            async with aclosing(watched) as changes:
                async for changed in changes:
                    if changed is None:
                        await self._context.results.check_loading(job, cancel=is_ours)
                        continue
                    job = changed
                    if job.previews > sent and not job.state.is_final:
                        for preview in (await self._context.stores.jobs.previews(job.id))[sent:]:
                            yield build_partial_event(job, family, sent, preview)
                            sent += 1
            if not job.state.is_final:
                raise refuse_lost(job.id)
            images = await self._context.results.images(expect_success(job), has_just_ended=True)
        for index, image in enumerate(images):
            yield build_completed_event(job, family, index, image)
