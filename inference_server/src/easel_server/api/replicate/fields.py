"""The fields and headers of Replicate's predictions. https://replicate.com/docs/reference/http"""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Final, Literal

from easel_contract.gateway_config import LimitsConfig, Reproducibility
from easel_contract.server_config import Priority
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from easel_server.api.controls import ControlsField
from easel_server.api.enlarging import (
    UPSCALER_DESCRIPTION,
    FactorField,
    HiresField,
    build_enlarge_inputs,
    choose_upscaling,
    echo_factor,
    echo_upscaler,
)
from easel_server.api.fields import (
    MAX_ADAPTERS,
    AdaptersField,
    ApiBody,
    Inert,
    MapsTo,
    PromptField,
    WireInteger,
    WireNumber,
    parse_size,
)
from easel_server.gateway.input_images import Fit, build_input_images, choose_size, decode_base64, decode_image, flatten
from easel_server.gateway.preprocessing.controls import ControlUnit
from easel_server.gateway.refusals import FieldFault, refuse_field, refuse_fields
from easel_server.generation.add_ons import AdapterRequest, UpscalingRequest
from easel_server.generation.messages import truncate_repr
from easel_server.generation.models import GenerationDefaults
from easel_server.generation.parameters import GenerationParameters, ImageFormat
from easel_server.generation.request import InputImages, WebhookTarget
from easel_server.outbound.address import find_address_fault

MAX_URL_CHARACTERS: Final = 2048
MAX_PREVIEWS: Final = 3
MAX_WAIT_SECONDS: Final = 60
MIN_CANCEL_AFTER: Final = timedelta(seconds=1)
MAX_CANCEL_AFTER: Final = timedelta(days=1)
EVENTS: Final = ("start", "completed")

PREFER_PATTERN: Final = re.compile(r"wait(?:\s*=\s*([0-9]{1,6}))?", re.IGNORECASE)
DURATION_PATTERN: Final = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s?)?")

# Replicate's Stable Diffusion models call samplers so.
SCHEDULERS: Final[Mapping[str, str]] = {
    "DDIM": "DDIM",
    "PNDM": "PNDM",
    "K_EULER": "Euler",
    "K_EULER_ANCESTRAL": "Euler a",
    "HeunDiscrete": "Heun",
    "DPMSolverMultistep": "DPM++ 2M",
    "KarrasDPM": "DPM++ 2M Karras",
}

CONTROL_NUMBERS: Final = (1, 2, 3)  # of fields of their own

# Of an image that is only enlarged.
UPSCALING_FIELDS: Final = frozenset(
    {"recipe", "image", "scale", "upscale_factor", "upscaler", "output_format", "output_quality", "reproducibility"}
)
WITHOUT_EFFECT: Final = frozenset(
    {"priority", "previews", "face_enhance", "apply_watermark", "disable_safety_checker", "refine"}
)

OutputFormat = Literal["png", "jpg", "jpeg", "webp"]  # Replicate's own models say jpg
Previews = Annotated[int, Field(ge=0, le=MAX_PREVIEWS)]


def _to_sampler(scheduler: str) -> str | None:
    return SCHEDULERS.get(scheduler, scheduler) or None


def _hide(_: GenerationParameters) -> None:
    return None


def _to_image_format(written: str) -> ImageFormat:
    return ImageFormat.JPEG if written == "jpg" else ImageFormat(written)


