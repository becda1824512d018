"""What clients of AUTOMATIC1111 ask for before they begin: what there is to choose from, and what there isn't."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Any, Final

from easel_contract.add_ons import ControlNetConfig
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, JsonValue, RootModel

from easel_server.api.automatic1111.controlnet import (
    SCRIPTS,
    VERSION,
    DetectBody,
    build_control_types,
    build_model_list,
    build_module_list,
    detect,
)
from easel_server.api.automatic1111.enlarging import list_latent_modes, list_upscalers
from easel_server.api.automatic1111.fields import build_fields
from easel_server.api.automatic1111.harmless import (
    COLOR_CORRECTION,
    SETTINGS,
    VAE,
    VAE_CHOICE,
    find_faults,
    find_vae_faults,
    is_nothing,
)
from easel_server.api.automatic1111.response_models import PngInfoAnswer, describe_refused, describe_reported
from easel_server.api.automatic1111.samplers import list_samplers, list_schedulers
from easel_server.api.automatic1111.settings import CLIP_SKIP, find_settings_warnings
from easel_server.api.context import ApiContext
from easel_server.api.links import AUTOMATIC1111_PATH, CONTROLNET_PATH
from easel_server.api.openapi import describe_body
from easel_server.gateway.client_warnings import build_warning_headers
from easel_server.gateway.input_images import decode_base64, decode_image
from easel_server.gateway.refusals import refuse_field, refuse_fields, refuse_unknown_model, refuse_unoffered
from easel_server.generation.add_ons import Feature
from easel_server.generation.encoding import PNG_KEY, RECIPE_KEY, read_description, read_recipe_text
from easel_server.generation.messages import truncate_repr
from easel_server.generation.models import GenerationDefaults
from easel_server.generation.parameters import DEFAULT_QUALITY_PERCENT
from easel_server.generation.recipes.infotext import read_infotext
from easel_server.generation.recipes.recipe import RecipeError, read_recipe
from easel_server.generation.tasks import Task
from easel_server.transport.bodies import read_body

TAGS: Final[list[str | Enum]] = ["AUTOMATIC1111"]
SAMPLES_FORMAT: Final = "png"
QUEUE_STATUS_PATH: Final = "/queue/status"
SCRIPT_PAGES: Final = {"txt2img": Task.TEXT_TO_IMAGE, "img2img": Task.IMAGE_TO_IMAGE}

# What a service of one model doesn't have, in the shape of having none.
EMPTY: Final[Mapping[str, Any]] = {
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "prompt-styles": [],
    "artist-categories": [],
    "artists": [],
    "extensions": [],
    "sd-modules": [],
    "embeddings": {"loaded": {}, "skipped": {}},
    "cmd-flags": {"api": True, "nowebui": True},
    # Gateways generate nothing; the workers' memory is in their metrics.
    "memory": {"ram": {"error": "not reported by this service"}, "cuda": {"error": "not reported by this service"}},
}
# ControlNet's own, of those that the model can use: https://github.com/Mikubill/sd-webui-controlnet/wiki/API
CONTROLNET: Final[Mapping[str, Callable[[Sequence[ControlNetConfig], Sequence[str], int], dict[str, Any]]]] = {
    "model_list": lambda known, _, __: build_model_list(known),
    "module_list": lambda known, makers, _: build_module_list(makers, is_offered=bool(known)),
    "control_types": lambda known, makers, _: build_control_types(known, makers),
    "settings": lambda known, _, most: {"control_net_unit_count": most if known else 0},
    "version": lambda _, __, ___: {"version": VERSION},
}
# What a client may want done that isn't, and what to do instead.
NOT_OFFERED: Final[Mapping[str, str]] = {
    f"POST {AUTOMATIC1111_PATH}/interrogate": "images aren't described here; png-info says how one of ours was made",
    **{
        f"POST {AUTOMATIC1111_PATH}/{name}": "this service serves one model, which whoever runs it chooses"
        for name in ("unload-checkpoint", "reload-checkpoint", "merge-checkpoints")
    },
    **{
        f"POST {AUTOMATIC1111_PATH}/{name}": "nothing is trained here"
        for name in ("create/embedding", "create/hypernetwork", "train/embedding", "train/hypernetwork")
    },
    **{
        f"POST {AUTOMATIC1111_PATH}/{name}": "this service is stopped and started by whoever runs it"
        for name in ("server-kill", "server-restart", "server-stop")
    },
    **{
        f"{method} {CONTROLNET_PATH}/{name}": "ask txt2img and img2img for ControlNets, by alwayson_scripts.controlnet"
        for method, name in (("POST", "txt2img"), ("POST", "img2img"))
    },
}
# Nothing is found on disk anew, so these are done at once.
REFRESHES: Final = ("refresh-checkpoints", "refresh-vae", "refresh-loras", "refresh-embeddings")


def list_models(model: str) -> list[dict[str, Any]]:
    """The answer of ``sd-models``: the one that is served."""
    return [{"title": model, "model_name": model, "hash": None, "sha256": None, "filename": model, "config": None}]


def list_loras(names: Sequence[str]) -> list[dict[str, Any]]:
    """The answer of ``loras``. A path is what clients take a name from that show files: where files are is no
    customer's business."""
    return [{"name": name, "alias": name, "path": f"{name}.safetensors", "metadata": {}} for name in names]


