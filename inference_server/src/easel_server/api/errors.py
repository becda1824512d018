"""Turns whatever a route raises into an answer in the shape of the API that was called."""

import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from easel_server.api.links import AUTOMATIC1111_PATH, is_prediction_path
from easel_server.gateway.refusals import FieldFault, RefusalError, refuse_fields, refuse_for_queue, refuse_for_store
from easel_server.generation.messages import truncate_repr
from easel_server.stores.errors import StoreError
from easel_server.stores.jobs.interface import JobConflictError, QueueFullError
from easel_server.telemetry.metrics import RequestMetrics

# OpenAI's words for kinds of errors; others are invalid_request_error below 500 and server_error from there.
OPENAI_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


MAX_FAULTS = 10  # reported at once


logger = logging.getLogger(__name__)


def to_refusal(error: Exception) -> RefusalError:
    """What a client is told of an error that a route let through."""
    refusal = RefusalError(500, "internal_error", "the service made a mistake; its log has the details")
    match error:
        case RefusalError():
            refusal = error
        case QueueFullError():
            refusal = refuse_for_queue(error.depth, error.bound)
        case JobConflictError():
            refusal = RefusalError(422, "conflict", str(error))
        case StoreError():
            logger.warning("a request met an unavailable broker: %s", error)
            refusal = refuse_for_store()
        case ClientDisconnect():
            refusal = RefusalError(400, "client_disconnected", "the client left before its request was complete")
        case RequestValidationError():  # of what a path or a query holds; bodies are read by body.py
            faults = error.errors()[:MAX_FAULTS]
            refusal = refuse_fields(
                *(
                    FieldFault(str(fault["loc"][-1]), f"{fault['msg']}; got {truncate_repr(fault['input'])}")
                    for fault in faults
                )
            )
        case HTTPException():
            code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
            refusal = RefusalError(error.status_code, code, str(error.detail), headers=error.headers or {})
    return refusal


def build_openai_error(refusal: RefusalError) -> tuple[int, dict[str, Any]]:
    """Status and body as OpenAI's API gives them."""
    status = 400 if refusal.code == "invalid_value" else refusal.status
    kind = OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    parameter = refusal.faults[0].field if refusal.faults else None
    return status, {"error": {"message": refusal.message, "type": kind, "param": parameter, "code": refusal.code}}


def build_prediction_error(refusal: RefusalError) -> tuple[int, dict[str, Any]]:
    """Status and body as Replicate's API gives them."""
    body: dict[str, Any] = {
        "title": HTTPStatus(refusal.status).phrase,
        "detail": refusal.message,
        "status": refusal.status,
        "code": refusal.code,
    }
    if refusal.faults:
        body["invalid_fields"] = [{"field": fault.field, "description": fault.message} for fault in refusal.faults]
    return refusal.status, body


def build_automatic1111_error(refusal: RefusalError) -> tuple[int, dict[str, Any]]:
    """Status and body as AUTOMATIC1111's API gives them."""
    faults = "; ".join(fault.field for fault in refusal.faults)
    return refusal.status, {"error": refusal.code, "detail": refusal.message, "body": "", "errors": faults}


def choose_shape(path: str) -> Callable[[RefusalError], tuple[int, dict[str, Any]]]:
    """How the API that is spoken at a path gives errors."""
    if is_prediction_path(path):
        return build_prediction_error
    return build_automatic1111_error if path.startswith(AUTOMATIC1111_PATH) else build_openai_error


def install_error_handlers(app: FastAPI, metrics: RequestMetrics) -> None:
    """Answer every error of this app's routes, and count it."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        refusal = to_refusal(error)
        metrics.count_refusal(refusal.code)
        status, body = choose_shape(request.url.path)(refusal)
        return JSONResponse(body, status_code=status, headers=dict(refusal.headers))

    for kind in (RefusalError, StoreError, ClientDisconnect, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer)
