"""What determines an image, and the one table that says how each parameter is filled in, checked, compared and written.

A new parameter is a field of ``GenerationParameters``, a row of ``PARAMETERS``, and a field in each API that offers it
(``api/NAME/fields.py``). Pure; no API's names, no torch.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from easel_contract.add_ons import MAX_WEIGHT, AddOnConfig, AddOnsConfig
from easel_contract.schema import Model
from easel_contract.server_config import LimitsConfig, Reproducibility
from pydantic import Field, model_validator

from easel_server.generation.add_ons import AdapterUse, ControlPasses, ControlUse, Feature, HiresPass, Upscaling
from easel_server.generation.enlarging import (
    UNUSED,
    check_hires,
    check_upscaling,
    complete_upscaling,
    settle_hires,
)
from easel_server.generation.families import Family, NegativePrompts, get_family
from easel_server.generation.messages import refuse_name, truncate_repr
from easel_server.generation.models import ModelFacts
from easel_server.generation.prompts.networks import build_adapter_finder, find_network
from easel_server.generation.request import InputImages
from easel_server.generation.samplers import SAMPLERS
from easel_server.generation.tasks import TASK_OF_INPUTS, TASKS, Task

SIDE_STEP_PIXELS: Final = 8  # of any model: latents are an eighth of the image; some families need more
MIN_SIDE_PIXELS: Final = 64
SIDES: Final = ("width_pixels", "height_pixels")  # of an image that is only enlarged, any
MAX_GUIDANCE_SCALE: Final = 100.0
SEED_BOUND: Final = 2**63
DEFAULT_QUALITY_PERCENT: Final = 95  # of JPEG and WebP; PNG loses nothing
MAX_CLIP_SKIP: Final = 12  # layers that the smallest of these encoders has
CHOSEN_SEED_BYTES: Final = 4  # as most tools do: a seed that people can copy by hand


class ImageFormat(StrEnum):
    """Encoding of the images that a job returns."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


class GenerationParameters(Model):
    """Everything that determines the pixels, with defaults filled in.

    ``seed`` is set by the gateway when the client gave none, so that a retried job generates the same image. Image
    number i of ``images`` uses seed + i. Input images are named by their SHA-256 (hexadecimal); their bytes, a PNG of
    exactly ``width_pixels`` x ``height_pixels``, travel beside the job.
    """

    prompt: str
    negative_prompt: str = ""
    width_pixels: int = Field(ge=1)  # of what is generated first; to enlarge an image: its own
    height_pixels: int = Field(ge=1)
    steps: int = Field(ge=1)
    guidance_scale: float = Field(ge=0.0, allow_inf_nan=False)
    seed: int = Field(ge=0, lt=SEED_BOUND)
    images: int = Field(default=1, ge=1)
    image_format: ImageFormat = ImageFormat.PNG
    quality_percent: int | None = Field(default=None, ge=0, le=100)  # of a format that has one; None: the default
    sampler: str | None = None  # a name of ``samplers.py``; None: the model's own
    task: Task = Task.TEXT_TO_IMAGE
    image_digest: str | None = None  # the image to begin with: RGB
    mask_digest: str | None = None  # where to generate anew: L, 255 is replaced
    # Share of the steps that are taken; 1 forgets the input image.
    strength: float | None = Field(default=None, ge=0.0, le=1.0)
    # Left out where it is Close, so that processes of the version before, which don't know it, read what is asked so.
    reproducibility: Reproducibility = Field(
        default=Reproducibility.CLOSE, exclude_if=lambda value: value is Reproducibility.CLOSE
    )
    # Left out likewise: jobs without them are the same in both versions. Of chance, the sampler takes its own share
    # where ``eta`` is None.
    adapters: tuple[AdapterUse, ...] = Field(default=(), exclude_if=lambda value: not value)  # by name
    controls: tuple[ControlUse, ...] = Field(default=(), exclude_if=lambda value: not value)  # in the order asked for
    hires: HiresPass | None = Field(default=None, exclude_if=lambda value: value is None)
    upscale: Upscaling | None = Field(default=None, exclude_if=lambda value: value is None)
    clip_skip: int | None = Field(default=None, ge=1, exclude_if=lambda value: value is None)  # 1: all layers are used
    eta: float | None = Field(default=None, ge=0.0, le=1.0, exclude_if=lambda value: value is None)
    # Of the model, a name in ``families/``: what the request costs. Which model it is, others say. Stored beside: it is
    # nothing that was asked for, and processes of the version before refuse what they don't know.
    family: str = Field(default="", exclude=True)

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        step = SIDE_STEP_PIXELS
        if self.upscale is None and (self.width_pixels % step or self.height_pixels % step):
            raise ValueError(f"{self.width_pixels}x{self.height_pixels} pixels: sides are multiples of {step}")
        return self

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height in pixels of the images that the job gives, the largest that it works on."""
        larger = self.hires or self.upscale or self
        return larger.width_pixels, larger.height_pixels

    @property
    def traits(self) -> Family:
        """What is so for the family of the model that the request was filled in for."""
        return get_family(self.family)

    @property
    def passes(self) -> int:
        """Evaluations of the denoiser a step: guidance needs a second one, and so does a sampler's midpoint."""
        sampler = SAMPLERS.get(self.sampler or "")
        evaluations = sampler.evaluations if sampler is not None else 1
        return evaluations * self.traits.count_passes(self.guidance_scale, self.negative_prompt)

    @property
    def denoising_steps(self) -> int:
        """Steps that are really taken: the last ``strength`` of them, at least one, by a task that knows strength."""
        if self.strength is None or TASKS[self.task].default_strength is None:
            return self.steps
        return max(1, self.traits.strength_rule.count_steps(self.steps, self.strength))

    @property
    def hires_steps(self) -> int:
        """Steps that the second pass really takes; 0 without one."""
        if self.hires is None:
            return 0
        return max(1, self.traits.strength_rule.count_steps(self.hires.steps or self.steps, self.hires.strength))

    @property
    def first_controls(self) -> tuple[ControlUse, ...]:
        """The ControlNets of the first pass, or the only one."""
        return tuple(use for use in self.controls if self.hires is None or use.passes is not ControlPasses.SECOND)

    @property
    def second_controls(self) -> tuple[ControlUse, ...]:
        """The ControlNets of the second pass; none without one."""
        return tuple(use for use in self.controls if self.hires is not None and use.passes is not ControlPasses.FIRST)

    @property
    def batch_key(self) -> str:
        """Equal for jobs that can share steps: those of one size, the largest, whatever else they ask for."""
        width, height = self.image_size
        return f"{width}x{height}"

    @property
    def cache_values(self) -> dict[str, Any]:
        """What a result cache's key is made of, as JSON-ready data."""
        values = self.to_wire()
        return {name: values[name] for name in CACHE_NAMES if name in values}


