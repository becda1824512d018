"""What clients of AUTOMATIC1111 send, in types and values as lenient as its own; what can't be done is refused. Pure.

https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/API
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import ConfigDict, Field, JsonValue, PrivateAttr, model_validator

from easel_server.api.automatic1111.controlnet import FIELD as CONTROLS_FIELD
from easel_server.api.automatic1111.controlnet import find_unit_warnings, take_units
from easel_server.api.automatic1111.harmless import (
    COLOR_CORRECTION,
    IMAGE_TO_IMAGE_FIELDS,
    IMAGE_TO_IMAGE_INERT,
    TEXT_TO_IMAGE_FIELDS,
    TEXT_TO_IMAGE_INERT,
    Harmless,
    find_chance_faults,
    find_chance_warnings,
    find_faults,
    find_script_faults,
    find_unknown_warning,
    is_nothing,
    refuse,
)
from easel_server.api.automatic1111.samplers import AUTOMATIC, SCHEDULES, choose_sampler
from easel_server.api.automatic1111.settings import (
    ADDED_ADAPTER,
    CLIP_SKIP,
    OWN_SETTINGS,
    REPRODUCIBILITY,
    find_settings_faults,
    find_settings_warnings,
    read_added_weight,
    read_clip_skip,
    read_eta,
    read_format,
    read_quality,
    read_reproducibility,
)
from easel_server.api.fields import RECIPE_DESCRIPTION, ApiBody, MapsTo, RecipeField, WireInteger, WireNumber
from easel_server.gateway.refusals import FieldFault, refuse_field, refuse_fields
from easel_server.generation.add_ons import MAX_UPSCALE_FACTOR, AdapterRequest, HiresRequest
from easel_server.generation.messages import truncate_repr
from easel_server.generation.prompts.networks import NETWORK, NetworkError, Networks, join_networks, split_networks
from easel_server.generation.recipes.infotext import TEXT_NAMES
from easel_server.generation.samplers import split_sampler

RANDOM_SEED: Final = -1
SETTING_PARAMETERS: Final = ("image_format", "quality_percent", "reproducibility", "clip_skip")
DEFAULT_STRENGTH: Final = 0.75


def _describe_accepted(known: Mapping[str, Harmless], inert: frozenset[str]) -> Callable[[dict[str, Any]], None]:
    def describe(schema: dict[str, Any]) -> None:
        for name, harmless in sorted(known.items()):
            schema["properties"][name] = {"description": f"Of what isn't offered: {harmless.allowed}."}
        for name in sorted(inert):
            schema["properties"][name] = {"description": "Accepted without effect."}

    return describe


def _to_seed(seed: int) -> int | None:
    return None if seed == RANDOM_SEED else seed


class GenerationBody(ApiBody):
    """What txt2img and img2img share. Fields that aren't declared here are in ``harmless.py``, or unknown."""

    SIDES: ClassVar[tuple[str, ...]] = ("width", "height")
    COMPUTED: ClassVar[Mapping[str, str]] = {
        "images": "batch_size * n_iter",
        "sampler": "sampler_name",
        "image_format": "override_settings.samples_format",
        "quality_percent": "override_settings.jpeg_quality",
        "reproducibility": f"override_settings.{REPRODUCIBILITY}",
        "image_digest": "init_images",
        "mask_digest": "mask",
        "strength": "denoising_strength",
        "adapters": "prompt",
        "clip_skip": f"override_settings.{CLIP_SKIP}",
        "eta": "eta",
        "controls": CONTROLS_FIELD,
        "hires": "enable_hr",
    }
    KNOWN: ClassVar[Mapping[str, Harmless]] = {}
    INERT: ClassVar[frozenset[str]] = frozenset()

    # AUTOMATIC1111's own name for what other APIs here call a recipe, and its own rule: other fields go first.
    recipe: RecipeField = Field(default=None, alias="infotext", exclude=True, description=RECIPE_DESCRIPTION)
    prompt: Annotated[str | None, MapsTo("prompt")] = Field(
        default=None, description="Adapters are asked for within: <lora:NAME:WEIGHT>."
    )
    negative_prompt: Annotated[str | None, MapsTo("negative_prompt")] = None
    disable_extra_networks: JsonValue = Field(default=None, description="true: adapters in the prompt are left out.")
    seed: Annotated[WireInteger | None, MapsTo("seed", convert=_to_seed)] = Field(
        default=None, description="-1 for a random one."
    )
    sampler_name: str | None = None
    sampler_index: str | None = Field(default=None, description="The sampler's name, if sampler_name isn't given.")
    scheduler: str | None = None
    batch_size: WireInteger | None = None
    n_iter: WireInteger | None = None
    steps: Annotated[WireInteger | None, MapsTo("steps")] = None
    cfg_scale: Annotated[WireNumber | None, MapsTo("guidance_scale")] = None
    width: Annotated[WireInteger | None, MapsTo("width_pixels")] = None
    height: Annotated[WireInteger | None, MapsTo("height_pixels")] = None
    override_settings: dict[str, JsonValue] | None = Field(
        default=None, description=f"Settings for this request: {', '.join(OWN_SETTINGS)}."
    )
    send_images: bool | None = None
    alwayson_scripts: JsonValue = Field(
        default=None, description="ControlNet's units (`controlnet.args`), and scripts that are off."
    )
    refiner_checkpoint: str | None = Field(default=None, description="None but the served model.")
    eta: WireNumber | None = Field(default=None, description="0 to 1 with DDIM; of others the sampler's own, or 0.")
    s_noise: WireNumber | None = Field(default=None, description="1, or 0.")
    clip_skip: JsonValue = Field(default=None, description="As override_settings.CLIP_stop_at_last_layers, 1 to 12.")

    _rounded: tuple[str, ...] = PrivateAttr(default=())

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_is_empty(cls, given: Any) -> Any:
        """Some clients send an empty text for whatever isn't filled in, and an empty list for an empty object."""
        return (
            {name: value for name, value in given.items() if value not in ("", [])}
            if isinstance(given, dict)
            else given
        )

    @property
    def settings(self) -> Mapping[str, JsonValue]:
        """``override_settings``, empty if there are none."""
        return self.override_settings or {}

    @property
    def checkpoint(self) -> str | None:
        """The model that is asked for by its name."""
        name = self.settings.get("sd_model_checkpoint")
        return None if is_nothing(name) else str(name)

    def fit_to(self, step_pixels: int) -> Self:
        """With sides that are multiples of the model's step. AUTOMATIC1111 rounds down, and painting programs count on
        it: they send whatever size is selected. One that would be nothing stays as it is, and is refused."""
        given = {name: pixels for name in self.SIDES if (pixels := getattr(self, name))}
        fitted = {name: pixels // step_pixels * step_pixels for name, pixels in given.items()}
        changed = {name: pixels for name, pixels in fitted.items() if pixels != given[name] and pixels > 0}
        if not changed:
            return self
        body = self.model_copy(update=changed)
        body._rounded = tuple(
            f"{name}: {given[name]} is taken for {pixels}, a multiple of {step_pixels}"
            for name, pixels in changed.items()
        )
        return body

    def check(self, *, model: str, vae: str | None) -> None:
        """Raise RefusalError for what would change the image and can't be done.

        ``model`` is the served one's name, ``vae`` that of the autoencoder in place of its own.
        """
        if faults := list(self._find_faults(model, vae)):
            raise refuse_fields(*faults)

    def _find_faults(self, model: str, vae: str | None) -> Iterator[FieldFault]:
        extra = self.model_extra or {}
        yield from find_faults(extra, self.KNOWN)
        scripts = self.alwayson_scripts
        yield from find_script_faults(take_units(scripts)[1] if isinstance(scripts, dict) else scripts)
        yield from find_settings_faults(self.settings, vae, prefix="override_settings.")
        yield from find_chance_faults({"eta": self.eta, "s_noise": self.s_noise}, self._sampler())
        refiner = self.refiner_checkpoint
        if not is_nothing(refiner) and refiner != model and extra.get("refiner_switch_at") not in (1, "1"):
            yield refuse("refiner_checkpoint", refiner, f"allowed is {model!r}")

    def find_warnings(self) -> Iterator[str]:
        """As of any body, and what nobody knows."""
        yield from super().find_warnings()
        if self._rounded:
            yield "; ".join(self._rounded)
        declared = {name: value for name, value in (("eta", self.eta), ("s_noise", self.s_noise)) if value is not None}
        yield from find_chance_warnings(declared, self._sampler())
        extra = self.model_extra or {}
        # Names of an image's text are what png-info gives beside the fields of this body. Some clients send fields of
        # txt2img to img2img, too: nobody is lost by those that ask for nothing.
        known = {*self.KNOWN, *self.INERT, *TEXT_NAMES}
        unknown = [name for name, value in extra.items() if name not in known and not is_nothing(value)]
        yield from find_unknown_warning(unknown, kind="field")
        yield from find_settings_warnings(self.settings)
        if network := NETWORK.search(self.negative_prompt or ""):
            yield f"negative_prompt: {truncate_repr(network[0])} is without effect; adapters belong in the prompt"
        yield from find_unit_warnings(self.units)

    @property
    def units(self) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """ControlNet's units that are on, each with what errors call it. Raises RefusalError for what is none."""
        return take_units(self.alwayson_scripts)[0]

    def _sampler(self) -> str:
        within = "" if self.recipe is None else self.recipe.given.get("sampler", "")
        return split_sampler(self.sampler_name or self.sampler_index or within)[0]

    @property
    def size(self) -> tuple[int | None, int | None]:
        """Width and height in pixels that are asked for."""
        width, height = self.recipe_size
        return self.width or width, self.height or height

    def given(self) -> dict[str, Any]:
        """As of any body, and what several fields make together. Raises RefusalError for a format or quality."""
        said = {
            "image_format": read_format(self.settings),
            "quality_percent": read_quality(self.settings),
            "reproducibility": read_reproducibility(self.settings),
            "clip_skip": read_clip_skip(self.clip_skip, self.settings),
            "eta": read_eta(self.eta, self._sampler(), self.settings),
        }
        values = super().given() | {name: value for name, value in said.items() if value is not None}
        values |= self._read_networks(values)
        values["images"] = _or(self.batch_size, 1) * _or(self.n_iter, 1)
        if self.seed == RANDOM_SEED:
            values.pop("seed", None)
        return values

    def _read_networks(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The prompts without networks, and the adapters that they and a setting ask for. Raises RefusalError.

        A prompt says all of its adapters: one beside a recipe replaces the recipe's, too.
        """
        found: dict[str, Any] = {}
        if self.prompt is not None:
            found["prompt"], found["adapters"] = _split("prompt", self.prompt)
        if "<" in values.get("negative_prompt", ""):
            found["negative_prompt"], _ = _split("negative_prompt", values["negative_prompt"])
        adapters = found.get("adapters", values.get("adapters", ()))
        added = self.settings.get(ADDED_ADAPTER)
        if not is_nothing(added) and added not in [each.name for each in adapters]:
            adapters = (*adapters, AdapterRequest(str(added), read_added_weight(self.settings)))
        if is_nothing(self.disable_extra_networks):
            return found | ({"adapters": adapters} if adapters else {})
        return found | {"adapters": ()}

    def given_for(self, samplers: Sequence[str]) -> dict[str, Any]:
        """What the client said, the sampler by the name of one that the model offers. Raises RefusalError."""
        sampler = choose_sampler(self.sampler_name or self.sampler_index, self.scheduler, samplers)
        return self.given() | ({} if sampler is None else {"sampler": sampler})


class TextToImageBody(GenerationBody):
    """The body of txt2img."""

    SIDES = (*GenerationBody.SIDES, "hr_resize_x", "hr_resize_y")
    KNOWN = TEXT_TO_IMAGE_FIELDS
    INERT = TEXT_TO_IMAGE_INERT
    model_config = ConfigDict(
        extra="allow", json_schema_extra=_describe_accepted(TEXT_TO_IMAGE_FIELDS, TEXT_TO_IMAGE_INERT)
    )

    enable_hr: JsonValue = Field(default=None, description="A second pass over the enlarged image.")
    hr_scale: WireNumber | None = None
    hr_resize_x: WireInteger | None = Field(default=None, description="0: by hr_scale, or as hr_resize_y says.")
    hr_resize_y: WireInteger | None = None
    hr_upscaler: str | None = None
    hr_second_pass_steps: WireInteger | None = Field(default=None, description="0: as many as the first pass.")
    denoising_strength: WireNumber | None = Field(default=None, description="Of the second pass: 0.75 by default.")
    hr_checkpoint_name: JsonValue = Field(default=None, description="None but the served model.")
    hr_sampler_name: JsonValue = Field(default=None, description="The first pass's.")
    hr_scheduler: JsonValue = Field(default=None, description="The first pass's.")
    hr_prompt: JsonValue = Field(default=None, description="The first pass's.")
    hr_negative_prompt: JsonValue = Field(default=None, description="The first pass's.")
    hr_cfg: WireNumber | None = Field(default=None, description="The first pass's.")

    def given(self) -> dict[str, Any]:
        """As of any body, and the second pass that ``enable_hr`` asks for, or switches off beside a recipe."""
        values = super().given()
        if self.enable_hr is None:
            return values
        if is_nothing(self.enable_hr):
            values.pop("hires", None)
            return values
        asked = HiresRequest(
            width_pixels=self.hr_resize_x or None,
            height_pixels=self.hr_resize_y or None,
            factor=self.hr_scale,
            upscaler=self.hr_upscaler,
            steps=self.hr_second_pass_steps or None,
            strength=DEFAULT_STRENGTH if self.denoising_strength is None else self.denoising_strength,
        )
        return values | {"hires": asked}

    def _find_faults(self, model: str, vae: str | None) -> Iterator[FieldFault]:
        yield from super()._find_faults(model, vae)
        if is_nothing(self.enable_hr):
            return
        if self.hr_scale is not None and not 0 < self.hr_scale <= MAX_UPSCALE_FACTOR:
            yield FieldFault("hr_scale", f"is {self.hr_scale}, allowed is more than 0 to {MAX_UPSCALE_FACTOR:g}")
        for name, same in (
            ("hr_checkpoint_name", ("Use same checkpoint", model)),
            ("hr_sampler_name", ("Use same sampler", self.sampler_name or self.sampler_index)),
            ("hr_scheduler", ("Use same scheduler", self.scheduler)),
            ("hr_prompt", (self.prompt,)),
            ("hr_negative_prompt", (self.negative_prompt,)),
            ("hr_cfg", (self.cfg_scale,)),
        ):
            value = getattr(self, name)
            if not is_nothing(value) and value not in same:
                yield refuse(name, value, "allowed is the first pass's")


class ImageToImageBody(GenerationBody):
    """The body of img2img. What says how a mask is used means nothing without one."""

    KNOWN = IMAGE_TO_IMAGE_FIELDS
    INERT = IMAGE_TO_IMAGE_INERT
    model_config = ConfigDict(
        extra="allow", json_schema_extra=_describe_accepted(IMAGE_TO_IMAGE_FIELDS, IMAGE_TO_IMAGE_INERT)
    )

    init_images: list[str] = Field(min_length=1, max_length=1, description="One image, as base64.")
    denoising_strength: WireNumber | None = None
    resize_mode: WireInteger | None = Field(
        default=None,
        description="0 stretches, 1 crops; another is accepted if the image has the size that is asked for.",
    )
    mask: str | None = Field(default=None, description="Where to generate anew: white. As base64.")
    mask_blur: WireNumber | None = Field(default=None, description="How softly the mask ends, in pixels: 0 to 64.")
    mask_blur_x: WireNumber | None = Field(default=None, description="As mask_blur, sideways.")
    mask_blur_y: WireNumber | None = Field(default=None, description="As mask_blur, up and down.")
    inpainting_mask_invert: WireInteger | None = Field(default=None, description="1 generates black anew.")
    inpainting_fill: WireInteger | None = Field(
        default=None, description="What to begin with below the mask: 0 its surroundings, 1 the image."
    )
    inpaint_full_res: bool | None = Field(
        default=None, description="Generate what surrounds the mask alone, in full size."
    )
    inpaint_full_res_padding: WireInteger | None = Field(default=None, description="0 to 1024 pixels.")
    include_init_images: bool | None = None  # whether `parameters` of the answer repeats them

    @property
    def is_corrected(self) -> bool:
        """Whether the image gets the colours of the one to begin with, as a setting asks for."""
        return not is_nothing(self.settings.get(COLOR_CORRECTION))

    @property
    def blur(self) -> tuple[float, float]:
        """How softly the mask ends, in pixels, sideways and up and down."""
        both = self.mask_blur
        x, y = (both, both) if both is not None else (self.mask_blur_x, self.mask_blur_y)
        return DEFAULT_MASK_BLUR if x is None else x, DEFAULT_MASK_BLUR if y is None else y

    def given(self) -> dict[str, Any]:
        """As of any body; this API has a default strength of its own."""
        values = super().given()
        within = values.get("strength", DEFAULT_STRENGTH)
        return values | {"strength": within if self.denoising_strength is None else self.denoising_strength}

    def _find_faults(self, model: str, vae: str | None) -> Iterator[FieldFault]:
        yield from super()._find_faults(model, vae)
        for name, (least, most) in MASK_RANGES.items() if self.mask else ():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                yield FieldFault(name, f"is {value}, allowed are {least} to {most}")


DEFAULT_MASK_BLUR: Final = 4.0
MASK_RANGES: Final = {
    "mask_blur": (0, 64),
    "mask_blur_x": (0, 64),
    "mask_blur_y": (0, 64),
    "inpainting_mask_invert": (0, 1),
    "inpainting_fill": (0, 1),
    "inpaint_full_res_padding": (0, 1024),
}


def build_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as a body of txt2img or img2img has them; ``given`` by the names of ``GenerationParameters``."""
    own = {parameter: name for parameter, name in GenerationBody.field_names().items() if "." not in name}
    made = ("images", "sampler", "prompt", "adapters")
    fields = {own[name]: value for name, value in given.items() if name in own and name not in made}
    if "prompt" in given or "adapters" in given:
        fields["prompt"] = join_networks(given.get("prompt", ""), given.get("adapters", ()))
    if sampler := given.get("sampler"):
        fields["sampler_name"], schedule = split_sampler(sampler)
        fields["scheduler"] = schedule or SCHEDULES[AUTOMATIC]
    fields.pop("upscale", None)  # of no image that is generated
    if (hires := fields.pop("enable_hr", None)) is not None:
        fields |= {
            "enable_hr": True,
            "hr_resize_x": hires.width_pixels,
            "hr_resize_y": hires.height_pixels,
            "hr_upscaler": hires.upscaler,
            "hr_second_pass_steps": hires.steps or 0,
            "denoising_strength": hires.strength,
        }
    settings = {name: GenerationBody.COMPUTED[name].partition(".")[2] for name in SETTING_PARAMETERS}
    chosen = {settings[name]: value for name, value in given.items() if name in settings}
    return fields | ({"override_settings": chosen} if chosen else {})


def _split(field: str, prompt: str) -> Networks:
    try:
        return split_networks(prompt)
    except NetworkError as error:
        raise refuse_field(field, str(error)) from None


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
