"""What clients of AUTOMATIC1111 send. Pure.

https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/API
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from easel_server.api.automatic1111.samplers import choose_sampler
from easel_server.api.fields import ApiBody, MapsTo, WireInteger, WireNumber
from easel_server.gateway.refusals import refuse_field
from easel_server.generation.parameters import ImageFormat

RANDOM_SEED: Final = -1
DEFAULT_STRENGTH: Final = 0.75
FORMATS: Final = {"png": ImageFormat.PNG, "jpg": ImageFormat.JPEG, "jpeg": ImageFormat.JPEG, "webp": ImageFormat.WEBP}

# Fields that would change the image in ways that aren't offered, and the values that ask for nothing: clients send
# those all the time.
NEUTRAL: Final[Mapping[str, tuple[JsonValue, ...]]] = {
    "styles": ([],),
    "subseed_strength": (0,),
    "seed_resize_from_h": (-1, 0),
    "seed_resize_from_w": (-1, 0),
    "restore_faces": (False,),
    "tiling": (False,),
    "eta": (1,),
    "s_min_uncond": (0,),
    "s_churn": (0,),
    "s_tmin": (0,),
    "s_tmax": (0,),
    "s_noise": (1,),
    "refiner_checkpoint": ("", "None"),
    "script_name": ("", "None"),
    "script_args": ([],),
    "alwayson_scripts": ({},),
    "infotext": ("",),
    "firstpass_image": ("",),
}
DEFAULT_VAE: Final = ("Automatic", "None")
ALL_LAYERS: Final = (1,)
NEUTRAL_TEXT_TO_IMAGE: Final[Mapping[str, tuple[JsonValue, ...]]] = {"enable_hr": (False,)}
NEUTRAL_IMAGE_TO_IMAGE: Final[Mapping[str, tuple[JsonValue, ...]]] = {
    "initial_noise_multiplier": (1,),
    "latent_mask": ("",),
}


def _add_allowed_values(schema: dict[str, Any], neutral: Mapping[str, tuple[JsonValue, ...]]) -> None:
    for name, values in neutral.items():
        if name in schema["properties"]:
            schema["properties"][name] = {"enum": [*values, None], "description": "Accepted in values without effect."}


def _describe_text_to_image(schema: dict[str, Any]) -> None:
    _add_allowed_values(schema, {**NEUTRAL, **NEUTRAL_TEXT_TO_IMAGE})


def _describe_image_to_image(schema: dict[str, Any]) -> None:
    _add_allowed_values(schema, {**NEUTRAL, **NEUTRAL_IMAGE_TO_IMAGE})


def _to_seed(seed: int) -> int | None:
    return None if seed == RANDOM_SEED else seed


class GenerationBody(ApiBody):
    """What txt2img and img2img share."""

    COMPUTED: ClassVar[Mapping[str, str]] = {
        "images": "batch_size * n_iter",
        "sampler": "sampler_name",
        "image_format": "override_settings.samples_format",
        "image_digest": "init_images",
        "mask_digest": "mask",
        "strength": "denoising_strength",
    }

    prompt: Annotated[str | None, MapsTo("prompt")] = None
    negative_prompt: Annotated[str | None, MapsTo("negative_prompt")] = None
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
    override_settings: "OverrideSettings | None" = None
    send_images: bool | None = None
    # Without effect here: there are no files, no other settings, no second seed in use.
    save_images: bool | None = None
    do_not_save_samples: bool | None = None
    do_not_save_grid: bool | None = None
    override_settings_restore_afterwards: bool | None = None
    subseed: WireInteger | None = None
    force_task_id: str | None = None
    disable_extra_networks: bool | None = None
    comments: dict[str, JsonValue] | None = None
    refiner_switch_at: WireNumber | None = None
    # Refused in any value that would have an effect: NEUTRAL has the others.
    styles: JsonValue = None
    subseed_strength: JsonValue = None
    seed_resize_from_h: JsonValue = None
    seed_resize_from_w: JsonValue = None
    restore_faces: JsonValue = None
    tiling: JsonValue = None
    eta: JsonValue = None
    s_min_uncond: JsonValue = None
    s_churn: JsonValue = None
    s_tmin: JsonValue = None
    s_tmax: JsonValue = None
    s_noise: JsonValue = None
    refiner_checkpoint: JsonValue = None
    script_name: JsonValue = None
    script_args: JsonValue = None
    alwayson_scripts: JsonValue = None
    infotext: JsonValue = None
    firstpass_image: JsonValue = None

    @field_validator(*NEUTRAL)
    @classmethod
    def _refuse_what_is_not_offered(cls, value: JsonValue, info: ValidationInfo) -> JsonValue:
        return _refuse_unless(value, NEUTRAL[str(info.field_name)])

    def given(self) -> dict[str, Any]:
        """As of any body, and what several fields make together. Raises RefusalError for an unknown format."""
        images = _or(self.batch_size, 1) * _or(self.n_iter, 1)
        return super().given() | {"images": images, "image_format": self._read_format()}

    def given_for(self, samplers: Sequence[str]) -> dict[str, Any]:
        """What the client said, the sampler by the name of one that the model offers. Raises RefusalError."""
        sampler = choose_sampler(self.sampler_name or self.sampler_index, self.scheduler, samplers)
        return self.given() | ({} if sampler is None else {"sampler": sampler})

    def _read_format(self) -> ImageFormat:
        settings = self.override_settings
        written = (settings.samples_format if settings else None) or "png"
        if written.lower() not in FORMATS:
            allowed = ", ".join(FORMATS)
            raise refuse_field("override_settings.samples_format", f"is {written[:20]!r}, allowed are {allowed}")
        return FORMATS[written.lower()]


class TextToImageBody(GenerationBody):
    """The body of txt2img."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_describe_text_to_image)

    enable_hr: JsonValue = None
    # Of the second pass, which isn't offered: without effect.
    denoising_strength: JsonValue = None
    firstphase_width: JsonValue = None
    firstphase_height: JsonValue = None
    hr_scale: JsonValue = None
    hr_upscaler: JsonValue = None
    hr_second_pass_steps: JsonValue = None
    hr_resize_x: JsonValue = None
    hr_resize_y: JsonValue = None
    hr_checkpoint_name: JsonValue = None
    hr_sampler_name: JsonValue = None
    hr_scheduler: JsonValue = None
    hr_prompt: JsonValue = None
    hr_negative_prompt: JsonValue = None

    @field_validator(*NEUTRAL_TEXT_TO_IMAGE)
    @classmethod
    def _refuse_second_pass(cls, value: JsonValue, info: ValidationInfo) -> JsonValue:
        return _refuse_unless(value, NEUTRAL_TEXT_TO_IMAGE[str(info.field_name)])


