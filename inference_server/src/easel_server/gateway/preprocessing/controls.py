"""What clients of all APIs ask of ControlNets, and its images as a worker takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from io import BytesIO

from easel_contract.gateway_config import LimitsConfig
from PIL import Image, ImageOps

from easel_server.gateway.input_images import RequestedSize, Size, decode_image, encode_lossless, flatten
from easel_server.gateway.preprocessing import NONE, PREPROCESSORS, find_threshold_fault, preprocess
from easel_server.gateway.refusals import FieldFault, refuse_field, refuse_fields
from easel_server.generation.add_ons import ControlMode, ControlPasses, ControlRequest, ControlType
from easel_server.generation.messages import truncate_repr
from easel_server.generation.models import GenerationDefaults
from easel_server.generation.parameters import bound_side, check_side
from easel_server.generation.request import InputImages


class ControlFit(StrEnum):
    """What becomes of a control image whose proportions differ, by AUTOMATIC1111's names."""

    STRETCH = "Just Resize"
    CROP = "Crop and Resize"
    FILL = "Resize and Fill"


@dataclass(frozen=True)
class ControlUnit:
    """A ControlNet as a client asks for it. ``field`` is what its API calls it, before its own fields."""

    field: str
    name: str
    image: bytes | None  # encoded; None: the image to begin with
    image_field: str = "image"
    preprocessor: str = NONE
    preprocessor_field: str = "preprocessor"
    thresholds: tuple[float | None, float | None] = (None, None)
    threshold_fields: tuple[str, str] = ("threshold_a", "threshold_b")
    fit: ControlFit = ControlFit.CROP
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mode: ControlMode = ControlMode.BALANCED
    passes: ControlPasses = ControlPasses.BOTH
    control_type: ControlType | None = None  # of the image, for a union network; None: what the preprocessor makes

    @property
    def own_preprocessor(self) -> str:
        """What the gateway does to its image; one with weights is the worker's work."""
        return self.preprocessor if self.preprocessor in PREPROCESSORS else NONE


def check_preprocessor(field: str, name: str, configured: Sequence[str] = ()) -> None:
    """Raise RefusalError for one that isn't offered, with what there is; ``configured`` are those with weights."""
    if name not in PREPROCESSORS and name not in configured:
        raise refuse_field(
            field,
            f"is {truncate_repr(name)}, which isn't offered here; allowed are "
            f"{', '.join((*PREPROCESSORS, *configured))}, or send the control image itself with {NONE}",
        )


def check_units(units: Sequence[ControlUnit], limits: LimitsConfig, field: str, configured: Sequence[str]) -> None:
    """What can be said before any image is decoded. Raises RefusalError."""
    if len(units) > limits.max_controls:
        raise refuse_field(field, f"asks for {len(units)} ControlNets, allowed are {limits.max_controls}")
    for unit in units:
        check_preprocessor(f"{unit.field}.{unit.preprocessor_field}", unit.preprocessor, configured)
        if (fault := find_threshold_fault(unit.preprocessor, unit.thresholds)) is not None:
            raise refuse_field(f"{unit.field}.{unit.threshold_fields[fault[0]]}", fault[1])


def choose_control_size(
    requested: RequestedSize, *, names: Mapping[str, str], defaults: GenerationDefaults, limits: LimitsConfig
) -> Size:
    """The size of an image that begins with a text: as requested, else the model's own. Raises RefusalError."""
    step = defaults.traits.size_step_pixels
    sides = (
        ("width_pixels", requested[0], defaults.width_pixels, limits.max_width_pixels),
        ("height_pixels", requested[1], defaults.height_pixels, limits.max_height_pixels),
    )
    chosen = [bound_side(own, most, step) if given is None else given for _, given, own, most in sides]
    faults = [
        FieldFault(names[name], fault)
        for (name, _, _, most), pixels in zip(sides, chosen, strict=True)
        if (fault := check_side(pixels, most, step)) is not None
    ]
    if faults:
        raise refuse_fields(*faults)
    return chosen[0], chosen[1]


def add_control_images(
    units: Sequence[ControlUnit], inputs: InputImages | None, size: Size, limits: LimitsConfig
) -> tuple[InputImages, tuple[ControlRequest, ...]]:
    """The inputs with the control images, of exactly this size, and what the job says of them.

    Takes time and memory: run it in ``Decoders``. Raises RefusalError.
    """
    encoded, requests = [], []
    inputs = inputs or InputImages(width_pixels=size[0], height_pixels=size[1], images={})
    for unit in units:
        image = fit_control(_open(unit, inputs, limits), size, unit.fit)
        encoded.append(encode_lossless(preprocess(unit.own_preprocessor, image, unit.thresholds)))
    inputs = replace(inputs, controls=tuple(encoded))
    for unit, digest in zip(units, inputs.control_digests, strict=True):
        requests.append(
            ControlRequest(
                unit.name,
                digest,
                unit.weight,
                unit.start,
                unit.end,
                unit.mode,
                unit.passes,
                unit.control_type,
                PREPROCESSORS[unit.preprocessor].makes if unit.preprocessor in PREPROCESSORS else ControlType.DEPTH,
                "" if unit.preprocessor in PREPROCESSORS else unit.preprocessor,
            )
        )
    return inputs, tuple(requests)


def _open(unit: ControlUnit, inputs: InputImages, limits: LimitsConfig) -> Image.Image:
    field = f"{unit.field}.{unit.image_field}"
    if unit.image is not None:
        return flatten(decode_image(field, unit.image, max_pixels=limits.max_input_pixels))
    begun = inputs.images.get("image")
    if begun is None:
        raise refuse_field(field, "is missing: a ControlNet needs a control image, or an image to begin with")
    return Image.open(BytesIO(begun)).convert("RGB")


def fit_control(image: Image.Image, size: Size, way: ControlFit) -> Image.Image:
    """A control image at exactly this size."""
    if image.size == size:
        return image
    resample = Image.Resampling.LANCZOS
    if way is ControlFit.CROP:
        return ImageOps.fit(image, size, resample)
    if way is ControlFit.FILL:
        return ImageOps.pad(image, size, resample, color=_find_border(image))
    return image.resize(size, resample)


def _find_border(image: Image.Image) -> tuple[int, ...]:
    import numpy as np  # noqa: PLC0415  # a gateway starts without it

    pixels = np.asarray(image)
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    return tuple(int(value) for value in np.median(np.concatenate(edges), axis=0))