class PredictionInput(ApiBody):
    """What to generate, by the names that Replicate's Stable Diffusion models use."""

    PREFIX: ClassVar[str] = "input."
    COMPUTED: ClassVar[Mapping[str, str]] = {"controls": "controlnet", "upscale": "scale"}

    # Of an image that is only enlarged, as Replicate's upscalers call them; before the prompt, which isn't needed then.
    scale: Annotated[FactorField, MapsTo("upscale", echo=echo_factor)] = Field(
        default=None, description="Only enlarge `image`, by so much; without a prompt."
    )
    upscale_factor: FactorField = Field(default=None, description="Another name of scale, which goes first.")
    upscaler: Annotated[str | None, MapsTo("upscale", echo=echo_upscaler)] = Field(
        default=None, description=f"What enlarges `image`. {UPSCALER_DESCRIPTION}"
    )
    prompt: PromptField = None
    negative_prompt: Annotated[str | None, MapsTo("negative_prompt")] = None
    size: str | None = Field(default=None, description='"WIDTHxHEIGHT" in pixels; width and height go first.')
    width: Annotated[WireInteger | None, MapsTo("width_pixels")] = None
    height: Annotated[WireInteger | None, MapsTo("height_pixels")] = None
    num_outputs: Annotated[WireInteger | None, MapsTo("images")] = None
    num_inference_steps: Annotated[WireInteger | None, MapsTo("steps")] = None
    guidance_scale: Annotated[WireNumber | None, MapsTo("guidance_scale")] = None
    seed: Annotated[WireInteger | None, MapsTo("seed")] = None
    output_format: Annotated[OutputFormat | None, MapsTo("image_format", convert=_to_image_format)] = None
    output_quality: Annotated[WireInteger | None, MapsTo("quality_percent")] = Field(
        default=None, description="Of jpg and webp, in percent: 0 to 100. Without effect on png."
    )
    scheduler: Annotated[str | None, MapsTo("sampler", convert=_to_sampler)] = Field(
        default=None, description="A sampler's name, AUTOMATIC1111's or Replicate's."
    )
    image: Annotated[str | None, MapsTo("image_digest", is_input=True)] = Field(
        default=None,
        description="The image to begin with: PNG, JPEG or WebP, as a data: URL, the address of a file in "
        "/v1/files, or any on a host that the service allows.",
    )
    mask: Annotated[str | None, MapsTo("mask_digest", is_input=True)] = Field(
        default=None, description="Where to generate `image` anew: white. Given as `image` is."
    )
    strength: Annotated[WireNumber | None, MapsTo("strength", echo=_hide)] = Field(
        default=None, description="Another name of prompt_strength, which goes first."
    )
    prompt_strength: Annotated[WireNumber | None, MapsTo("strength")] = Field(
        default=None, description="Share of the steps that are taken over `image`; 1 forgets it."
    )
    hires: HiresField = None
    loras: AdaptersField = None
    # As Replicate's models call them, one by one; names of what the service offers, never addresses.
    lora_weights: str | None = Field(default=None, description="An adapter's name.")
    lora_scale: WireNumber | None = Field(default=None, description="The weight of lora_weights.")
    replicate_weights: str | None = Field(default=None, description="Another name of lora_weights, which goes first.")
    extra_lora: str | None = Field(default=None, description="A second adapter's name.")
    extra_lora_scale: WireNumber | None = Field(default=None, description="Its weight.")
    hf_loras: list[str] | None = Field(default=None, max_length=MAX_ADAPTERS, description="Names of adapters.")
    lora_scales: list[WireNumber] | None = Field(
        default=None, max_length=MAX_ADAPTERS, description="Their weights, in their order."
    )
    clip_skip: Annotated[WireInteger | None, MapsTo("clip_skip")] = Field(
        default=None, description="Which layer of CLIP a prompt is taken from, counted from the last: 1 to 12."
    )
    eta: Annotated[WireNumber | None, MapsTo("eta")] = Field(
        default=None, description="How much chance is in each step of DDIM: 0 to 1."
    )
    # One by its name, with control_image; or several as a list; or by Replicate's models' numbered fields.
    controlnet: str | ControlsField = Field(
        default=None, description="A ControlNet's name, whose image is `control_image`; or several with theirs."
    )
    control_image: str | None = Field(default=None, description="The control image, given as `image` is.")
    controlnet_conditioning_scale: WireNumber | None = Field(default=None, description="Weight of `controlnet`.")
    controlnet_1: str | None = Field(default=None, description="A ControlNet's name, or none.")
    controlnet_1_image: str | None = Field(default=None, description="Its control image, given as `image` is.")
    controlnet_1_conditioning_scale: WireNumber | None = Field(default=None, description="Its weight.")
    controlnet_1_start: WireNumber | None = None
    controlnet_1_end: WireNumber | None = None
    controlnet_2: str | None = Field(default=None, description="A ControlNet's name, or none.")
    controlnet_2_image: str | None = Field(default=None, description="Its control image, given as `image` is.")
    controlnet_2_conditioning_scale: WireNumber | None = Field(default=None, description="Its weight.")
    controlnet_2_start: WireNumber | None = None
    controlnet_2_end: WireNumber | None = None
    controlnet_3: str | None = Field(default=None, description="A ControlNet's name, or none.")
    controlnet_3_image: str | None = Field(default=None, description="Its control image, given as `image` is.")
    controlnet_3_conditioning_scale: WireNumber | None = Field(default=None, description="Its weight.")
    controlnet_3_start: WireNumber | None = None
    controlnet_3_end: WireNumber | None = None
    reproducibility: Annotated[Reproducibility | None, MapsTo("reproducibility")] = Field(
        default=None, description="Close, or Exact: the same bytes whatever is generated beside it."
    )
    priority: Priority | None = Field(default=None, description="Which waiting jobs go first.")
    previews: Previews | None = Field(default=None, description="Unfinished images on the way.")
    # What Replicate's Stable Diffusion models have besides: accepted in values that ask for nothing.
    refine: Literal["no_refiner"] | None = None
    face_enhance: Annotated[bool | None, Inert((False,), "no faces are restored here")] = None
    apply_watermark: Annotated[bool | None, Inert((False,), "no watermark is added here")] = None
    disable_safety_checker: Annotated[
        bool | None, Inert((False,), "this service chooses what becomes of images that the model's checker flags")
    ] = None
    # Of a refiner that there isn't: without effect.
    refine_steps: JsonValue = None
    high_noise_frac: JsonValue = None

    def given(self) -> dict[str, Any]:
        """As of any body, and what several fields make: ``size``, which is two parameters, and adapters. Raises
        RefusalError for a size that can't be read."""
        if self.is_upscaling:
            return choose_upscaling(super().given(), self._to_upscaling())
        width, height = self.parse_size()
        sides = {"width_pixels": width, "height_pixels": height}
        values = {name: pixels for name, pixels in sides.items() if pixels is not None} | super().given()
        named = self._list_named_adapters()
        return values | ({"adapters": (*(self.loras or ()), *named)} if named else {})

    @property
    def is_upscaling(self) -> bool:
        """Whether an image is only enlarged: by fields of that, or as a recipe says."""
        return self._to_upscaling() is not None or (self.recipe is not None and "upscale" in self.recipe.given)

    def _to_upscaling(self) -> UpscalingRequest | None:
        factor = self.upscale_factor if self.scale is None else self.scale
        if factor is None and self.upscaler is None:
            return None
        return UpscalingRequest(factor=factor, upscaler=self.upscaler)

    def check_upscaling(self) -> None:
        """Raise RefusalError for what means nothing for an image that is only enlarged."""
        if not self.is_upscaling:
            return
        said = sorted(name for name in self.model_fields_set if getattr(self, name) is not None)
        if lost := [name for name in said if name not in UPSCALING_FIELDS and name not in WITHOUT_EFFECT]:
            fault = "means nothing for an image that is only enlarged; leave it out, or scale and upscaler"
            raise refuse_fields(*(FieldFault(f"{self.PREFIX}{name}", fault) for name in lost))

    @classmethod
    def echo(cls, parameters: GenerationParameters) -> dict[str, Any]:
        """As of any body; of an image that was only enlarged, what that was done by."""
        echoed = super().echo(parameters)
        if parameters.upscale is None:
            return echoed
        return {name: value for name, value in echoed.items() if name in UPSCALING_FIELDS}

    def _list_named_adapters(self) -> tuple[AdapterRequest, ...]:
        """Those of fields of their own; a weight without a name is of none."""
        scales = (*(self.lora_scales or ()), *[None] * len(self.hf_loras or ()))
        pairs = [
            (self.lora_weights or self.replicate_weights, self.lora_scale),
            (self.extra_lora, self.extra_lora_scale),
            *zip(self.hf_loras or (), scales, strict=False),
        ]
        return tuple(AdapterRequest(name, weight) for name, weight in pairs if name)

    @property
    def has_controls(self) -> bool:
        """Whether any field may ask for a ControlNet."""
        return any(name.startswith("control") for name in self.model_fields_set)

    def list_image_texts(self) -> Iterator[tuple[str, str]]:
        """Fields that hold images, as errors call them, and what is written there."""
        numbered = (f"controlnet_{number}_image" for number in CONTROL_NUMBERS)
        for name in ("image", "mask", "control_image", *numbered):
            if text := getattr(self, name):
                yield f"{self.PREFIX}{name}", text
        for number, one in enumerate(self.controlnet if isinstance(self.controlnet, list) else ()):
            if one.image:
                yield f"{self.PREFIX}controlnet[{number}].image", one.image

    def list_controls(self) -> list[ControlUnit]:
        """The ControlNets of all its fields. Run it in ``Decoders``, since images are read. Raises RefusalError."""
        if isinstance(self.controlnet, str):
            listed = [self._build_unit("controlnet", "control_image", "controlnet_conditioning_scale")]
        else:
            listed = [one.to_unit(f"input.controlnet[{number}]") for number, one in enumerate(self.controlnet or ())]
            if self.control_image is not None:
                raise refuse_field("input.control_image", "means nothing without the ControlNet's name in controlnet")
        numbered = [f"controlnet_{number}" for number in CONTROL_NUMBERS]
        return listed + [
            self._build_unit(name, f"{name}_image", f"{name}_conditioning_scale", f"{name}_start", f"{name}_end")
            for name in numbered
            if getattr(self, name) not in (None, "", "none")
        ]

    def _build_unit(self, name: str, image: str, weight: str, start: str = "", end: str = "") -> ControlUnit:
        written = getattr(self, image)
        given = {"weight": weight, "start": start, "end": end}
        numbers = {own: getattr(self, field) for own, field in given.items() if field}
        return ControlUnit(
            field="input",
            name=getattr(self, name),
            image=None if written is None else decode_base64(f"input.{image}", written, is_prefix_needed=True),
            image_field=image,
            **{own: number for own, number in numbers.items() if number is not None},
        )

    def parse_size(self) -> tuple[int | None, int | None]:
        """Width and height in pixels, None where the choice is ours. Raises RefusalError if ``size`` can't be read."""
        width, height = self.recipe_size if self.size is None else parse_size("input.size", self.size)
        return self.width or width, self.height or height


