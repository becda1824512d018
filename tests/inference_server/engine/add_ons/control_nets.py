"""ControlNets for tests: tiny ones of the real classes, jobs with them, and what diffusers' own pipelines give."""

import inspect
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from typing import Any

from easel_contract.add_ons import AddOnConfig
from easel_server.generation.add_ons import ControlUse
from easel_server.generation.tasks import Task
from PIL import Image

from tests.inference_server.engine.parity.stock import IMAGE, INPUTS, MASK, build_tiny
from tests.inference_server.engine.stepping.running import go_on, images_of
from tests.support.images import digest

CLASSES = {
    Task.TEXT_TO_IMAGE: "Pipeline",
    Task.IMAGE_TO_IMAGE: "Img2ImgPipeline",
    Task.INPAINT: "InpaintPipeline",
}
PREFIXES = {
    "sd15": "StableDiffusionControlNet",
    "sd2": "StableDiffusionControlNet",
    "sdxl": "StableDiffusionXLControlNet",
    "sd3": "StableDiffusion3ControlNet",
    "flux": "FluxControlNet",
}
UNIONS = {"sdxl": "StableDiffusionXLControlNetUnion", "flux": "FluxControlNet"}
KEY = AddOnConfig(name="canny", source="/weights/canny").key


@cache
def stock_net(name: str) -> Any:
    import torch  # noqa: PLC0415

    from tests.support.tiny_models import build_controlnet  # noqa: PLC0415  # loads torch

    pipeline = build_tiny(name, bare=False)
    torch.manual_seed(8)
    return build_controlnet(getattr(pipeline, "unet", None) or pipeline.transformer)


@cache
def stock_union(name: str) -> Any:
    import torch  # noqa: PLC0415

    from tests.support.tiny_models import build_union_controlnet  # noqa: PLC0415  # loads torch

    pipeline = build_tiny(name, bare=False)
    torch.manual_seed(9)
    return build_union_controlnet(getattr(pipeline, "unet", None) or pipeline.transformer)


def use_of(config: AddOnConfig, **changes: Any) -> ControlUse:
    return ControlUse(**{"name": config.name, "key": config.key, "image_digest": digest(IMAGE), **changes})


def run(engine: Any, job: Any, add_ons: Sequence[AddOnConfig]) -> bytes:
    generation = engine.begin(job, INPUTS, add_ons=add_ons)
    go_on(engine, [generation])
    [image] = images_of(generation)
    return Image.open(BytesIO(image)).tobytes()


def build_stock(name: str, task: Task, net: Any, *, is_union: bool = False) -> Any:
    """The pipeline that diffusers has for it, around a model of its own."""
    import diffusers  # noqa: PLC0415

    pipeline = build_tiny(name, bare=False)
    kind = getattr(diffusers, (UNIONS if is_union else PREFIXES)[name] + CLASSES[task])
    taken = inspect.signature(kind.__init__).parameters
    settings = {"requires_safety_checker": False, "add_watermarker": False}
    given = {key: value for key, value in {**pipeline.components, **settings}.items() if key in taken}
    stock = kind(**given, controlnet=net)
    stock.set_progress_bar_config(disable=True)
    return stock


def call_stock(name: str, job: Any, net: Any, **changes: Any) -> bytes:
    return call(build_stock(name, job.task, net), job, **changes)[0].tobytes()


def call(stock: Any, job: Any, **changes: Any) -> Any:
    """The images, or latents, that the pipeline gives for a job, by its own call."""
    import torch  # noqa: PLC0415

    image = Image.open(BytesIO(IMAGE)).convert("RGB")
    arguments: dict[str, Any] = {
        "prompt": job.prompt,
        "num_inference_steps": job.steps,
        "guidance_scale": job.guidance_scale,
        "generator": torch.Generator("cpu").manual_seed(job.seed),
        "width": job.width_pixels,
        "height": job.height_pixels,
    }
    taken = inspect.signature(stock.__call__).parameters
    if "strength" in taken:
        arguments |= {"image": image, "strength": job.strength}
    if "mask_image" in taken:
        arguments["mask_image"] = Image.open(BytesIO(MASK)).convert("L")
    arguments["control_image" if "control_image" in taken else "image"] = changes.pop("control", image)
    return stock(**arguments | changes).images
