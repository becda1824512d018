"""Jobs in Replicate's shape: create, look, wait, follow, cancel, fetch the images.

    POST /v1/predictions                        create; ``Prefer: wait=n`` waits, ``Cancel-After: 2m`` sets a deadline
    PUT  /v1/predictions/{id}                   the same under the client's own id: repeating it changes nothing
    POST /v1/models/{name}/predictions          create, the model named in the address
    GET  /v1/predictions/{id}                   state, and ``progress``: queue position, ETA, step, previews
    GET  /v1/predictions/{id}/stream            the same as events: see ``prediction_stream``
    POST /v1/predictions/{id}/cancel            at once if it waits, at its next step if it runs
    GET  /v1/predictions/{id}/output/{index}    an image
    GET  /v1/predictions/{id}/previews/{index}  an unfinished picture (PNG), while there are any

A POST with an ``Idempotency-Key`` is idempotent too. Bodies and answers are described in ``prediction_wire``.
"""

import re
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from easel_server.api.context import Gateway
from easel_server.api.links import MODELS_PATH, PREDICTIONS_PATH
from easel_server.api.openapi import describe_body
from easel_server.api.replicate.fields import (
    NAMES,
    PredictionBody,
    build_prediction,
    parse_cancel_after,
    parse_wait_seconds,
)
from easel_server.api.replicate.inputs import build_prediction_pictures
from easel_server.api.replicate.responses import (
    CREATE_HEADERS,
    STREAM_HEADERS,
    describe_created,
    describe_followed,
    describe_found,
    describe_picture,
)
from easel_server.api.replicate.stream import Seen, stream_prediction
from easel_server.gateway.api_keys import Customer
from easel_server.gateway.orders import Order, job_id_for_key, new_job_id
from easel_server.gateway.queue_estimate import Progress, build_progress
from easel_server.gateway.refusals import refuse_field, refuse_unknown_prediction
from easel_server.generation.job import Job
from easel_server.generation.messages import truncate_repr
from easel_server.generation.request import CachePolicy
from easel_server.stores.jobs.interface import QueuePosition
from easel_server.transport.bodies import read_body
from easel_server.transport.streams import LAST_EVENT_ID_HEADER, EventStream

ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{8,64}")


INDEX_PATTERN = re.compile("[0-9]{1,2}")


