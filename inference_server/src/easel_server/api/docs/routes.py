"""The API's description for browsers, at ``/docs``: Swagger UI from an installed package, not from the internet."""

from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Request, Response

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


def add_docs_routes(router: APIRouter) -> None:
    """The page and its parts; none is part of the API that is described."""
    router.add_api_route("/docs", get_page, include_in_schema=False)
    router.add_api_route("/docs/{name}", get_file, include_in_schema=False)


async def get_page(request: Request) -> Response:
    """The page."""
    return serve_file(_read(PAGE), request, DOCS_HEADERS)


async def get_file(request: Request, name: str) -> Response:
    """A part of the page."""
    if name == PAGE or name not in FOLDERS:
        return Response(status_code=404, headers=DOCS_HEADERS)
    return serve_file(_read(name), request, DOCS_HEADERS)


@cache
def _read(name: str) -> StaticFile:
    # At the first request: few gateways are ever asked for these two megabytes.
    return read_static_file(FOLDERS[name] / name)