class PredictionBody(BaseModel):
    """The body of POST and PUT."""

    model_config = ConfigDict(extra="forbid")

    input: PredictionInput
    version: str | None = None  # the served model's name; Replicate's clients need one
    model: str | None = None
    webhook: str | None = None
    webhook_events_filter: list[Literal["start", "output", "logs", "completed"]] | None = Field(
        default=None,
        description="Of start and completed, which are sent. output and logs are accepted and never sent: all images "
        "come at once, with completed, and progress is at urls.stream.",
    )
    stream: bool | None = Field(default=None, description="Without effect: every prediction has events at urls.stream.")

    def to_webhook(self, *, is_signing_configured: bool) -> WebhookTarget | None:
        """Where to send events. Raises RefusalError for no address, or if nothing could sign."""
        if self.webhook is None:
            return None
        if not is_signing_configured:
            raise refuse_field(
                "webhook",
                "can't be used: this service has no signing secret; whoever runs it sets "
                "gateway.webhook.signingSecretName (EASEL_WEBHOOK_SECRET outside Kubernetes)",
            )
        _check_url(self.webhook)
        chosen = EVENTS if self.webhook_events_filter is None else self.webhook_events_filter
        events = tuple(event for event in EVENTS if event in chosen)
        if chosen and not events:
            raise refuse_field(
                "webhook_events_filter",
                f"is {truncate_repr(chosen)}, of which nothing would be sent; add start or completed",
            )
        return WebhookTarget(url=self.webhook, events=events)


