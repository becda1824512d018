"""What a request says of its image's final size: a second pass, or an image that is only enlarged. Pure."""

from typing import Final

from easel_server.generation.add_ons import (
    DEFAULT_HIRES_STRENGTH,
    LANCZOS,
    LATENT_MODES,
    MAX_UPSCALED_SIDE_PIXELS,
    NO_UPSCALER,
    PIXEL_MODES,
    UPSCALE_STEPS,
    Feature,
    HiresPass,
    HiresRequest,
    Upscaling,
    UpscalingRequest,
    find_hires_size,
    find_upscaled_size,
)
from easel_server.generation.filling.context import FillContext, Values
from easel_server.generation.messages import refuse_name
from easel_server.generation.tasks import TASKS, Task

UPSCALER: Final = "upscaler"
LATENT: Final = "Latent"
# What an enlarged image is: of nothing else that is asked for is there anything in it.
UNUSED: Final[Values] = {
    "prompt": "",
    "negative_prompt": "",
    "steps": UPSCALE_STEPS,
    "guidance_scale": 0.0,
    "seed": 0,
    "sampler": None,
    "strength": None,
}


def settle_hires(asked: HiresRequest | HiresPass | None, values: Values, context: FillContext) -> HiresPass | None:
    """The pass as a job has it; a value beyond its bounds is for the check to name."""
    if asked is None:
        return None
    traits = context.facts.defaults.traits
    if isinstance(asked, HiresPass):
        size = asked.width_pixels, asked.height_pixels
    else:
        first = values["width_pixels"], values["height_pixels"]
        size = find_hires_size(first, asked, traits.size_step_pixels)
    upscaler = asked.upscaler or (LANCZOS if traits.are_latents_packed else LATENT)
    return HiresPass.model_construct(
        width_pixels=size[0],
        height_pixels=size[1],
        upscaler=upscaler,
        key=_find_key(upscaler, context),
        steps=None if asked.steps in (0, values["steps"]) else asked.steps,
        strength=DEFAULT_HIRES_STRENGTH if asked.strength is None else asked.strength,
    )


def check_hires(  # noqa: PLR0911  # a reason a line
    hires: HiresPass, values: Values, context: FillContext
) -> str | None:
    """What is wrong with a second pass, in a sentence."""
    if Feature.HIRES not in context.facts.features:
        return "asks for a second pass, and this model can't begin with an image; leave it out"
    if values["task"] is not Task.TEXT_TO_IMAGE:
        return "asks for a second pass, which is for images from a text alone; leave out the image, or the pass"
    limits, traits = context.limits, context.facts.defaults.traits
    step, size = traits.size_step_pixels, f"is {hires.width_pixels}x{hires.height_pixels} pixels"
    sides = (hires.width_pixels, limits.max_width_pixels), (hires.height_pixels, limits.max_height_pixels)
    if any(not step <= side <= most or side % step for side, most in sides):
        most = f"{limits.max_width_pixels}x{limits.max_height_pixels}"
        return f"{size}, allowed are multiples of {step} to {most}"
    if hires.width_pixels * hires.height_pixels > limits.max_hires_pixels:
        return f"{size}, allowed are {limits.max_hires_pixels} together"
    if not 0 < hires.strength <= 1:
        return f"has a denoising strength of {hires.strength}, allowed is more than 0 to 1"
    steps = values["steps"] if hires.steps is None else hires.steps
    if not traits.least_steps <= steps <= limits.max_steps:
        return f"has {steps} steps, allowed are {traits.least_steps} to {limits.max_steps}"
    if traits.strength_rule.count_steps(steps, hires.strength) < 1:
        return f"has {steps} steps at a denoising strength of {hires.strength}, which is less than one step"
    modes = PIXEL_MODES if traits.are_latents_packed else (*LATENT_MODES, *PIXEL_MODES)
    return _check_upscaler(hires.upscaler, hires.key, modes, context)


def complete_upscaling(asked: UpscalingRequest | Upscaling | None, context: FillContext) -> Upscaling | None:
    """What enlarges, as a job has it; a value beyond its bounds is for the check to name."""
    if asked is None:
        return None
    if isinstance(asked, Upscaling):
        width, height = asked.width_pixels, asked.height_pixels
    else:
        inputs = context.inputs
        width, height = find_upscaled_size((inputs.width_pixels, inputs.height_pixels) if inputs else (1, 1), asked)
    upscaler = asked.upscaler or _find_default(context)
    second = asked.second if asked.second_share and asked.second not in (None, NO_UPSCALER) else None
    return Upscaling.model_construct(
        upscaler=upscaler,
        key=_find_key(upscaler, context),
        width_pixels=width,
        height_pixels=height,
        second=second,
        second_key=_find_key(second, context) if second else "",
        second_share=asked.second_share if second else 0.0,
    )


def check_upscaling(  # a reason a line
    upscaling: Upscaling, context: FillContext
) -> str | None:
    """What is wrong with it, in a sentence."""
    if Feature.UPSCALE not in context.facts.features:
        return "asks for a larger image, and this service enlarges none"
    if context.inputs is None or set(context.inputs.digests) != {one.name for one in TASKS[Task.UPSCALE].inputs}:
        return "asks for a larger image, which must come with the request, alone"
    width, height = upscaling.width_pixels, upscaling.height_pixels
    most, side = context.limits.max_upscaled_pixels, MAX_UPSCALED_SIDE_PIXELS
    if not (1 <= width <= side and 1 <= height <= side) or width * height > most:
        return f"asks for {width}x{height} pixels, allowed are {most} together and 1 to {side} a side"
    if not 0 <= upscaling.second_share <= 1:
        return f"shows {upscaling.second_share} of the second upscaler, allowed are 0 to 1"
    fault = _check_upscaler(upscaling.upscaler, upscaling.key, PIXEL_MODES, context)
    if fault is None and upscaling.second is not None:
        return _check_upscaler(upscaling.second, upscaling.second_key, PIXEL_MODES, context)
    return fault


def _find_default(context: FillContext) -> str:
    """The first configured one: whoever runs the service put it there to be used."""
    return next((each.name for each in context.add_ons.upscalers), LANCZOS)


def _find_key(name: str, context: FillContext) -> str:
    """Of a configured one; a mode of the same name goes first, as clients know those."""
    if name in LATENT_MODES or name in PIXEL_MODES:
        return ""
    return next((each.key for each in context.add_ons.upscalers if each.name == name), "")


def _check_upscaler(name: str, key: str, modes: tuple[str, ...], context: FillContext) -> str | None:
    if key or name in modes:
        return None
    return refuse_name(name, (*modes, *(each.name for each in context.add_ons.upscalers)), UPSCALER)