@dataclass(frozen=True)
class FillContext:
    """What defaults and checks depend on besides the request itself."""

    facts: ModelFacts
    limits: LimitsConfig
    job_id: str
    inputs: InputImages | None = None  # of the size that is asked for
    is_prompt_required: bool = True
    add_ons: AddOnsConfig = field(default_factory=AddOnsConfig)  # that this service offers
    model: str = ""  # its name

    @property
    def digests(self) -> Mapping[str, str]:
        """Of the inputs, by their names."""
        return self.inputs.digests if self.inputs else {}


Values = Mapping[str, Any]  # parameters by name; of the rows above a row, all are there when it is filled in


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
    is_in_cache_key: bool = True
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


def check_side(pixels: int, max_pixels: int, step_pixels: int) -> str | None:
    """What is wrong with a width or height, for a model whose sides are multiples of ``step_pixels``."""
    if MIN_SIDE_PIXELS <= pixels <= max_pixels and pixels % step_pixels == 0:
        return None
    return f"is {pixels} pixels, allowed is a multiple of {step_pixels} from {MIN_SIDE_PIXELS} to {max_pixels}"


def bound_side(pixels: int, max_pixels: int, step_pixels: int) -> int:
    """A model's own side, where it is larger than is allowed the largest that fits."""
    return pixels if pixels <= max_pixels else max_pixels // step_pixels * step_pixels


