"""Lists that clients of AUTOMATIC1111 ask for before they begin: what there is to choose from. Pure."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, JsonValue, RootModel

from easel_server.api.automatic1111.response_models import PngInfoAnswer, describe_told
from easel_server.api.automatic1111.samplers import list_samplers, list_schedulers
from easel_server.api.context import Gateway
from easel_server.api.openapi import describe_body
from easel_server.engine.encoding import PNG_KEY
from easel_server.gateway.input_images import decode_base64, decode_picture
from easel_server.gateway.refusals import refuse_field, refuse_unknown_model
from easel_server.generation.messages import truncate_repr
from easel_server.transport.bodies import read_body

# What a service of one model doesn't have, in the shape of having none.
EMPTY: Final[Mapping[str, Any]] = {
    "sd-vae": [],
    "upscalers": [],
    "latent-upscale-modes": [],
    "loras": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "prompt-styles": [],
    "artist-categories": [],
    "artists": [],
    "script-info": [],
    "scripts": {"txt2img": [], "img2img": []},
    "embeddings": {"loaded": {}, "skipped": {}},
    "cmd-flags": {"api": True, "nowebui": True},
    # Gateways draw nothing; the workers' memory is in their metrics.
    "memory": {"ram": {"error": "not told by this service"}, "cuda": {"error": "not told by this service"}},
}
# Nothing is found on disk anew, so these are done at once.
REFRESHES: Final = ("refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings")


def list_models(model: str) -> list[dict[str, Any]]:
    """The answer of ``sd-models``: the one that is served."""
    return [{"title": model, "model_name": model, "hash": None, "sha256": None, "filename": model, "config": None}]


def build_options(model: str) -> dict[str, Any]:
    """The answer of ``options``: what clients look for. They can't be changed: requests say what they want."""
    return {
        "sd_model_checkpoint": model,
        "sd_checkpoint_hash": "",
        "sd_vae": "Automatic",
        "samples_format": "png",
        "CLIP_stop_at_last_layers": 1,
        "live_previews_enable": True,
        "return_grid": False,
    }


class OptionsBody(RootModel[dict[str, JsonValue]]):
    """Options to set: those that are as they are already are accepted."""


class PngInfoBody(BaseModel):
    """The body of png-info."""

    model_config = ConfigDict(extra="forbid")

    image: str


class Automatic1111Catalog:
    """The handlers of the routes."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def build_router(self) -> APIRouter:
        """All routes."""
        router = APIRouter(tags=["AUTOMATIC1111"])
        told = describe_told(Any)
        for path, handler in (
            ("/options", self.get_options),
            ("/sd-models", self.get_models),
            ("/samplers", self.get_samplers),
            ("/schedulers", self.get_schedulers),
            *((f"/{name}", self._tell(answer)) for name, answer in EMPTY.items()),
        ):
            router.add_api_route(path, handler, methods=["GET"], name=path[1:], responses=told)
        for name in REFRESHES:
            router.add_api_route(f"/{name}", self._tell(None), methods=["POST"], name=name, responses=told)
        for path, post, body, answer in (
            ("/options", self.set_options, OptionsBody, Any),
            ("/png-info", self.png_info, PngInfoBody, PngInfoAnswer),
        ):
            answers = describe_told(answer, 400, 404, 413, 422)
            router.add_api_route(path, post, methods=["POST"], responses=answers, openapi_extra=describe_body(body))
        return router

    async def get_options(self, request: Request) -> dict[str, Any]:
        """The options that clients look for."""
        self._gateway.find_customer(request)
        return build_options(self._gateway.model_name)

    async def set_options(self, request: Request) -> None:
        """Accepts options in the values that they have; the service has no others."""
        self._gateway.find_customer(request)
        body = await read_body(request, OptionsBody, limit_bytes=self._gateway.limits.max_body_bytes)
        options = build_options(self._gateway.model_name)
        for name, value in body.root.items():
            if name == "sd_model_checkpoint" and value not in (self._gateway.model_name, None):
                raise refuse_unknown_model(str(value)[:200], self._gateway.model_name)
            if name not in options:
                raise refuse_field(name[:200], "is no option that this service has")
            if value not in (options[name], None):
                raise refuse_field(name, f"is {truncate_repr(value)}, and can't be changed from {options[name]!r}")

    async def get_models(self, request: Request) -> list[dict[str, Any]]:
        """The model that is served."""
        self._gateway.find_customer(request)
        return list_models(self._gateway.model_name)

    async def get_samplers(self, request: Request) -> list[dict[str, Any]]:
        """The samplers that the model can use."""
        self._gateway.find_customer(request)
        return list_samplers((await self._gateway.generation.facts()).samplers)

    async def get_schedulers(self, request: Request) -> list[dict[str, Any]]:
        """The schedules that some samplers can be combined with."""
        self._gateway.find_customer(request)
        return list_schedulers()

    async def png_info(self, request: Request) -> dict[str, Any]:
        """What a PNG says of how it was made."""
        self._gateway.find_customer(request)
        body = await read_body(request, PngInfoBody, limit_bytes=self._gateway.limits.max_body_bytes)
        return await self._gateway.decoders.run(
            lambda: read_png_info(body.image, max_pixels=self._gateway.limits.max_input_pixels)
        )

    def _tell(self, answer: Any) -> Callable[[Request], Awaitable[Any]]:
        async def tell(request: Request) -> Any:
            self._gateway.find_customer(request)
            return answer

        return tell


def read_png_info(image: str, *, max_pixels: int) -> dict[str, Any]:
    """The answer of png-info. Takes time: run it in ``Decoders``. Raises RefusalError."""
    picture = decode_picture("image", decode_base64("image", image, is_prefix_needed=False), max_pixels=max_pixels)
    texts = {str(key): str(value) for key, value in picture.info.items() if isinstance(value, str)}
    return {"info": texts.pop(PNG_KEY, ""), "items": texts, "parameters": {}}
