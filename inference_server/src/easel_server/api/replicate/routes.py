"""Jobs in Replicate's shape: create, look, wait, follow, cancel, fetch the images.

    POST /v1/predictions                        create; ``Prefer: wait=n`` waits, ``Cancel-After: 2m`` sets a deadline
    PUT  /v1/predictions/{id}                   the same under the client's own id: repeating it changes nothing
    POST /v1/models/{name}/predictions          create, the model named in the address
    GET  /v1/predictions                        the caller's own, newest first, PAGE_PREDICTIONS a page
    GET  /v1/predictions/{id}                   state, and ``progress``: queue position, ETA, step, previews
    GET  /v1/predictions/{id}/stream            the same as events: see ``stream.py``
    POST /v1/predictions/{id}/cancel            at once if it waits, at its next step if it runs
    GET  /v1/predictions/{id}/output/{index}    an image
    GET  /v1/predictions/{id}/previews/{index}  an unfinished image (PNG), while there are any

A POST with an ``Idempotency-Key`` is idempotent too. Bodies are in ``fields.py``, answers in ``responses.py``.
"""

import re
from collections.abc import Sequence
from enum import Enum
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from easel_server.api.context import Api, ApiContext
from easel_server.api.controls import prepare_controls
from easel_server.api.links import (
    MODELS_PATH,
    PREDICTIONS_PATH,
    STREAM,
    is_prediction_path,
    output_part,
    preview_part,
)
from easel_server.api.openapi import describe_body
from easel_server.api.replicate.account import add_account_routes
from easel_server.api.replicate.errors import build_prediction_error
from easel_server.api.replicate.fields import (
    PredictionBody,
    build_prediction_inputs,
    parse_cancel_after,
    parse_wait_seconds,
)
from easel_server.api.replicate.files import add_file_routes, read_named_files
from easel_server.api.replicate.responses import (
    CREATE_HEADERS,
    LIST_PARAMETERS,
    STREAM_PARAMETERS,
    build_prediction,
    describe_created,
    describe_followed,
    describe_found,
    describe_image,
    describe_listed,
)
from easel_server.api.replicate.stream import Seen, stream_prediction
from easel_server.gateway.client_warnings import build_warning_headers
from easel_server.gateway.refusals import RefusalError, refuse_field, refuse_unknown_prediction
from easel_server.generation.images import MEDIA_TYPES
from easel_server.generation.job import Job
from easel_server.generation.messages import truncate_repr
from easel_server.generation.request import CachePolicy, Customer, GenerationRequest, job_id_for_key, new_job_id
from easel_server.stores.jobs.interface import QueuePosition
from easel_server.transport.bodies import read_body, read_flag
from easel_server.transport.body_bounds import release_body
from easel_server.transport.streams import LAST_EVENT_ID_HEADER, EventStream, build_event

TAGS: Final[list[str | Enum]] = ["Predictions"]
ID_PATTERN: Final = re.compile(r"[A-Za-z0-9_-]{8,64}")
CURSOR_PATTERN: Final = re.compile("[0-9]{1,16}")
PAGE_PREDICTIONS: Final = 100  # as many as Replicate's
INDEX_PATTERN: Final = re.compile("[0-9]{1,2}")


def add_prediction_routes(router: APIRouter, context: ApiContext) -> None:
    """All routes."""
    handlers = PredictionHandlers(context)
    one = f"{PREDICTIONS_PATH}/{{prediction_id}}"
    created: dict[str, Any] = {"status_code": 201, "responses": describe_created()}
    created["openapi_extra"] = {**describe_body(PredictionBody), **CREATE_HEADERS}
    found: dict[str, Any] = {"responses": describe_found()}
    listed: dict[str, Any] = {"responses": describe_listed(), "openapi_extra": LIST_PARAMETERS}
    followed = {"response_class": Response, "responses": describe_followed(), "openapi_extra": STREAM_PARAMETERS}
    output = {"response_class": Response, "responses": describe_image(*MEDIA_TYPES.values())}
    preview = {"response_class": Response, "responses": describe_image("image/png")}
    for method, path, handler, description in (
        ("GET", PREDICTIONS_PATH, handlers.list_predictions, listed),
        ("POST", PREDICTIONS_PATH, handlers.create, created),
        ("PUT", one, handlers.create_with_id, created),
        ("GET", one, handlers.get, found),
        ("POST", f"{MODELS_PATH}/{{name:path}}/predictions", handlers.create_for_model, created),
        ("POST", f"{one}/cancel", handlers.cancel, found),
        ("GET", f"{one}/stream", handlers.stream, followed),
        ("GET", f"{one}/output/{{index}}", handlers.get_output, output),
        ("GET", f"{one}/previews/{{index}}", handlers.get_preview, preview),
    ):
        router.add_api_route(path, handler, methods=[method], tags=TAGS, **description)
    add_account_routes(router, context)
    add_file_routes(router, context)


