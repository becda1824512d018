"""OpenAI's images API: POST /v1/images/generations and /v1/images/edits.

https://platform.openai.com/docs/api-reference/images
"""

import base64
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from easel_server.api.context import Gateway
from easel_server.api.links import EDITS_PATH, GENERATIONS_PATH
from easel_server.api.openai.edits import build_edit_pictures, describe_edit, read_edit
from easel_server.api.openai.fields import NAMES, EventFamily, ImagesBody, ResponseFormat, build_answer
from easel_server.api.openai.responses import (
    IMAGES_HEADERS,
    ModelAnswer,
    ModelsAnswer,
    describe_images,
    describe_models,
)
from easel_server.api.openai.stream import stream_images
from easel_server.api.openapi import describe_body
from easel_server.gateway.admission import Wanted
from easel_server.gateway.api_keys import Customer
from easel_server.gateway.orders import Order, Placed, job_id_for_key, new_job_id
from easel_server.gateway.waiting import WAIT, expect_success, wait_while_connected
from easel_server.generation.request import CachePolicy
from easel_server.transport.bodies import read_body
from easel_server.transport.streams import EventStream


class OpenAIImages:
    """The routes' handlers."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def build_router(self) -> APIRouter:
        """All routes."""
        router = APIRouter(tags=["OpenAI images"])
        body = describe_body(ImagesBody)
        answers = describe_images()
        for path, handler, extra in (
            (GENERATIONS_PATH, self.create_image, body),
            (EDITS_PATH, self.edit_image, describe_edit()),
        ):
            router.add_api_route(
                path, handler, methods=["POST"], responses=answers, openapi_extra={**extra, **IMAGES_HEADERS}
            )
        return router

    async def create_image(self, request: Request) -> Response:
        """Generate images and wait for them."""
        customer = self._gateway.find_customer(request)
        body = await read_body(request, ImagesBody, limit_bytes=self._gateway.limits.max_body_bytes)
        return await self._serve(request, customer, body, body.to_wanted(), EventFamily.GENERATION)

    async def edit_image(self, request: Request) -> Response:
        """Redraw a picture, or the part of it that a mask tells, and wait for the result."""
        customer = self._gateway.find_customer(request)
        limits = self._gateway.limits
        edit = await read_edit(request, limit_bytes=limits.max_body_bytes)
        defaults = (await self._gateway.generation.facts()).defaults
        pictures = await self._gateway.decoders.run(partial(build_edit_pictures, edit, defaults, limits))
        wanted = edit.fields.to_wanted(pictures, edit.fields.strength)
        return await self._serve(request, customer, edit.fields, wanted, EventFamily.EDIT)

    async def _serve(
        self, request: Request, customer: Customer, body: ImagesBody, wanted: Wanted, family: EventFamily
    ) -> Response:
        self._gateway.check_model(body.model)
        key = request.headers.get("idempotency-key")
        placed = await self._gateway.generation.place(
            Order(
                customer=customer,
                job_id=job_id_for_key(customer.name, key) if key else new_job_id(),
                wanted=wanted,
                names=NAMES,
                cache=CachePolicy.from_header(request.headers.get("cache-control", "")),
                deadline=WAIT,
                priority=body.priority,
                wanted_previews=(body.partial_images or 0) if body.stream else 0,
                inputs=wanted.inputs,
                needs_job=key is not None or body.response_format is ResponseFormat.URL,
            )
        )
        if body.stream:
            return self._stream(placed, family, cancel=key is None)
        job = await wait_while_connected(request, self._gateway.generation, placed, cancel=key is None)
        images = placed.images or await self._gateway.generation.images(expect_success(job))
        if body.response_format is ResponseFormat.URL:
            data = [{"url": url} for url in self._gateway.links(request).outputs(job)]
        else:
            data = [{"b64_json": base64.b64encode(image).decode("ascii")} for image in images]
        return JSONResponse(build_answer(job, data), headers=placed.headers)

    def _stream(self, placed: Placed, family: EventFamily, *, cancel: bool) -> EventStream:
        async def tidy_up() -> None:
            if cancel and placed.is_stored:
                await self._gateway.generation.cancel(placed.job.id, placed.job.owner)  # no effect on one that is over

        events = stream_images(self._gateway.generation, placed, family)
        return EventStream(events, self._gateway.streams, headers=placed.headers, on_close=tidy_up)


CREATED_AT = 1704067200  # clients want a creation time of models; this one means nothing: 2024-01-01


class OpenAIModels:
    """The routes' handlers."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def build_router(self) -> APIRouter:
        """All routes."""
        router = APIRouter(tags=["OpenAI models"])
        all_models, one = describe_models(ModelsAnswer), describe_models(ModelAnswer)
        router.add_api_route("/v1/models", self.list_models, methods=["GET"], responses=all_models)
        # A Hub id holds a slash, hence the path converter.
        router.add_api_route("/v1/models/{name:path}", self.get_model, methods=["GET"], responses=one)
        return router

    async def list_models(self, request: Request) -> dict[str, Any]:
        """The models that are served: one."""
        self._gateway.find_customer(request)
        return {"object": "list", "data": [await self._build_model()]}

    async def get_model(self, request: Request, name: str) -> dict[str, Any]:
        """One model."""
        self._gateway.find_customer(request)
        self._gateway.check_model(name)
        return await self._build_model()

    async def _build_model(self) -> dict[str, Any]:
        model = {"id": self._gateway.model_name, "object": "model", "created": CREATED_AT, "owned_by": "easel"}
        facts = await self._gateway.generation.facts()
        # Extensions; what draws isn't known until a worker has loaded the model.
        return model | {"engine": facts.engine, "tasks": facts.tasks, "samplers": facts.samplers}
