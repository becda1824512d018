"""The page at ``/``: static files of this package, and what the page must know of the service."""

from dataclasses import replace
from importlib.resources import files
from typing import Any, Final

from easel_contract.gateway_config import GatewayConfig, LimitsConfig
from easel_contract.server_config import EngineKind
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from easel_server.api.context import ApiContext
from easel_server.api.links import GENERATIONS_PATH
from easel_server.gateway.live_config import LiveConfig
from easel_server.gateway.preprocessing import PREPROCESSORS
from easel_server.gateway.preprocessing.controls import ControlFit
from easel_server.gateway.refusals import RefusalError
from easel_server.generation.add_ons import (
    DEFAULT_FACTOR,
    DEFAULT_HIRES_STRENGTH,
    LANCZOS,
    LATENT_MODES,
    MAX_UPSCALE_FACTOR,
    MAX_UPSCALED_SIDE_PIXELS,
    NEAREST,
    ControlMode,
    ControlPasses,
    ControlType,
    Feature,
)
from easel_server.generation.models import ModelFacts
from easel_server.generation.parameters import (
    MAX_CLIP_SKIP,
    MAX_GUIDANCE_SCALE,
    MIN_SIDE_PIXELS,
    ImageFormat,
    bound_side,
)
from easel_server.generation.samplers import SAMPLERS
from easel_server.generation.tasks import Task
from easel_server.transport.static_files import HEADERS, StaticFile, read_static_file, serve_file

SYNTHETIC: Final = "synthetic"  # an engine's name
PAGE: Final = "index.html"
BODY_REST_BYTES: Final = 64 * 1024  # of a request besides its images: prompts


def read_static_files() -> dict[str, StaticFile]:
    """The page's files by name, from the installed package."""
    folder = files("easel_server.api.playground").joinpath("static")
    return {file.name: read_static_file(file) for file in folder.iterdir()}


def add_playground_routes(router: APIRouter, context: ApiContext) -> None:
    """All routes; none is part of the API that is documented."""
    playground = Playground(context)
    for path, handler in (
        ("/", playground.get_page),
        ("/playground/config", playground.get_config),
        ("/playground/{name}", playground.get_file),
    ):
        router.add_api_route(path, handler, include_in_schema=False)


class Playground:
    """The routes' handlers."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._files = read_static_files()

    async def get_page(self, request: Request) -> Response:
        """The page for browsers; others get an object that says where to go."""
        if "text/html" in request.headers.get("accept", ""):
            answer = serve_file(self._files[PAGE], request)
        else:
            name = self._context.model_name
            answer = JSONResponse({"service": "easel", "model": name, "docs": "/docs", "images": GENERATIONS_PATH})
        answer.headers["Vary"] = "Accept"
        return answer

    async def get_file(self, request: Request, name: str) -> Response:
        """A part of the page."""
        file = self._files.get(name)
        if file is None or name == PAGE:
            return Response(status_code=404, headers=HEADERS)
        return serve_file(file, request)

    async def get_config(self, request: Request) -> JSONResponse:
        """Bounds, choices and defaults for the form; names of add-ons only for who may use them."""
        facts = await self._context.model_facts()
        try:
            self._context.keys.find_customer(request.headers.get("authorization"))
        except RefusalError:
            facts = replace(facts, features=())
        return JSONResponse(build_page_config(self._context.config.gateway, self._context.live, facts), headers=HEADERS)


def build_page_config(gateway: GatewayConfig, live: LiveConfig, facts: ModelFacts) -> dict[str, Any]:
    """What the page must know, by the prediction API's names. Pure."""
    limits, defaults = gateway.limits, facts.defaults
    step_pixels = defaults.traits.size_step_pixels
    side = {"min": MIN_SIDE_PIXELS, "step": step_pixels}
    return {
        "model": live.name,
        "is_synthetic": live.engine is EngineKind.SYNTHETIC or facts.engine == SYNTHETIC,
        "needs_key": gateway.api_keys_directory is not None,
        "bounds": {
            "width": {**side, "max": limits.max_width_pixels},
            "height": {**side, "max": limits.max_height_pixels},
            "num_inference_steps": {"min": 1, "max": limits.max_steps},
            "guidance_scale": {"min": 0, "max": MAX_GUIDANCE_SCALE},
            "num_outputs": {"min": 1, "max": limits.max_images},
            **build_optional_bounds(facts),
        },
        "defaults": {
            "width": bound_side(defaults.width_pixels, limits.max_width_pixels, step_pixels),
            "height": bound_side(defaults.height_pixels, limits.max_height_pixels, step_pixels),
            "num_inference_steps": min(defaults.steps, limits.max_steps),
            "guidance_scale": defaults.guidance_scale,
            "num_outputs": 1,
            "output_format": ImageFormat.PNG,
        },
        "samplers": list(facts.samplers),
        "eta_samplers": list_eta_samplers(facts),
        "formats": list(ImageFormat),
        "tasks": list(facts.tasks),
        "features": list(facts.features),
        **build_add_on_lists(live, facts),
        "limits": build_input_limits(limits),
    }