REPLICATE: Final = Api(add_prediction_routes, is_spoken_at=is_prediction_path, build_error=build_prediction_error)


class PredictionHandlers:
    """The routes' handlers."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def create(self, request: Request) -> JSONResponse:
        """Create a prediction; with ``Prefer: wait=SECONDS`` wait for its end that long."""
        customer = self._context.keys.find_customer(request.headers.get("authorization"))
        key = request.headers.get("idempotency-key")
        return await self._create(request, customer, job_id_for_key(customer.name, key) if key else new_job_id())

    async def create_with_id(self, request: Request, prediction_id: str) -> JSONResponse:
        """Create a prediction under an id of your own; repeating the same request changes nothing."""
        customer = self._context.keys.find_customer(request.headers.get("authorization"))
        if not ID_PATTERN.fullmatch(prediction_id):
            allowed = "8 to 64 letters, digits, hyphens and underscores"
            raise refuse_field("id", f"is {truncate_repr(prediction_id)}, allowed are {allowed}")
        job_id = await self._context.results.choose_id(prediction_id, customer.name)
        return await self._create(request, customer, job_id, client_id=prediction_id)

    async def create_for_model(self, request: Request, name: str) -> JSONResponse:
        """Create a prediction by the model of this name."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        self._context.check_model(name)
        return await self.create(request)

    async def list_predictions(self, request: Request) -> JSONResponse:
        """The caller's own predictions, newest first, page by page."""
        customer = self._context.keys.find_customer(request.headers.get("authorization"))
        cursor = request.query_params.get("cursor")
        if cursor is not None and not CURSOR_PATTERN.fullmatch(cursor):
            raise refuse_field("cursor", f"is {truncate_repr(cursor)}; take it from `next` of the page before")
        older_than = int(cursor) if cursor is not None else None
        page = await self._context.stores.jobs.list_newest(customer.name, older_than=older_than, limit=PAGE_PREDICTIONS)
        links = self._context.links(request)
        predictions = [
            build_prediction(
                job,
                model=self._context.model_name,
                links=links,
                image_urls=await self._context.results.image_urls(job),
            )
            for job in page.jobs
        ]
        older = None if page.older_than is None else links.older_predictions(page.older_than)
        return JSONResponse({"previous": None, "next": older, "results": predictions})

    async def get(self, request: Request, prediction_id: str) -> JSONResponse:
        """A prediction as it is now."""
        return await self._answer(request, await self._find(request, prediction_id))

    async def stream(self, request: Request, prediction_id: str) -> Response:
        """Events of a prediction until its end; with ``progress`` those that Replicate's API doesn't have, too."""
        with_progress = read_flag(request, "progress")
        job = await self._find_linked(request, prediction_id, STREAM)
        seen = Seen.from_header(request.headers.get(LAST_EVENT_ID_HEADER))
        if seen.ended:
            return Response(status_code=204)
        events = stream_prediction(
            job.id,
            self._context.stores.jobs.watch(job.id),
            look_at_progress=self._context.estimates.progress,
            look_for_urls=self._context.results.image_urls,
            links=self._context.links(request),
            seen=seen,
            with_progress=with_progress,
        )
        farewell = build_event("error", {"detail": self._context.ending.refuse(job.id).message})
        return EventStream(events, self._context.streams, customer=job.owner, farewell=farewell)

    async def cancel(self, request: Request, prediction_id: str) -> JSONResponse:
        """Stop a prediction: at once if it waits, at its next step if it runs."""
        job = await self._context.results.cancel(
            prediction_id, self._context.keys.find_customer(request.headers.get("authorization")).name
        )
        return await self._answer(request, job)

    async def get_output(self, request: Request, prediction_id: str, index: str) -> Response:
        """One image of a prediction."""
        job = await self._find_linked(request, prediction_id, output_part(index))
        if not INDEX_PATTERN.fullmatch(index) or int(index) >= job.parameters.images:
            raise refuse_unknown_prediction(f"{prediction_id}/output/{index}")
        image = _pick(await self._context.results.images(job), index, f"{prediction_id}/output/{index}")
        # An image never changes under its address, and belongs to the owner of the key.
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return Response(image, media_type=MEDIA_TYPES[job.parameters.image_format], headers=headers)

    async def get_preview(self, request: Request, prediction_id: str, index: str) -> Response:
        """One unfinished image of a prediction; it may be gone once the prediction is over."""
        job = await self._find_linked(request, prediction_id, preview_part(index))
        preview = _pick(await self._context.stores.jobs.previews(job.id), index, f"{prediction_id}/previews/{index}")
        return Response(preview, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    async def _find(self, request: Request, prediction_id: str) -> Job:
        return await self._context.results.find(
            prediction_id, self._context.keys.find_customer(request.headers.get("authorization")).name
        )

    async def _find_linked(self, request: Request, prediction_id: str, part: str) -> Job:
        """The job by the right of its link to this part, else by that of the key. Raises RefusalError."""
        signer = self._context.signer
        try:
            is_signed = signer is not None and signer.check(prediction_id, part, request.query_params)
        except RefusalError:
            if "authorization" not in request.headers:
                raise
            is_signed = False
        if is_signed:
            return await self._context.results.find_linked(prediction_id)
        return await self._find(request, prediction_id)

    async def _create(
        self, request: Request, customer: Customer, job_id: str, client_id: str | None = None
    ) -> JSONResponse:
        context = self._context
        wait_seconds = parse_wait_seconds(request.headers.get("prefer", ""))
        deadline = parse_cancel_after(request.headers.get("cancel-after"))
        limits = context.limits
        body = await read_body(request, PredictionBody, limit_bytes=limits.max_body_bytes)
        for name in (body.model, body.version):
            context.check_model(name)
        body.input.check_upscaling()
        inputs, units = None, []
        files = await read_named_files(context.stores.files, body.input, customer.name)
        if body.input.has_inputs():
            defaults = (await context.model_facts()).defaults
            build = partial(build_prediction_inputs, body.input, defaults, limits)
            inputs = await context.decoders.run(customer.name, build, files)
            del build
        if body.input.has_controls:
            units = await context.decoders.run(customer.name, body.input.list_controls, files)
        del files
        controls: dict[str, Any] = {}
        if units:
            inputs, controls = await prepare_controls(
                context,
                customer,
                units,
                inputs,
                requested=body.input.parse_size(),
                names=body.input.field_names(),
                defaults=(await context.model_facts()).defaults,
            )
        del units
        submitted = await context.submitter.submit(
            GenerationRequest(
                customer=customer,
                job_id=job_id,
                given=body.input.given() | (inputs.size() if inputs else {}) | controls,
                field_names=body.input.field_names(),
                inputs=inputs,
                recipe=body.input.recipe,
                is_prompt_required=not body.input.is_upscaling,
                cache=CachePolicy.from_header(request.headers.get("cache-control", "")),
                webhook=body.to_webhook(is_signing_configured=context.is_signing_configured),
                client_id=client_id,
                base_url=context.base_url(request),
                deadline=deadline,
                priority=body.input.priority,
                previews=body.input.previews or 0,
                warnings=tuple(body.input.find_warnings()),
            )
        )
        del body, inputs  # the wait may be long
        release_body(request.scope)
        job = await context.results.wait(submitted.job, wait_seconds) if wait_seconds else submitted.job
        position = submitted.position if job is submitted.job else None  # it has moved during a wait
        status = 201 if submitted.created else 200
        return await self._answer(request, job, position, status_code=status, headers=submitted.build_headers(job))

    async def _answer(
        self,
        request: Request,
        job: Job,
        position: QueuePosition | None = None,
        *,
        status_code: int = 200,
        headers: dict[str, str] | None = None,
    ) -> JSONResponse:
        progress = await self._context.estimates.progress(job, position)
        content = build_prediction(
            job,
            model=self._context.model_name,
            links=self._context.links(request),
            image_urls=await self._context.results.image_urls(job),
            progress=progress,
        )
        return JSONResponse(content, status_code=status_code, headers=headers or build_warning_headers(job.warnings))


def _pick(images: Sequence[bytes], index: str, name: str) -> bytes:
    if not INDEX_PATTERN.fullmatch(index) or int(index) >= len(images):
        raise refuse_unknown_prediction(name)
    return images[int(index)]