class ImageToImageBody(GenerationBody):
    """The body of img2img."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_describe_image_to_image)

    init_images: list[str] = Field(min_length=1, max_length=1, description="One image, as base64.")
    denoising_strength: WireNumber | None = None
    resize_mode: WireInteger | None = Field(default=None, description="0 stretches, 1 crops.", ge=0, le=1)
    mask: str | None = Field(default=None, description="Where to generate anew: white. As base64.")
    mask_blur: WireNumber | None = Field(default=None, ge=0, le=64, description="How softly the mask ends, in pixels.")
    inpainting_mask_invert: WireInteger | None = Field(default=None, ge=0, le=1, description="1 generates black anew.")
    inpainting_fill: WireInteger | None = Field(
        default=None,
        ge=0,
        le=1,
        description="What to begin with below the mask: 0 its surroundings, 1 the image.",
    )
    inpaint_full_res: bool | None = Field(
        default=None, description="Generate what surrounds the mask alone, in full size."
    )
    inpaint_full_res_padding: WireInteger | None = Field(default=None, ge=0, le=1024)
    include_init_images: bool | None = None  # whether `parameters` of the answer repeats them
    image_cfg_scale: WireNumber | None = None  # of models of another kind
    initial_noise_multiplier: JsonValue = None
    latent_mask: JsonValue = None

    def given(self) -> dict[str, Any]:
        """As of any body; this API has a default strength of its own."""
        strength = DEFAULT_STRENGTH if self.denoising_strength is None else self.denoising_strength
        return super().given() | {"strength": strength}

    @field_validator(*NEUTRAL_IMAGE_TO_IMAGE)
    @classmethod
    def _refuse_other_noise(cls, value: JsonValue, info: ValidationInfo) -> JsonValue:
        return _refuse_unless(value, NEUTRAL_IMAGE_TO_IMAGE[str(info.field_name)])


class OverrideSettings(BaseModel):
    """Settings, as far as they exist here."""

    model_config = ConfigDict(extra="forbid")

    sd_model_checkpoint: str | None = None
    samples_format: str | None = None
    sd_vae: JsonValue = Field(default=None, json_schema_extra={"enum": [*DEFAULT_VAE, None]})
    CLIP_stop_at_last_layers: JsonValue = Field(default=None, json_schema_extra={"enum": [*ALL_LAYERS, None]})

    @field_validator("sd_vae", "CLIP_stop_at_last_layers")
    @classmethod
    def _refuse_other_parts(cls, value: JsonValue, info: ValidationInfo) -> JsonValue:
        return _refuse_unless(value, DEFAULT_VAE if info.field_name == "sd_vae" else ALL_LAYERS)


def _refuse_unless(value: JsonValue, neutral: tuple[JsonValue, ...]) -> JsonValue:
    if value is not None and value not in neutral:
        allowed = " or ".join(repr(allowed) for allowed in neutral)
        message = "asks for something that isn't offered here; allowed is {allowed}"
        raise PydanticCustomError("not_offered", message, {"allowed": allowed})
    return value


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