def choose_seed(text: str) -> int:
    """A seed that looks random and follows from a text (a job's id), so that a repeated submission is the same job."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:CHOSEN_SEED_BYTES], "big")


def _check_range(value: float, least: float, most: float) -> str | None:
    return None if least <= value <= most else f"is {value}, allowed are {least} to {most}"  # NaN fails this too


def _check_text(text: str, least: int, context: FillContext) -> str | None:
    most = context.limits.max_prompt_characters
    if not least <= len(text) <= most:
        return f"has {len(text)} characters, allowed are {least} to {most}"
    return find_network(text) if "<" in text else None


def _check_choice(value: Any, choices: Sequence[Any], sentence: str) -> str | None:
    if value in choices:
        return None
    return sentence.format(value=value, shown=truncate_repr(value), choices=", ".join(choices))


def _check_strength(strength: float, values: Values, context: FillContext) -> str | None:
    if TASKS[values["task"]].default_strength is None:
        return f"is {strength}, which means nothing without an image to begin with"
    if not 0 < strength <= 1:
        return f"is {strength}, allowed is more than 0 to 1"
    steps = values["steps"]
    if context.facts.defaults.traits.strength_rule.count_steps(steps, strength) < 1:
        return f"is {strength}, of {steps} steps less than one; allowed are {1 / steps:.3g} to 1"
    return None


def _check_negative_prompt(text: str, context: FillContext) -> str | None:
    if text and context.facts.defaults.traits.negative_prompts is NegativePrompts.REFUSED:
        return f"has {len(text)} characters, but this model ({context.facts.defaults.family}) takes none; leave it out"
    return _check_text(text, 0, context)


def _complete_adapters(asked: Sequence[Any], context: FillContext) -> tuple[AdapterUse, ...]:
    """Those that have an effect, sorted by name: in any order they are the same request."""
    find = build_adapter_finder(context.add_ons.list_adapters(context.model)) if asked else None
    uses = []
    for each in asked:
        config = find(each.name) if find else None
        weight = each.weight if each.weight is not None else config.default_weight if config else 1.0
        name, key = (config.name, config.key) if config else (each.name, "")
        # A weight beyond its bounds is for the check to name.
        uses.append(AdapterUse.model_construct(name=name, weight=weight, key=key))
    return tuple(sorted((use for use in uses if use.weight), key=lambda use: use.name))


def _check_adapters(uses: Sequence[AdapterUse], context: FillContext) -> str | None:
    most = context.limits.max_adapters
    if Feature.ADAPTERS not in context.facts.features:
        return f"asks for {truncate_repr(uses[0].name)}, and this model takes no adapters; leave it out"
    names = [use.name for use in uses]
    if len(uses) > most:
        return f"asks for {len(uses)} adapters, allowed are {most}"
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        return f"names {truncate_repr(twice)} twice; name each adapter once"
    unknown = next((use.name for use in uses if not use.key), None)
    if unknown is not None:
        return refuse_name(unknown, [each.name for each in context.add_ons.list_adapters(context.model)], "adapter")
    weight = next((use.weight for use in uses if not -MAX_WEIGHT <= use.weight <= MAX_WEIGHT), None)
    return None if weight is None else f"has a weight of {weight}, allowed are {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}"


def _complete_clip_skip(skip: int | None, context: FillContext) -> int | None:
    """None for a layer that the model's family takes anyway; a default that it has no layer for means nothing."""
    family = context.facts.defaults.traits
    usual = 1 if family.clip_layer is None else family.clip_layer
    return None if skip is None or 1 <= skip <= usual else skip


def _choose_clip_skip(context: FillContext) -> int | None:
    """The service's own, where this model can do it."""
    if context.facts.defaults.clip_skip is None:
        return None
    chosen = _complete_clip_skip(context.facts.defaults.clip_skip, context)
    return None if chosen is None or _check_clip_skip(chosen, context) else chosen


def _check_clip_skip(skip: int, context: FillContext) -> str | None:
    if not 1 <= skip <= MAX_CLIP_SKIP:
        return f"is {skip}, allowed are 1 to {MAX_CLIP_SKIP}"
    family = context.facts.defaults.traits
    if Feature.CLIP_SKIP not in context.facts.features or (family.name and family.clip_layer is None):
        return f"is {skip}, and this model ({family.name or 'of another family'}) has no layers to skip; leave it out"
    return None


def _check_eta(eta: float, values: Values) -> str | None:
    sampler = values["sampler"]
    if sampler is None or sampler not in SAMPLERS or not SAMPLERS[sampler].takes_eta:
        takers = ", ".join(name for name, each in SAMPLERS.items() if each.takes_eta)
        return (
            f"is {eta}, which has no effect with {sampler or 'the own sampler of the model'}; it has one with {takers}"
        )
    return _check_range(eta, 0.0, 1.0)


def _settle_controls(asked: Sequence[Any], values: Values, context: FillContext) -> tuple[ControlUse, ...]:
    """In their order, each with the key of what its name stands for. What is beyond bounds is for the check to name."""
    has_passes = values["hires"] is not None
    known = {each.name: each.key for each in context.add_ons.control_nets}
    return tuple(
        ControlUse.model_construct(
            name=each.name,
            key=known.get(each.name, ""),
            image_digest=each.image_digest,
            weight=each.weight,
            start=each.start,
            end=each.end,
            mode=each.mode,
            passes=each.passes if has_passes else ControlPasses.BOTH,
        )
        for each in asked
    )


def _check_controls(uses: Sequence[ControlUse], context: FillContext) -> str | None:
    if Feature.CONTROL_NETS not in context.facts.features:
        return f"asks for {truncate_repr(uses[0].name)}, and this model takes no ControlNets; leave it out"
    if len(uses) > context.limits.max_controls:
        return f"asks for {len(uses)} ControlNets, allowed are {context.limits.max_controls}"
    unknown = next((use.name for use in uses if not use.key), None)
    if unknown is not None:
        return refuse_name(unknown, [each.name for each in context.add_ons.control_nets], "ControlNet")
    sent = context.inputs.control_digests if context.inputs is not None else ()
    return next((fault for use in uses if (fault := _find_control_fault(use, sent)) is not None), None)