def list_eta_samplers(facts: ModelFacts) -> list[str]:
    """Those of the model in whose steps the request says how much chance there is."""
    return [name for name in facts.samplers if name in SAMPLERS and SAMPLERS[name].takes_eta]


def build_optional_bounds(facts: ModelFacts) -> dict[str, dict[str, float]]:
    """Of fields that not every model has: of those that this one hasn't, none."""
    family = facts.defaults.traits
    has_layers = Feature.CLIP_SKIP in facts.features and not (family.name and family.clip_layer is None)
    clip_skip: dict[str, dict[str, float]] = {"clip_skip": {"min": 1, "max": MAX_CLIP_SKIP}} if has_layers else {}
    return clip_skip | ({"eta": {"min": 0, "max": 1}} if list_eta_samplers(facts) else {})


def build_add_on_lists(live: LiveConfig, facts: ModelFacts) -> dict[str, Any]:
    """What requests may ask for beside the model; nothing of what it can't do. What is meant without a name is first.

    None is an upscaler's name that clients send who know no other; the page has Lanczos, which it stands for.
    """
    has_adapters, has_nets, has_hires, has_upscale = (
        feature in facts.features
        for feature in (Feature.ADAPTERS, Feature.CONTROL_NETS, Feature.HIRES, Feature.UPSCALE)
    )
    adapters = live.add_ons.list_adapters(live.name) if has_adapters else ()
    upscalers = [each.name for each in live.add_ons.upscalers]
    modes = [LANCZOS, NEAREST]
    is_packed = facts.defaults.traits.are_latents_packed
    return {
        "adapters": [{"name": each.name, "default_weight": each.default_weight} for each in adapters],
        "control_nets": [each.name for each in live.add_ons.control_nets] if has_nets else [],
        "preprocessors": build_preprocessors(live) if has_nets else [],
        "control_modes": list(ControlMode) if has_nets else [],
        "control_fits": list(ControlFit) if has_nets else [],
        "control_types": list(ControlType) if has_nets else [],
        "control_passes": list(ControlPasses) if has_nets else [],
        "upscalers": [*upscalers, *modes] if has_upscale and Task.UPSCALE in facts.tasks else [],
        "hires_upscalers": [*([] if is_packed else LATENT_MODES), *modes, *upscalers] if has_hires else [],
    }


def build_preprocessors(live: LiveConfig) -> list[dict[str, Any]]:
    """Each with the numbers that it takes; last those with weights, which take none."""
    own = [
        {
            "name": name,
            "thresholds": [
                {"name": own.name, "default": own.default, "min": own.least, "max": own.most}
                for own in preprocessor.thresholds
            ],
        }
        for name, preprocessor in PREPROCESSORS.items()
    ]
    return own + [{"name": each.name, "thresholds": []} for each in live.add_ons.preprocessors]


def build_input_limits(limits: LimitsConfig) -> dict[str, Any]:
    """What the page must make of images before it sends them: all of a request fit into one body, as base64.

    And what it says of sizes before it asks for an image that would be refused.
    """
    body_bytes = max(0, limits.max_body_bytes - BODY_REST_BYTES) * 3 // 4
    return {
        "max_width": limits.max_width_pixels,
        "max_height": limits.max_height_pixels,
        "max_pixels": limits.max_input_pixels,
        "max_bytes": body_bytes // (2 + limits.max_controls),
        "max_lone_bytes": body_bytes,  # of an image that is alone in its request
        "max_adapters": limits.max_adapters,
        "max_controls": limits.max_controls,
        "max_hires_pixels": limits.max_hires_pixels,
        "max_upscaled_pixels": limits.max_upscaled_pixels,
        "max_upscaled_side": MAX_UPSCALED_SIDE_PIXELS,
        "max_factor": MAX_UPSCALE_FACTOR,
        "default_factor": DEFAULT_FACTOR,
        "default_hires_strength": DEFAULT_HIRES_STRENGTH,
    }
