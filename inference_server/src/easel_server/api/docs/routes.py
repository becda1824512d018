"""The API's description for browsers, at ``/docs``: Swagger UI from an installed package, not from the internet."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from easel_server.gateway.api_keys import KeyRing
from easel_server.gateway.refusals import RefusalError
from easel_server.transport.static_files import HEADERS, POLICY, StaticFile, read_static_file, serve_file

PAGE: Final = "index.html"
OWN, SWAGGER_UI = files("easel_server.api.docs") / "static", files("fastapi_offline") / "static"
FOLDERS: Final = {
    PAGE: OWN,
    "start.js": OWN,
    "swagger-ui-bundle.js": SWAGGER_UI,
    "swagger-ui.css": SWAGGER_UI,
}
DOCS_HEADERS: Final = {**HEADERS, "Content-Security-Policy": POLICY}  # Swagger UI assigns markup: no trusted types


# Basic is what browsers ask their users for; they send it to the page's parts and to the routes that it tries, too.
CHALLENGE: Final = {"WWW-Authenticate": 'Basic realm="Easel: the API key is the password", charset="UTF-8", Bearer'}


def add_docs_routes(router: APIRouter, keys: KeyRing, describe: Callable[[], dict[str, Any]]) -> None:
    """The page, its parts and the description that it shows (``describe``); none is part of what is described."""
    handlers = DocsHandlers(keys, describe)
    for path, handler in (
        ("/docs", handlers.get_page),
        ("/docs/{name}", handlers.get_file),
        ("/openapi.json", handlers.get_description),
    ):
        router.add_api_route(path, handler, include_in_schema=False)


class DocsHandlers:
    """The routes' handlers. Where keys are asked for, they say what is served to those only who have one."""

    def __init__(self, keys: KeyRing, describe: Callable[[], dict[str, Any]]) -> None:
        self._keys = keys
        self._describe = describe

    async def get_page(self, request: Request) -> Response:
        """The page."""
        self._check_key(request)
        return serve_file(_read(PAGE), request, DOCS_HEADERS)

    async def get_file(self, request: Request, name: str) -> Response:
        """A part of the page."""
        self._check_key(request)
        if name == PAGE or name not in FOLDERS:
            return Response(status_code=404, headers=DOCS_HEADERS)
        return serve_file(_read(name), request, DOCS_HEADERS)

    async def get_description(self, request: Request) -> Response:
        """OpenAPI's JSON."""
        self._check_key(request)
        return JSONResponse(self._describe())

    def _check_key(self, request: Request) -> None:
        try:
            self._keys.find_customer(request.headers.get("authorization"))
        except RefusalError as error:
            raise replace(error, headers={**error.headers, **CHALLENGE}) from None


@cache
def _read(name: str) -> StaticFile:
    # At the first request: few gateways are ever asked for these two megabytes.
    return read_static_file(FOLDERS[name] / name)