def _check_url(url: str) -> None:
    if len(url) > MAX_URL_CHARACTERS:
        raise refuse_field("webhook", f"has {len(url)} characters, at most {MAX_URL_CHARACTERS} are allowed")
    if (fault := find_address_fault(url)) is not None:
        raise refuse_field(
            "webhook", f"is {truncate_repr(url)}, which {fault}; allowed is an absolute http:// or https:// URL"
        )


def parse_wait_seconds(prefer: str) -> int:
    """Seconds of ``Prefer: wait=n``; plain ``wait`` is the maximum; 0 without. Raises RefusalError.

    https://www.rfc-editor.org/rfc/rfc7240
    """
    for preference in prefer.split(","):
        match = PREFER_PATTERN.fullmatch(preference.strip())
        if match is None:
            continue
        seconds = int(match[1]) if match[1] else MAX_WAIT_SECONDS
        if not 1 <= seconds <= MAX_WAIT_SECONDS:
            raise refuse_field("Prefer", f"waits {seconds} s, allowed are 1 to {MAX_WAIT_SECONDS}")
        return seconds
    return 0


def parse_cancel_after(text: str | None) -> timedelta | None:
    """The time of ``Cancel-After: 90``, ``90s``, ``2m`` or ``1h30m``; None without, or empty. Raises RefusalError.

    https://replicate.com/docs/topics/predictions/lifecycle
    """
    if not text:
        return None
    match = DURATION_PATTERN.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise refuse_field(
            "Cancel-After", f'is {truncate_repr(text)}, allowed are seconds, or a duration such as "30s" or "1h30m"'
        )
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    duration = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if not MIN_CANCEL_AFTER <= duration <= MAX_CANCEL_AFTER:
        allowed = f"{MIN_CANCEL_AFTER.total_seconds():.0f} s to {MAX_CANCEL_AFTER.total_seconds() / 3600:.0f} h"
        raise refuse_field("Cancel-After", f"is {truncate_repr(text)}, allowed are {allowed}")
    return duration


def build_prediction_inputs(
    body: PredictionInput, defaults: GenerationDefaults, limits: LimitsConfig
) -> InputImages | None:
    """``input.image`` and ``input.mask``, or None if there are none. Takes time: run it in ``Decoders``.

    Raises RefusalError.
    """
    names = body.field_names()
    image_name, mask_name = names["image_digest"], names["mask_digest"]
    if body.image is None:
        if body.mask is not None:
            raise refuse_field(mask_name, f"means nothing without {image_name}")
        return None

    def decode(field: str, data: bytes) -> Image.Image:
        return decode_image(field, data, max_pixels=limits.max_input_pixels)

    def read(field: str, text: str) -> bytes:
        return decode_base64(field, text, is_prefix_needed=True)

    if body.is_upscaling:
        return build_enlarge_inputs(image_name, read(image_name, body.image), limits)
    original = read(image_name, body.image)
    image, mask = decode(image_name, original), None
    if body.mask is not None:
        mask = flatten(decode(mask_name, read(mask_name, body.mask)))
    size = choose_size(image.size, body.parse_size(), names=names, defaults=defaults, limits=limits)
    return build_input_images({"image": image, "mask": mask}, size, Fit.CROP, original=original)
