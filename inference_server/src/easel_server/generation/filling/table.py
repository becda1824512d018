"""The one table that says how each parameter is filled in, checked and written, and how a request goes through it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from easel_contract.gateway_config import Reproducibility

from easel_server.generation.filling.add_ons import (
    check_adapters,
    check_controls,
    complete_adapters,
    settle_controls,
)
from easel_server.generation.filling.checks import (
    check_choice,
    check_clip_skip,
    check_eta,
    check_negative_prompt,
    check_range,
    check_strength,
    check_text,
    choose_clip_skip,
    complete_clip_skip,
)
from easel_server.generation.filling.context import FillContext, Values
from easel_server.generation.filling.enlarging import (
    UNUSED,
    check_hires,
    check_upscaling,
    complete_upscaling,
    settle_hires,
)
from easel_server.generation.parameters import (
    DEFAULT_QUALITY_PERCENT,
    MAX_GUIDANCE_SCALE,
    SEED_BOUND,
    GenerationParameters,
    ImageFormat,
    bound_side,
    check_side,
    choose_seed,
)
from easel_server.generation.tasks import TASK_OF_INPUTS, TASKS, Task

SIDES: Final = ("width_pixels", "height_pixels")  # of an image that is only enlarged, any


@dataclass(frozen=True)
class Parameter:
    """A row of the table: what holds for one field of ``GenerationParameters``.

    ``default`` gives what a request gets that doesn't say; ``complete`` is called with what it says, if that isn't the
    parameter itself (a name that stands for weights); ``check`` gives a sentence for a value that isn't allowed, with
    the value and what is allowed: None and () ask for nothing, and aren't checked. ``metadata`` is its name in an
    image's text, and how it is written there; an empty text is left out.
    """

    name: str
    default: Callable[[Values, FillContext], Any]
    check: Callable[[Any, Values, FillContext], str | None] = lambda value, values, context: None  # noqa: ARG005
    complete: Callable[[Any, FillContext], Any] | None = None  # makes the parameter of a value that was given
    # The same where it depends on rows above
    settle: Callable[[Any, Values, FillContext], Any] | None = None
    metadata: "Metadata | None" = None


@dataclass(frozen=True)
class Metadata:
    """How a parameter is written in an image's text."""

    name: str
    write: Callable[[GenerationParameters], object]
    followed_by: str = ""  # the fact that stands behind it, if it is known


@dataclass(frozen=True)
class ParameterFault:
    """A parameter that can't be accepted."""

    name: str
    message: str


class InvalidParametersError(Exception):
    """Some parameters have values that aren't allowed; all of them are named."""

    def __init__(self, faults: tuple[ParameterFault, ...]) -> None:
        self.faults = faults
        super().__init__("; ".join(f"{fault.name}: {fault.message}" for fault in faults))


def _list_digests(context: FillContext) -> Mapping[str, str]:
    """Of the inputs, by their names."""
    return context.inputs.digests if context.inputs is not None else {}


def _write_hires(parameters: GenerationParameters) -> str | None:
    hires = parameters.hires
    return None if hires is None else f"{hires.width_pixels}x{hires.height_pixels}"


