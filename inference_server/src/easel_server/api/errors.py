"""Turns whatever a route raises into an answer in the shape of the API that was called."""

import logging
from http import HTTPStatus
from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from easel_server.gateway.refusals import (
    RefusalError,
    refuse_for_deletion,
    refuse_for_files,
    refuse_for_memory,
    refuse_for_room,
    refuse_for_store,
    refuse_method,
    refuse_to_nobody,
    refuse_unknown_address,
)
from easel_server.stores.errors import StoreError, StoreOutOfMemoryError
from easel_server.stores.files.interface import FilesFullError
from easel_server.stores.images.interface import StoreFullError
from easel_server.stores.jobs.interface import JobConflictError, ServiceClosingError
from easel_server.telemetry.gateway_metrics import RequestMetrics
from easel_server.transport.middleware import BuildError

HANDLED: Final = (RefusalError, StoreError, ClientDisconnect, HTTPException, Exception)

logger = logging.getLogger(__name__)


def to_refusal(error: Exception) -> RefusalError:
    """What a client gets for an error that a route let through."""
    refusal = RefusalError(500, "internal_error", "the service made a mistake; its log has the details")
    match error:
        case RefusalError():
            refusal = error
        case StoreFullError():
            refusal = refuse_for_room(str(error), error.retry_seconds)
        case StoreOutOfMemoryError():
            logger.warning("a request met a store without memory: %s", error)
            refusal = refuse_for_memory()
        case FilesFullError():
            refusal = refuse_for_files()
        case JobConflictError():
            refusal = RefusalError(422, "conflict", str(error))
        case ServiceClosingError():
            refusal = refuse_for_deletion(str(error))
        case StoreError():
            logger.warning("a request met an unavailable store: %s", error)
            refusal = refuse_for_store()
        case ClientDisconnect():
            refusal = refuse_to_nobody("its request was complete")
        case HTTPException():
            code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
            refusal = RefusalError(error.status_code, code, str(error.detail), headers=error.headers or {})
    return refusal


def _refuse_address(request: Request, error: HTTPException) -> RefusalError:
    """What the router found no route for, in a sentence."""
    method, path = request.method, request.url.path
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            return refuse_unknown_address(method, path)
        case HTTPStatus.METHOD_NOT_ALLOWED:
            return refuse_method(method, path, error.headers or {})
    return to_refusal(error)


def install_error_handlers(app: FastAPI, build_error: BuildError, metrics: RequestMetrics) -> None:
    """Answer every error of this app's routes, and count it."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        refusal = _refuse_address(request, error) if isinstance(error, HTTPException) else to_refusal(error)
        metrics.count_refusal(refusal.code)
        status, body = build_error(request.url.path, refusal)
        return JSONResponse(body, status_code=status, headers=dict(refusal.headers))

    for kind in HANDLED:
        app.add_exception_handler(kind, answer)
