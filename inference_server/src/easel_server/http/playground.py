"""The page at ``/``: static files of this package, and what the page must know of the service."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from easel_contract.server_config import EngineKind, ServerConfig
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from easel_server.http.admission import MAXIMUM_GUIDANCE_SCALE, MINIMUM_SIDE_PIXELS, SIDE_STEP_PIXELS
from easel_server.job import ImageFormat
from easel_server.model_facts import ModelFacts

SYNTHETIC: Final = "synthetic"  # an engine's name
PAGE: Final = "index.html"
MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# The page holds a key and shows what customers ask for: it takes nothing from elsewhere and sends nothing there.
HEADERS: Final = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' blob: data:",  # pictures that were fetched with a key, and the history's
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",  # asked for each time, answered by 304: a new version shows at once
}


# What is known of the model now: it may become known after workers have loaded it.
LookAtModel = Callable[[], Awaitable[ModelFacts]]


async def look_at_nothing() -> ModelFacts:
    """Facts of a model that nobody has loaded yet."""
    return ModelFacts()


@dataclass(frozen=True)
class StaticFile:
    """A file as it is served."""

    content: bytes
    media_type: str

    @property
    def etag(self) -> str:
        """Changes with the content."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'


def read_static_files() -> dict[str, StaticFile]:
    """The page's files by name, from the installed package."""
    folder = files("easel_server.http").joinpath("playground")
    return {
        file.name: StaticFile(file.read_bytes(), MEDIA_TYPES["." + file.name.rpartition(".")[2]])
        for file in folder.iterdir()
    }


class Playground:
    """The routes' handlers."""

    def __init__(self, config: ServerConfig, look_at_model: LookAtModel) -> None:
        self._config = config
        self._look_at_model = look_at_model
        self._files = read_static_files()

    def build_router(self) -> APIRouter:
        """All routes; none is part of the API that is documented."""
        router = APIRouter(include_in_schema=False)
        router.add_api_route("/", self.get_page, methods=["GET"])
        router.add_api_route("/playground/config", self.get_config, methods=["GET"])
        router.add_api_route("/playground/{name}", self.get_file, methods=["GET"])
        return router

    async def get_page(self, request: Request) -> Response:
        """The page for browsers; others get an object that says where to go."""
        if "text/html" in request.headers.get("accept", ""):
            answer = _serve(self._files[PAGE], request)
        else:
            name = self._config.model.name
            answer = JSONResponse(
                {"service": "easel", "model": name, "docs": "/docs", "images": "/v1/images/generations"}
            )
        answer.headers["Vary"] = "Accept"
        return answer

    async def get_file(self, request: Request, name: str) -> Response:
        """A part of the page."""
        file = self._files.get(name)
        if file is None or name == PAGE:
            return Response(status_code=404, headers=HEADERS)
        return _serve(file, request)

    async def get_config(self) -> JSONResponse:
        """Bounds, choices and defaults for the form."""
        return JSONResponse(build_page_config(self._config, await self._look_at_model()), headers=HEADERS)


def build_page_config(config: ServerConfig, facts: ModelFacts) -> dict[str, Any]:
    """What the page must know, by the prediction API's names. Pure."""
    limits, defaults = config.gateway.limits, facts.defaults
    side = {"min": MINIMUM_SIDE_PIXELS, "step": SIDE_STEP_PIXELS}
    return {
        "model": config.model.name,
        "is_synthetic": config.engine.kind is EngineKind.SYNTHETIC or facts.engine == SYNTHETIC,
        "needs_key": config.gateway.api_keys_directory is not None,
        "bounds": {
            "width": {**side, "max": limits.max_width_pixels},
            "height": {**side, "max": limits.max_height_pixels},
            "num_inference_steps": {"min": 1, "max": limits.max_steps},
            "guidance_scale": {"min": 0, "max": MAXIMUM_GUIDANCE_SCALE},
            "num_outputs": {"min": 1, "max": limits.max_images},
        },
        "defaults": {
            "width": min(defaults.width_pixels, limits.max_width_pixels),
            "height": min(defaults.height_pixels, limits.max_height_pixels),
            "num_inference_steps": min(defaults.steps, limits.max_steps),
            "guidance_scale": defaults.guidance_scale,
            "num_outputs": 1,
            "output_format": ImageFormat.PNG,
        },
        "samplers": list(facts.samplers),
        "formats": list(ImageFormat),
    }


def _serve(file: StaticFile, request: Request) -> Response:
    headers = {**HEADERS, "ETag": file.etag}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)
