"""Jobs in Replicate's shape: create, look, wait, cancel, fetch the images.

Idempotent creation is a PUT with an id of the client's, or a POST with an ``Idempotency-Key``.
"""

import re

from easel_contract.server_config import GatewayConfig, ModelConfig
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from easel_server.http.api_keys import Customer, KeyRing
from easel_server.http.body import describe_body, read_body, show
from easel_server.http.cache_policy import CachePolicy
from easel_server.http.generation import Generation
from easel_server.http.links import PREDICTIONS_PATH, links_for
from easel_server.http.orders import Order, job_id_for_key, new_job_id
from easel_server.http.prediction_wire import NAMES, PredictionBody, build_prediction
from easel_server.http.refusals import refuse_field, refuse_unknown_model, refuse_unknown_prediction
from easel_server.job import Job

MAXIMUM_WAIT_SECONDS = 60
ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{8,64}")
PREFER_PATTERN = re.compile(r"wait(?:\s*=\s*([0-9]{1,6}))?", re.IGNORECASE)


class Predictions:
    """The routes' handlers."""

    def __init__(
        self,
        generation: Generation,
        keys: KeyRing,
        model: ModelConfig,
        config: GatewayConfig,
        *,
        is_signing_configured: bool,
    ) -> None:
        self._generation = generation
        self._keys = keys
        self._model = model
        self._config = config
        self._is_signing_configured = is_signing_configured

    def build_router(self) -> APIRouter:
        """All routes."""
        router = APIRouter(tags=["Predictions"])
        body = describe_body(PredictionBody)
        one = f"{PREDICTIONS_PATH}/{{prediction_id}}"
        router.add_api_route(PREDICTIONS_PATH, self.create, methods=["POST"], status_code=201, openapi_extra=body)
        router.add_api_route(one, self.create_with_id, methods=["PUT"], status_code=201, openapi_extra=body)
        router.add_api_route(one, self.get, methods=["GET"])
        router.add_api_route(f"{one}/cancel", self.cancel, methods=["POST"])
        router.add_api_route(f"{one}/output/{{index}}", self.get_output, methods=["GET"])
        return router

    async def create(self, request: Request) -> JSONResponse:
        """Create a prediction; with ``Prefer: wait=SECONDS`` wait for its end that long."""
        customer = self._find_customer(request)
        key = request.headers.get("idempotency-key")
        return await self._create(request, customer, job_id_for_key(customer.name, key) if key else new_job_id())

    async def create_with_id(self, request: Request, prediction_id: str) -> JSONResponse:
        """Create a prediction under an id of your own; repeating the same request changes nothing."""
        customer = self._find_customer(request)
        if not ID_PATTERN.fullmatch(prediction_id):
            allowed = "8 to 64 letters, digits, hyphens and underscores"
            raise refuse_field("id", f"is {show(prediction_id)}, allowed are {allowed}")
        return await self._create(request, customer, prediction_id)

    async def get(self, request: Request, prediction_id: str) -> JSONResponse:
        """A prediction as it is now."""
        job = await self._generation.find(prediction_id, self._find_customer(request).name)
        return JSONResponse(self._render(request, job))

    async def cancel(self, request: Request, prediction_id: str) -> JSONResponse:
        """Stop a prediction: at once if it waits, at its next step if it runs."""
        job = await self._generation.cancel(prediction_id, self._find_customer(request).name)
        return JSONResponse(self._render(request, job))

    async def get_output(self, request: Request, prediction_id: str, index: str) -> Response:
        """One image of a prediction."""
        job = await self._generation.find(prediction_id, self._find_customer(request).name)
        if not re.fullmatch("[0-9]{1,2}", index) or int(index) >= job.parameters.images:
            raise refuse_unknown_prediction(f"{prediction_id}/output/{index}")
        images = await self._generation.images(job)
        # An image never changes under its address, and belongs to the owner of the key.
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return Response(images[int(index)], media_type=f"image/{job.parameters.image_format}", headers=headers)

    def _find_customer(self, request: Request) -> Customer:
        return self._keys.find_customer(request.headers.get("authorization"))

    async def _create(self, request: Request, customer: Customer, job_id: str) -> JSONResponse:
        wait_seconds = parse_wait_seconds(request.headers.get("prefer", ""))
        body = await read_body(request, PredictionBody, limit_bytes=self._config.limits.max_body_bytes)
        for name in (body.model, body.version):
            if name is not None and name != self._model.name:
                raise refuse_unknown_model(name, self._model.name)
        placed = await self._generation.place(
            Order(
                customer=customer,
                job_id=job_id,
                wanted=body.input.to_wanted(),
                names=NAMES,
                cache=CachePolicy.from_header(request.headers.get("cache-control", "")),
                webhook=body.to_webhook(is_signing_configured=self._is_signing_configured),
            )
        )
        job = await self._generation.wait(placed, wait_seconds) if wait_seconds else placed.job
        status = 201 if placed.created else 200
        return JSONResponse(self._render(request, job), status_code=status, headers=placed.headers)

    def _render(self, request: Request, job: Job) -> dict[str, object]:
        links = links_for(request, self._config.public_url)
        return build_prediction(job, model=self._model.name, links=links)


def parse_wait_seconds(prefer: str) -> int:
    """Seconds of ``Prefer: wait=n``; plain ``wait`` is the maximum; 0 without. Raises RefusalError.

    https://www.rfc-editor.org/rfc/rfc7240
    """
    for preference in prefer.split(","):
        match = PREFER_PATTERN.fullmatch(preference.strip())
        if match is None:
            continue
        seconds = int(match[1]) if match[1] else MAXIMUM_WAIT_SECONDS
        if not 1 <= seconds <= MAXIMUM_WAIT_SECONDS:
            raise refuse_field("Prefer", f"waits {seconds} s, allowed are 1 to {MAXIMUM_WAIT_SECONDS}")
        return seconds
    return 0