class Predictions:
    """The routes' handlers."""

    def __init__(self, gateway: Gateway, *, is_signing_configured: bool) -> None:
        self._gateway = gateway
        self._is_signing_configured = is_signing_configured

    def build_router(self) -> APIRouter:
        """All routes."""
        router = APIRouter(tags=["Predictions"])
        one = f"{PREDICTIONS_PATH}/{{prediction_id}}"
        for path, method, handler in (
            (PREDICTIONS_PATH, "POST", self.create),
            (one, "PUT", self.create_with_id),
            (f"{MODELS_PATH}/{{name:path}}/predictions", "POST", self.create_for_model),
        ):
            router.add_api_route(
                path,
                handler,
                methods=[method],
                status_code=201,
                responses=describe_created(),
                openapi_extra={**describe_body(PredictionBody), **CREATE_HEADERS},
            )
        router.add_api_route(one, self.get, methods=["GET"], responses=describe_found())
        router.add_api_route(f"{one}/cancel", self.cancel, methods=["POST"], responses=describe_found())
        router.add_api_route(
            f"{one}/stream",
            self.stream,
            methods=["GET"],
            response_class=Response,
            responses=describe_followed(),
            openapi_extra=STREAM_HEADERS,
        )
        for name, kinds, picture in (
            ("output", ("image/png", "image/jpeg", "image/webp"), self.get_output),
            ("previews", ("image/png",), self.get_preview),
        ):
            router.add_api_route(
                f"{one}/{name}/{{index}}",
                picture,
                methods=["GET"],
                response_class=Response,
                responses=describe_picture(*kinds),
            )
        return router

    async def create(self, request: Request) -> JSONResponse:
        """Create a prediction; with ``Prefer: wait=SECONDS`` wait for its end that long."""
        customer = self._gateway.find_customer(request)
        key = request.headers.get("idempotency-key")
        return await self._create(request, customer, job_id_for_key(customer.name, key) if key else new_job_id())

    async def create_with_id(self, request: Request, prediction_id: str) -> JSONResponse:
        """Create a prediction under an id of your own; repeating the same request changes nothing."""
        customer = self._gateway.find_customer(request)
        if not ID_PATTERN.fullmatch(prediction_id):
            allowed = "8 to 64 letters, digits, hyphens and underscores"
            raise refuse_field("id", f"is {truncate_repr(prediction_id)}, allowed are {allowed}")
        return await self._create(request, customer, prediction_id)

    async def create_for_model(self, request: Request, name: str) -> JSONResponse:
        """Create a prediction by the model of this name."""
        self._gateway.find_customer(request)
        self._gateway.check_model(name)
        return await self.create(request)

    async def get(self, request: Request, prediction_id: str) -> JSONResponse:
        """A prediction as it is now."""
        return await self._answer(request, await self._find(request, prediction_id))

    async def stream(self, request: Request, prediction_id: str, *, progress: bool = False) -> Response:
        """Events of a prediction until its end; with ``progress`` those that Replicate's API doesn't have, too."""
        job = await self._find(request, prediction_id)
        seen = Seen.from_header(request.headers.get(LAST_EVENT_ID_HEADER))
        if seen.ended:
            return Response(status_code=204)
        events = stream_prediction(
            self._gateway.generation.watch(job),
            look_at_progress=self._look_at_progress,
            links=self._gateway.links(request),
            seen=seen,
            with_progress=progress,
        )
        return EventStream(events, self._gateway.streams)

    async def cancel(self, request: Request, prediction_id: str) -> JSONResponse:
        """Stop a prediction: at once if it waits, at its next step if it runs."""
        job = await self._gateway.generation.cancel(prediction_id, self._gateway.find_customer(request).name)
        return await self._answer(request, job)

    async def get_output(self, request: Request, prediction_id: str, index: str) -> Response:
        """One image of a prediction."""
        job = await self._find(request, prediction_id)
        if not INDEX_PATTERN.fullmatch(index) or int(index) >= job.parameters.images:
            raise refuse_unknown_prediction(f"{prediction_id}/output/{index}")
        image = _pick(await self._gateway.generation.images(job), index, f"{prediction_id}/output/{index}")
        # An image never changes under its address, and belongs to the owner of the key.
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return Response(image, media_type=f"image/{job.parameters.image_format}", headers=headers)

    async def get_preview(self, request: Request, prediction_id: str, index: str) -> Response:
        """One unfinished picture of a prediction; it may be gone once the prediction is over."""
        job = await self._find(request, prediction_id)
        preview = _pick(await self._gateway.generation.previews(job), index, f"{prediction_id}/previews/{index}")
        return Response(preview, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    async def _find(self, request: Request, prediction_id: str) -> Job:
        return await self._gateway.generation.find(prediction_id, self._gateway.find_customer(request).name)

    async def _create(self, request: Request, customer: Customer, job_id: str) -> JSONResponse:
        wait_seconds = parse_wait_seconds(request.headers.get("prefer", ""))
        deadline = parse_cancel_after(request.headers.get("cancel-after"))
        limits = self._gateway.limits
        body = await read_body(request, PredictionBody, limit_bytes=limits.max_body_bytes)
        for name in (body.model, body.version):
            self._gateway.check_model(name)
        pictures = None
        if body.input.image is not None or body.input.mask is not None:
            defaults = (await self._gateway.generation.facts()).defaults
            pictures = await self._gateway.decoders.run(lambda: build_prediction_pictures(body.input, defaults, limits))
        wanted = body.input.to_wanted(pictures)
        placed = await self._gateway.generation.place(
            Order(
                customer=customer,
                job_id=job_id,
                wanted=wanted,
                names=NAMES,
                cache=CachePolicy.from_header(request.headers.get("cache-control", "")),
                webhook=body.to_webhook(is_signing_configured=self._is_signing_configured),
                deadline=deadline,
                priority=body.input.priority,
                wanted_previews=body.input.previews or 0,
                inputs=wanted.inputs,
            )
        )
        job = await self._gateway.generation.wait(placed, wait_seconds) if wait_seconds else placed.job
        position = placed.position if job is placed.job else None  # it has moved during a wait
        status = 201 if placed.created else 200
        return await self._answer(request, job, position, status_code=status, headers=placed.headers)

    async def _look_at_progress(self, job: Job, position: QueuePosition | None = None) -> Progress:
        return build_progress(job, await self._gateway.generation.estimate(job, position))

    async def _answer(
        self,
        request: Request,
        job: Job,
        position: QueuePosition | None = None,
        *,
        status_code: int = 200,
        headers: dict[str, str] | None = None,
    ) -> JSONResponse:
        progress = await self._look_at_progress(job, position)
        content = build_prediction(
            job, model=self._gateway.model_name, links=self._gateway.links(request), progress=progress
        )
        return JSONResponse(content, status_code=status_code, headers=headers)


def _pick(pictures: Sequence[bytes], index: str, name: str) -> bytes:
    if not INDEX_PATTERN.fullmatch(index) or int(index) >= len(pictures):
        raise refuse_unknown_prediction(name)
    return pictures[int(index)]
