"""AUTOMATIC1111's settings, as a request sends them in ``override_settings``: read, refused, or taken without effect.

Values are as lenient as there: numbers may be texts, and an empty text is nothing said. What raises, raises
RefusalError, with the setting's name. Pure.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from easel_contract.gateway_config import Reproducibility
from pydantic import JsonValue

from easel_server.api.automatic1111.harmless import (
    COLOR_CORRECTION,
    INERT_SETTING,
    SETTINGS,
    VAE,
    find_faults,
    find_unknown_warning,
    find_vae_faults,
    is_nothing,
)
from easel_server.gateway.refusals import FieldFault, refuse_field
from easel_server.generation.messages import truncate_repr
from easel_server.generation.parameters import MAX_CLIP_SKIP, ImageFormat
from easel_server.generation.samplers import SAMPLERS

MAX_NUMBER: Final = 1e6  # of a setting; none that means anything is near it
FORMATS: Final = {"png": ImageFormat.PNG, "jpg": ImageFormat.JPEG, "jpeg": ImageFormat.JPEG, "webp": ImageFormat.WEBP}
REPRODUCIBILITY: Final = "reproducibility"
CLIP_SKIP: Final = "CLIP_stop_at_last_layers"
ETA: Final = "eta_ddim"
ADDED_ADAPTER: Final = "sd_lora"
ADDED_WEIGHT: Final = "extra_networks_default_multiplier"
OWN_SETTINGS: Final = (
    *("sd_model_checkpoint", "samples_format", "jpeg_quality", REPRODUCIBILITY),
    *(ADDED_ADAPTER, ADDED_WEIGHT, CLIP_SKIP, ETA, COLOR_CORRECTION),
)

Settings = Mapping[str, JsonValue]  # by their names


def find_settings_faults(settings: Settings, vae: str | None, *, prefix: str = "") -> Iterator[FieldFault]:
    """Settings that would change the image in ways that aren't offered; ``vae`` as of ``GenerationBody.check``."""
    yield from find_vae_faults(settings, vae, prefix=prefix)
    of_others = {name: harmless for name, harmless in SETTINGS.items() if name not in OWN_SETTINGS}
    yield from find_faults(settings, of_others, prefix=prefix)


def find_settings_warnings(settings: Settings) -> Iterator[str]:
    """Settings that nobody knows."""
    unknown = [
        name for name in settings if name not in (*OWN_SETTINGS, *SETTINGS, VAE) and INERT_SETTING.match(name) is None
    ]
    yield from find_unknown_warning(unknown, kind="setting")


def read_added_weight(settings: Settings) -> float | None:
    """That of the adapter which a setting adds."""
    written = settings.get(ADDED_WEIGHT)
    try:
        return None if written is None or written == "" else float(written)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise refuse_field(f"override_settings.{ADDED_WEIGHT}", f"is {truncate_repr(written)}, no number") from None


def read_quality(settings: Settings) -> int | None:
    """In percent, of a format that has one."""
    written = settings.get("jpeg_quality")
    try:
        return None if written is None or written == "" else int(float(written))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        message = f"is {truncate_repr(written)}, allowed are 0 to 100"
        raise refuse_field("override_settings.jpeg_quality", message) from None


def read_reproducibility(settings: Settings) -> Reproducibility | None:
    """A setting of Easel's own."""
    written = settings.get(REPRODUCIBILITY)
    try:
        return Reproducibility(written) if written else None  # type: ignore[arg-type]
    except ValueError:
        message = f"is {truncate_repr(written)}, allowed are {', '.join(Reproducibility)}"
        raise refuse_field(f"override_settings.{REPRODUCIBILITY}", message) from None


def read_clip_skip(clip_skip: JsonValue, settings: Settings) -> int | None:
    """Of a body's field, else of the setting."""
    field, written = "clip_skip", clip_skip
    if is_nothing(written):
        field, written = f"override_settings.{CLIP_SKIP}", settings.get(CLIP_SKIP)
    number = None if is_nothing(written) else _to_number(written)
    if is_nothing(written) or (number is not None and number == int(number)):
        return None if number is None else int(number)
    raise refuse_field(field, f"is {truncate_repr(written)}, allowed are 1 to {MAX_CLIP_SKIP}")


def read_eta(eta: float | None, sampler_name: str, settings: Settings) -> float | None:
    """Of samplers that take one; what others make of it is said by ``find_chance_faults``."""
    sampler = SAMPLERS.get(sampler_name)
    if sampler is None or not sampler.takes_eta:
        return None
    if eta is not None:
        return eta
    written = settings.get(ETA)
    number = None if is_nothing(written) else _to_number(written)
    if number is None and not is_nothing(written):
        raise refuse_field(f"override_settings.{ETA}", f"is {truncate_repr(written)}, allowed are 0 to 1")
    return number


def read_format(settings: Settings) -> ImageFormat | None:
    """By the names that AUTOMATIC1111 gives files."""
    written = str(settings.get("samples_format") or "")
    if not written:
        return None
    if written.lower() not in FORMATS:
        allowed = ", ".join(FORMATS)
        raise refuse_field("override_settings.samples_format", f"is {written[:20]!r}, allowed are {allowed}")
    return FORMATS[written.lower()]


def _to_number(written: JsonValue) -> float | None:
    try:
        number = float(written)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < MAX_NUMBER else None