def _find_control_fault(use: ControlUse, sent: Sequence[str]) -> str | None:
    if not 0 <= use.weight <= MAX_WEIGHT:
        return f"has a weight of {use.weight}, allowed are 0 to {MAX_WEIGHT:g}"
    if not 0 <= use.start < use.end <= 1:
        return f"has a say from {use.start} to {use.end}; allowed are shares of the steps from 0 to 1, upwards"
    if use.image_digest not in sent:
        return f"needs the control image of {truncate_repr(use.name)}, which must be sent with it"
    return None


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
        check=lambda text, _, context: _check_text(text, int(context.is_prompt_required), context),
    ),
    Parameter(
        "negative_prompt",
        default=lambda _, __: "",
        check=lambda text, _, context: _check_negative_prompt(text, context),
    ),
    Parameter(
        "task",
        default=lambda values, context: (
            Task.UPSCALE if values["upscale"] is not None else TASK_OF_INPUTS[frozenset(context.digests)]
        ),
        check=lambda task, _, context: _check_choice(
            task, context.facts.tasks, "asks for {value}, which this model can't do; it can {choices}"
        ),
    ),
    Parameter(
        "steps",
        default=lambda _, context: min(context.facts.defaults.steps, context.limits.max_steps),
        check=lambda steps, _, context: _check_range(
            steps, context.facts.defaults.traits.least_steps, context.limits.max_steps
        ),
        metadata=Metadata("Steps", lambda parameters: parameters.steps),
    ),
    Parameter(
        "sampler",
        default=lambda _, __: None,
        check=lambda sampler, _, context: _check_choice(
            sampler, context.facts.samplers, "is {shown}, allowed are {choices}"
        ),
        metadata=Metadata("Sampler", lambda parameters: parameters.sampler, followed_by="Schedule type"),
    ),
    Parameter(
        "guidance_scale",
        default=lambda _, context: context.facts.defaults.guidance_scale,
        check=lambda scale, _, __: _check_range(scale, 0.0, MAX_GUIDANCE_SCALE),
        metadata=Metadata("CFG scale", lambda parameters: parameters.guidance_scale),
    ),
    Parameter(
        "seed",
        default=lambda _, context: choose_seed(context.job_id),
        check=lambda seed, _, __: _check_range(seed, 0, SEED_BOUND - 1),
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
        check=lambda images, _, context: _check_range(images, 1, context.limits.max_images),
    ),
    Parameter("image_format", default=lambda _, __: ImageFormat.PNG),
    Parameter(
        "quality_percent",
        default=lambda _, __: None,
        check=lambda percent, _, __: _check_range(percent, 0, 100),
    ),
    Parameter("image_digest", default=lambda _, context: context.digests.get("image")),
    Parameter("mask_digest", default=lambda _, context: context.digests.get("mask")),
    Parameter(
        "strength",
        default=lambda values, _: TASKS[values["task"]].default_strength,
        check=_check_strength,
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
        complete=_complete_adapters,
        check=lambda uses, _, context: _check_adapters(uses, context),
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
        settle=_settle_controls,
        check=lambda uses, _, context: _check_controls(uses, context),
    ),
    Parameter(
        "clip_skip",
        default=lambda _, context: _choose_clip_skip(context),
        complete=_complete_clip_skip,
        check=lambda skip, _, context: _check_clip_skip(skip, context),
        metadata=Metadata("Clip skip", lambda parameters: parameters.clip_skip),
    ),
    Parameter(
        "eta",
        default=lambda _, __: None,
        complete=lambda eta, _: eta or None,  # 0 is what samplers have that take one
        check=lambda eta, values, _: _check_eta(eta, values),
        metadata=Metadata("Eta DDIM", lambda parameters: parameters.eta),
    ),
    # What is the same model has the same one; an image of it is found whichever gateway knew it.
    Parameter("family", default=lambda _, context: context.facts.defaults.family, is_in_cache_key=False),
)

CACHE_NAMES: Final = tuple(
    GenerationParameters.model_fields[row.name].alias or row.name for row in PARAMETERS if row.is_in_cache_key
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


def list_add_ons(parameters: GenerationParameters, offered: AddOnsConfig) -> tuple[AddOnConfig, ...]:
    """Of what a service offers, that which a job uses."""
    keys = {each.key for each in parameters.adapters} | {each.key for each in parameters.controls}
    keys |= {parameters.hires.key} if parameters.hires is not None else set()
    keys |= set(parameters.upscale.keys) if parameters.upscale is not None else set()
    known: tuple[AddOnConfig, ...] = (*offered.adapters, *offered.control_nets, *offered.upscalers)
    return tuple(each for each in known if each.key in keys)


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