PARAMETERS: Final = (
    Parameter(  # says which task it is
        "upscale",
        default=lambda _, __: None,
        complete=complete_upscaling,
        check=lambda upscaling, _, context: check_upscaling(upscaling, context),
    ),
    Parameter(
        "prompt",
        default=lambda _, __: "",
        check=lambda text, _, context: check_text(text, int(context.is_prompt_required), context),
    ),
    Parameter(
        "negative_prompt",
        default=lambda _, __: "",
        check=lambda text, _, context: check_negative_prompt(text, context),
    ),
    Parameter(
        "task",
        default=lambda values, context: (
            Task.UPSCALE if values["upscale"] is not None else TASK_OF_INPUTS[frozenset(_list_digests(context))]
        ),
        check=lambda task, _, context: check_choice(
            task, context.facts.tasks, "asks for {value}, which this model can't do; it can {choices}"
        ),
    ),
    Parameter(
        "steps",
        default=lambda _, context: min(context.facts.defaults.steps, context.limits.max_steps),
        check=lambda steps, _, context: check_range(
            steps, context.facts.defaults.traits.least_steps, context.limits.max_steps
        ),
        metadata=Metadata("Steps", lambda parameters: parameters.steps),
    ),
    Parameter(
        "sampler",
        default=lambda _, context: context.facts.defaults.sampler,
        check=lambda sampler, _, context: check_choice(
            sampler, context.facts.samplers, "is {shown}, allowed are {choices}"
        ),
        metadata=Metadata("Sampler", lambda parameters: parameters.sampler, followed_by="Schedule type"),
    ),
    Parameter(
        "guidance_scale",
        default=lambda _, context: context.facts.defaults.guidance_scale,
        check=lambda scale, _, __: check_range(scale, 0.0, MAX_GUIDANCE_SCALE),
        metadata=Metadata("CFG scale", lambda parameters: parameters.guidance_scale),
    ),
    Parameter(
        "seed",
        default=lambda _, context: choose_seed(context.job_id),
        check=lambda seed, _, __: check_range(seed, 0, SEED_BOUND - 1),
        metadata=Metadata("Seed", lambda parameters: parameters.seed),
    ),
    Parameter(
        "width_pixels",
        default=lambda _, context: bound_side(
            context.facts.defaults.width_pixels,
            context.limits.max_width_pixels,
            context.facts.defaults.traits.size_step_pixels,
        ),
        check=lambda pixels, _, context: check_side(
            pixels, context.limits.max_width_pixels, context.facts.defaults.traits.size_step_pixels
        ),
        metadata=Metadata(
            "Size", lambda parameters: f"{parameters.width_pixels}x{parameters.height_pixels}", followed_by="Model"
        ),
    ),
    Parameter(
        "height_pixels",
        default=lambda _, context: bound_side(
            context.facts.defaults.height_pixels,
            context.limits.max_height_pixels,
            context.facts.defaults.traits.size_step_pixels,
        ),
        check=lambda pixels, _, context: check_side(
            pixels, context.limits.max_height_pixels, context.facts.defaults.traits.size_step_pixels
        ),
    ),
    Parameter(
        "images",
        default=lambda _, __: 1,
        check=lambda images, _, context: check_range(images, 1, context.limits.max_images),
    ),
    Parameter("image_format", default=lambda _, __: ImageFormat.PNG),
    Parameter(
        "quality_percent",
        default=lambda _, __: None,
        check=lambda percent, _, __: check_range(percent, 0, 100),
    ),
    Parameter("image_digest", default=lambda _, context: _list_digests(context).get("image")),
    Parameter("mask_digest", default=lambda _, context: _list_digests(context).get("mask")),
    Parameter(
        "strength",
        default=lambda values, _: TASKS[values["task"]].default_strength,
        check=check_strength,
        metadata=Metadata(
            "Denoising strength",
            lambda parameters: parameters.strength if parameters.hires is None else parameters.hires.strength,
        ),
    ),
    Parameter(
        "reproducibility",
        default=lambda _, context: context.facts.defaults.reproducibility,
        metadata=Metadata(
            "Reproducibility",
            lambda parameters: (
                None if parameters.reproducibility is Reproducibility.CLOSE else parameters.reproducibility
            ),
        ),
    ),
    Parameter(
        "adapters",
        default=lambda _, __: (),
        complete=complete_adapters,
        check=lambda uses, _, context: check_adapters(uses, context),
    ),
    Parameter(
        "hires",
        default=lambda _, __: None,
        settle=settle_hires,
        check=check_hires,
        metadata=Metadata("Hires resize", _write_hires),
    ),
    Parameter(
        "controls",
        default=lambda _, __: (),
        settle=settle_controls,
        check=check_controls,
    ),
    Parameter(
        "clip_skip",
        default=lambda _, context: choose_clip_skip(context),
        complete=complete_clip_skip,
        check=lambda skip, _, context: check_clip_skip(skip, context),
        metadata=Metadata("Clip skip", lambda parameters: parameters.clip_skip),
    ),
    Parameter(
        "eta",
        default=lambda _, __: None,
        complete=lambda eta, _: eta or None,  # 0 is what samplers have that take one
        check=lambda eta, values, _: check_eta(eta, values),
        metadata=Metadata("Eta DDIM", lambda parameters: parameters.eta),
    ),
    # What is the same model has the same one; an image of it is found whichever gateway knew it.
    Parameter("family", default=lambda _, context: context.facts.defaults.family),
)


def fill_in(given: Values, context: FillContext) -> GenerationParameters:
    """The parameters of a job: what was given, else the defaults. Raises InvalidParametersError with every fault."""
    values: dict[str, Any] = {}
    for row in PARAMETERS:
        if row.name in UNUSED and values["upscale"] is not None:
            values[row.name] = UNUSED[row.name]
        elif row.name not in given:
            values[row.name] = row.default(values, context)
        elif row.settle is not None:
            values[row.name] = row.settle(given[row.name], values, context)
        elif row.complete is not None:
            values[row.name] = row.complete(given[row.name], context)
        else:
            values[row.name] = given[row.name]
    faults = tuple(_find_faults(values, context))
    if values["image_format"] is ImageFormat.PNG or values["quality_percent"] == DEFAULT_QUALITY_PERCENT:
        values["quality_percent"] = None  # what makes no difference is the same request
    if faults:
        raise InvalidParametersError(faults)
    return GenerationParameters(**values)


def _find_faults(values: Values, context: FillContext) -> Iterator[ParameterFault]:
    for row in PARAMETERS:
        value = values[row.name]
        if (
            value is None
            or value == ()
            or (values["upscale"] is not None and (row.name in UNUSED or row.name in SIDES))
        ):
            continue
        message = row.check(value, values, context)
        if message is not None:
            yield ParameterFault(_blame_task(values["task"]) if row.name == "task" else row.name, message)


def _blame_task(task: Task) -> str:
    """The parameter that asks for a task, which is nobody's field: its last input, or the prompt."""
    return ("prompt", *(one.digest_field for one in TASKS[task].inputs))[-1]