def list_vaes(name: str | None) -> list[dict[str, Any]]:
    """The answer of ``sd-vae``: the one in place of the model's own, if there is one."""
    return [] if name is None else [{"model_name": name, "filename": name}]


def list_scripts(tasks: Sequence[Task], known: Sequence[ControlNetConfig]) -> dict[str, list[str]]:
    """The answer of ``scripts``. Front ends show ControlNet where it is named here, and only there."""
    names = list(SCRIPTS[:1]) if known else []
    return {page: names if task in tasks else [] for page, task in SCRIPT_PAGES.items()}


def describe_scripts(listed: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """The answer of ``script-info``."""
    return [
        {"name": name, "is_alwayson": True, "is_img2img": page == "img2img", "args": []}
        for page, names in listed.items()
        for name in names
    ]


def build_options(model: str, defaults: GenerationDefaults, vae: str | None) -> dict[str, Any]:
    """The answer of ``options``: what clients look for. They can't be changed: requests say what they want."""
    return {
        "sd_model_checkpoint": model,
        "sd_checkpoint_hash": "",
        VAE: vae or VAE_CHOICE,
        "samples_format": SAMPLES_FORMAT,
        "jpeg_quality": DEFAULT_QUALITY_PERCENT,
        CLIP_SKIP: defaults.clip_skip or 1,
        COLOR_CORRECTION: False,
        "live_previews_enable": True,
        "return_grid": False,
    }


def build_queue_status(waiting: int) -> dict[str, Any]:
    """The answer of Gradio's queue, which plug-ins ask to see whether AUTOMATIC1111's web UI is there.

    https://www.gradio.app/docs (3.41, ``Estimation``)
    """
    unknown = ("rank", "avg_event_process_time", "avg_event_concurrent_process_time", "rank_eta")
    return {"msg": "estimation", "queue_size": waiting, "queue_eta": 0, **dict.fromkeys(unknown)}


class OptionsBody(RootModel[dict[str, JsonValue]]):
    """Options to set: those that change no image are accepted, and those that are as they are already."""


class PngInfoBody(BaseModel):
    """The body of png-info."""

    model_config = ConfigDict(extra="forbid")

    image: str


def add_catalog_routes(router: APIRouter, context: ApiContext) -> None:
    """Options, lists and png-info."""
    handlers = CatalogHandlers(context)
    for name, handler, kind in (
        ("options", handlers.get_options, dict[str, Any]),
        ("sd-models", handlers.get_models, list[dict[str, Any]]),
        ("sd-vae", handlers.get_vaes, list[dict[str, Any]]),
        ("samplers", handlers.get_samplers, list[dict[str, Any]]),
        ("schedulers", handlers.get_schedulers, list[dict[str, Any]]),
        ("upscalers", handlers.get_upscalers, list[dict[str, Any]]),
        ("latent-upscale-modes", handlers.get_latent_modes, list[dict[str, Any]]),
        ("loras", handlers.get_loras, list[dict[str, Any]]),
        ("scripts", handlers.get_scripts, dict[str, list[str]]),
        ("script-info", handlers.get_script_info, list[dict[str, Any]]),
        *((name, handlers.build_constant(answer), type(answer)) for name, answer in EMPTY.items()),
    ):
        answers = describe_reported(kind)
        router.add_api_route(f"{AUTOMATIC1111_PATH}/{name}", handler, name=name, tags=TAGS, responses=answers)
    router.add_api_route(
        QUEUE_STATUS_PATH, handlers.get_queue_status, tags=TAGS, responses=describe_reported(dict[str, Any])
    )
    for name, answer in CONTROLNET.items():
        path, get = f"{CONTROLNET_PATH}/{name}", handlers.build_control_list(answer)
        router.add_api_route(
            path, get, name=f"controlnet-{name}", tags=TAGS, responses=describe_reported(dict[str, Any])
        )
    router.add_api_route(
        f"{CONTROLNET_PATH}/detect",
        handlers.detect,
        methods=["POST"],
        name="controlnet-detect",
        tags=TAGS,
        responses=describe_reported(dict[str, Any], 400, 413, 422),
        openapi_extra=describe_body(DetectBody),
    )
    for route, reason in NOT_OFFERED.items():
        method, _, path = route.partition(" ")
        refuse = handlers.build_refusal(reason)
        router.add_api_route(path, refuse, methods=[method], name=path, tags=TAGS, responses=describe_refused())
    for name in REFRESHES:
        router.add_api_route(
            f"{AUTOMATIC1111_PATH}/{name}",
            handlers.build_constant(None),
            methods=["POST"],
            name=name,
            tags=TAGS,
            responses=describe_reported(Any),
        )
    for name, post, body, posted in (
        ("options", handlers.set_options, OptionsBody, Any),
        ("png-info", handlers.png_info, PngInfoBody, PngInfoAnswer),
    ):
        router.add_api_route(
            f"{AUTOMATIC1111_PATH}/{name}",
            post,
            methods=["POST"],
            tags=TAGS,
            responses=describe_reported(posted, 400, 404, 413, 422),
            openapi_extra=describe_body(body),
        )


class CatalogHandlers:
    """The handlers of the routes."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def get_options(self, request: Request) -> JSONResponse:
        """The options that clients look for."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        return JSONResponse(await self._build_options())

    async def _build_options(self) -> dict[str, Any]:
        defaults = (await self._context.model_facts()).defaults
        return build_options(self._context.model_name, defaults, self._context.vae_name)

    async def set_options(self, request: Request) -> JSONResponse:
        """Accepts options in the values that they have; the service has no others."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        body = await read_body(request, OptionsBody, limit_bytes=self._context.limits.max_body_bytes)
        checkpoint = body.root.get("sd_model_checkpoint")
        if not is_nothing(checkpoint) and checkpoint != self._context.model_name:
            raise refuse_unknown_model(str(checkpoint)[:200], self._context.model_name)
        if not is_nothing(chosen := body.root.get("samples_format")) and chosen != SAMPLES_FORMAT:
            raise refuse_field("samples_format", f"is {truncate_repr(chosen)}; choose it by override_settings instead")
        options = await self._build_options()  # which front ends send back, all of them, to change one
        changed = {name: value for name, value in body.root.items() if name not in options or value != options[name]}
        vae_faults = find_vae_faults(body.root, self._context.vae_name)
        if faults := (*find_faults(changed, SETTINGS), *vae_faults):
            raise refuse_fields(*faults)
        return JSONResponse(None, headers=build_warning_headers(tuple(find_settings_warnings(body.root))))

    async def get_models(self, request: Request) -> JSONResponse:
        """The model that is served."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        return JSONResponse(list_models(self._context.model_name))

    async def get_vaes(self, request: Request) -> JSONResponse:
        """The autoencoder in place of the model's own, if there is one."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        return JSONResponse(list_vaes(self._context.vae_name))

    async def get_samplers(self, request: Request) -> JSONResponse:
        """The samplers that the model can use."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        return JSONResponse(list_samplers((await self._context.model_facts()).samplers))

    async def get_schedulers(self, request: Request) -> JSONResponse:
        """The schedules that some samplers can be combined with."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        return JSONResponse(list_schedulers((await self._context.model_facts()).samplers))

    async def get_loras(self, request: Request) -> JSONResponse:
        """The adapters that requests may ask for."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        adapters = self._context.list_adapters(await self._context.model_facts())
        return JSONResponse(list_loras([each.name for each in adapters]))

    async def get_scripts(self, request: Request) -> JSONResponse:
        """The scripts that requests may name."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        return JSONResponse(await self._list_scripts())

    async def get_script_info(self, request: Request) -> JSONResponse:
        """The same, described."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        return JSONResponse(describe_scripts(await self._list_scripts()))

    async def _list_scripts(self) -> dict[str, list[str]]:
        facts = await self._context.model_facts()
        return list_scripts(facts.tasks, self._context.list_control_nets(facts))

    async def get_queue_status(self, request: Request) -> JSONResponse:
        """How many jobs wait, as Gradio says it."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        return JSONResponse(build_queue_status(await self._context.estimates.count_waiting()))

    async def get_upscalers(self, request: Request) -> JSONResponse:
        """What enlarges images here."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        configured = self._context.list_upscalers(await self._context.model_facts())
        return JSONResponse(list_upscalers([each.name for each in configured]))

    async def get_latent_modes(self, request: Request) -> JSONResponse:
        """How latents are enlarged for a second pass; empty for a model whose latents can't be."""
        self._context.keys.find_customer(request.headers.get("authorization"))
        facts = await self._context.model_facts()
        has_modes = Feature.HIRES in facts.features and not facts.defaults.traits.are_latents_packed
        return JSONResponse(list_latent_modes() if has_modes else [])

    async def png_info(self, request: Request) -> JSONResponse:
        """What an image says of how it was made."""
        customer = self._context.keys.find_customer(request.headers.get("authorization"))
        limits = self._context.limits
        body = await read_body(request, PngInfoBody, limit_bytes=limits.max_body_bytes)
        read = partial(read_png_info, body.image, max_pixels=limits.max_input_pixels)
        return JSONResponse(await self._context.decoders.run(customer.name, read))

    def build_control_list(
        self, build: Callable[[Sequence[ControlNetConfig], Sequence[str], int], dict[str, Any]]
    ) -> Callable[[Request], Awaitable[JSONResponse]]:
        """A handler of a list of ControlNets, empty where the model can't use any."""

        async def get_list(request: Request) -> JSONResponse:
            """What there is of ControlNets."""
            self._context.keys.find_customer(request.headers.get("authorization"))
            can = Feature.CONTROL_NETS in (await self._context.model_facts()).features
            known = self._context.live.add_ons.control_nets if can else ()
            makers = [each.name for each in self._context.live.add_ons.preprocessors]
            return JSONResponse(build(known, makers, self._context.limits.max_controls))

        return get_list

    async def detect(self, request: Request) -> JSONResponse:
        """What preprocessors make of images."""
        customer = self._context.keys.find_customer(request.headers.get("authorization"))
        limits = self._context.limits
        body = await read_body(request, DetectBody, limit_bytes=limits.max_body_bytes)
        makers = [each.name for each in self._context.live.add_ons.preprocessors]
        return JSONResponse(await self._context.decoders.run(customer.name, partial(detect, body, limits, makers)))

    def build_constant(self, answer: Any) -> Callable[[Request], Awaitable[JSONResponse]]:
        """A handler that always gives this answer."""

        async def get_constant(request: Request) -> JSONResponse:
            """What there is: nothing, in this API's shape of it."""
            self._context.keys.find_customer(request.headers.get("authorization"))
            return JSONResponse(answer)

        return get_constant

    def build_refusal(self, reason: str) -> Callable[[Request], Awaitable[JSONResponse]]:
        """A handler that always says why not."""

        async def refuse(request: Request) -> JSONResponse:
            """Not offered here; the answer says what to do instead."""
            self._context.keys.find_customer(request.headers.get("authorization"))
            raise refuse_unoffered(reason)

        return refuse


def read_png_info(image: str, *, max_pixels: int) -> dict[str, Any]:
    """The answer of png-info. Takes time: run it in ``Decoders``. Raises RefusalError."""
    decoded = decode_image("image", decode_base64("image", image, is_prefix_needed=False), max_pixels=max_pixels)
    texts = {str(key): str(value) for key, value in decoded.info.items() if isinstance(value, str)}
    texts.pop(PNG_KEY, None)
    info, recipe = read_description(decoded), read_recipe_text(decoded)
    return {
        "info": info,
        "items": texts | ({RECIPE_KEY: recipe} if recipe else {}),
        # As AUTOMATIC1111 names what is in the text, and then as txt2img and img2img take it.
        "parameters": (dict(read_infotext(info).pairs) if info else {}) | _build_fields(recipe or info),
    }


def _build_fields(written: str) -> dict[str, Any]:
    try:
        return build_fields(read_recipe(written).given) if written else {}
    except RecipeError:
        return {}
