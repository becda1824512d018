"""Values of AUTOMATIC1111's fields and settings that ask for nothing, of what isn't offered here. Pure.

Its clients send every field that there is, most of them in values without effect and in whatever type their language
made of them. What asks for nothing is accepted; what would change the image is refused by its name; what nobody knows
is accepted and named in a warning. Which fields there are: https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/API
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from pydantic import JsonValue

from easel_server.gateway.refusals import FieldFault
from easel_server.generation.messages import truncate_repr

MAX_NAMED: Final = 10  # unknown fields in a warning, whatever a client sends
MAX_NAME_CHARACTERS: Final = 60

UNIT_SWITCHES: Final = ("enabled", "enable", "is_enabled")
UNIT_PARTS: Final = ("ad_model", "model", "module")  # ADetailer's, and ControlNet's


@dataclass(frozen=True)
class Harmless:
    """Which values of a field ask for nothing, and how that is said."""

    accepts: Callable[[JsonValue], bool]
    allowed: str


def _normalise(value: JsonValue) -> JsonValue:
    """Numbers, booleans and nothing from their texts too; other texts without regard to case."""
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    if text in {"", "none", "null", "false"}:
        return None
    if text == "true":
        return True
    try:
        return float(text)
    except ValueError:
        return text


def is_nothing(value: JsonValue) -> bool:
    """Whether a value says no: absent, false, zero, empty, ``"None"``, or a list or an object of nothing else."""
    if isinstance(value, dict):
        return all(map(is_nothing, value.values()))
    if isinstance(value, list):
        return all(map(is_nothing, value))
    normal = _normalise(value)
    return normal is None or normal == 0


def _is_negative(value: JsonValue) -> bool:
    normal = _normalise(value)
    return isinstance(normal, int | float) and normal < 0


def is_script_off(script: JsonValue) -> bool:
    """Whether an always-on script does nothing: no arguments, its first one (by custom the switch) false, or all of its
    units switched off, as ControlNet's and ADetailer's are. A unit that is off says nothing of those behind it."""
    arguments = script.get("args") if isinstance(script, dict) else script
    if isinstance(arguments, dict):
        return is_nothing(arguments) or is_unit_off(arguments)
    if not isinstance(arguments, list) or not arguments:
        return is_nothing(arguments)
    is_switch = arguments[0] is not None and not isinstance(arguments[0], dict | list)
    return (is_switch and is_nothing(arguments[0])) or all(is_nothing(one) or is_unit_off(one) for one in arguments)


def is_unit_off(unit: JsonValue) -> bool:
    """Whether a unit's switch is off; without one, whether it names no model and no preprocessor."""
    if not isinstance(unit, dict):
        return False
    switches = [unit[name] for name in UNIT_SWITCHES if name in unit]
    parts = [unit[name] for name in UNIT_PARTS if name in unit]
    return is_nothing(switches[0]) if switches else bool(parts) and all(map(is_nothing, parts))


def _only(*values: float | str) -> Harmless:
    """Nothing, and these."""
    return Harmless(
        lambda value: is_nothing(value) or _normalise(value) in [_normalise(one) for one in values],
        "allowed is " + " or ".join(map(repr, values)),
    )


NOTHING: Final = Harmless(is_nothing, "allowed is nothing")
OFF: Final = Harmless(is_nothing, "allowed is false")
ZERO: Final = Harmless(is_nothing, "allowed is 0")
ONE: Final = Harmless(lambda value: value is None or _normalise(value) == 1, "allowed is 1")
AUTOMATIC: Final = _only("Automatic", "None")
NO_SIZE: Final = Harmless(lambda value: is_nothing(value) or _is_negative(value), "allowed is -1")

# Fields that would change the image in ways that aren't offered.
FIELDS: Final[Mapping[str, Harmless]] = {
    "styles": NOTHING,
    "subseed_strength": ZERO,
    "seed_resize_from_h": NO_SIZE,
    "seed_resize_from_w": NO_SIZE,
    "restore_faces": OFF,
    "tiling": OFF,
    "s_min_uncond": ZERO,
    "s_churn": ZERO,
    "script_name": NOTHING,
    "firstpass_image": NOTHING,
}
TEXT_TO_IMAGE_FIELDS: Final[Mapping[str, Harmless]] = FIELDS
IMAGE_TO_IMAGE_FIELDS: Final[Mapping[str, Harmless]] = {
    **FIELDS,
    "initial_noise_multiplier": ONE,
    "latent_mask": NOTHING,
}

# Without effect in any value: there are no files, nothing of the second pass happens while enable_hr is false, no
# second seed is used while subseed_strength is 0, no part of the noise while s_churn is, no arguments without a script.
SENDERS: Final = ("url", "auth")  # which SillyTavern sends along: where, and by which password, it sends this
INERT: Final = frozenset(
    {
        *("save_images", "do_not_save_samples", "do_not_save_grid", "override_settings_restore_afterwards"),
        *("subseed", "seed_enable_extras", "s_tmin", "s_tmax", "script_args", "refiner_switch_at"),
        *("force_task_id", "comments", "id_task", "prompt_styles"),
        *SENDERS,
    }
)
TEXT_TO_IMAGE_INERT: Final = INERT | {
    *("firstphase_width", "firstphase_height", "hr_distilled_cfg", "hr_additional_modules"),
}
# ``image_cfg_scale`` is of models of another kind, ``mask_round`` of masks in an alpha channel.
IMAGE_TO_IMAGE_INERT: Final = INERT | {"image_cfg_scale", "mask_round"}

COLOR_CORRECTION: Final = "img2img_color_correction"

SETTINGS: Final[Mapping[str, Harmless]] = {
    "sd_unet": AUTOMATIC,
    "sd_hypernetwork": NOTHING,
    "CLIP_stop_at_last_layers": _only(1),
    "eta_noise_seed_delta": ZERO,
    "s_churn": ZERO,
    "s_min_uncond": ZERO,
    "s_noise": ONE,
    "eta_ancestral": ONE,
    "eta_ddim": ZERO,
    "initial_noise_multiplier": ONE,
    "inpainting_mask_weight": ONE,
    "img2img_extra_noise": ZERO,
    "img2img_background_color": _only("#ffffff", "#fff", "white"),  # behind transparency, as in input_images.py
    COLOR_CORRECTION: OFF,
    "img2img_fix_steps": OFF,
    "token_merging_ratio": ZERO,
    "token_merging_ratio_img2img": ZERO,
    "always_discard_next_to_last_sigma": OFF,
    "use_old_emphasis_implementation": OFF,
    "use_old_karras_scheduler_sigmas": OFF,
    "use_old_scheduling": OFF,
    "sgm_noise_multiplier": OFF,
    "skip_early_cond": ZERO,
    "k_sched_type": AUTOMATIC,
    "sigma_min": ZERO,
    "sigma_max": ZERO,
    "rho": ZERO,
    "filter_nsfw": OFF,
    "tiling": OFF,
    "face_restoration": OFF,
    "webp_lossless": OFF,
}
VAE: Final = "sd_vae"  # a setting
VAE_CHOICE: Final = "Automatic"  # the one that there is
# Settings of files, pages, previews, tools that aren't asked for here, and memory.
INERT_SETTING: Final = re.compile(
    "(samples_|grid_|outdir_|save_|directories_|live_preview|show_|return_|do_not_|export_|use_original_|n_rows|font|"
    "quicksettings|ui_|img2img_(editor|batch)|face_restoration_|code_former_|upscale|ESRGAN|realesrgan|"
    "interrogate|deepbooru|extra_networks|lora_|sd_checkpoint|sd_vae_|sd_hypernetwork_|memmon|enable_pnginfo|"
    "add_|disable_|token_merging_ratio_hr|s_tmin|s_tmax|randn_source|pad_cond|cond_|enable_(emphasis|batch)|emphasis|"
    "comma_padding|upcast_attn|jpeg_|webp_|notification|control_net_|ad_)"
)

# What a sampler's chance takes of these by default. Other samplers have none of it, and the fields no effect.
CHANCE: Final[Mapping[str, Mapping[str, float]]] = {
    "eta": {"Euler a": 1, "DPM++ 2M SDE": 1, "DPM++ SDE": 1},
    "s_noise": {"Euler a": 1, "DPM++ 2M SDE": 1, "DPM++ SDE": 1},
}


def find_faults(
    given: Mapping[str, JsonValue], known: Mapping[str, Harmless], *, prefix: str = ""
) -> Iterator[FieldFault]:
    """What asks for something that isn't offered, by its name."""
    for name, harmless in known.items():
        if name in given and not harmless.accepts(given[name]):
            yield refuse(prefix + name, given[name], harmless.allowed)


def refuse(name: str, value: JsonValue, allowed: str) -> FieldFault:
    """The fault of a value that asks for something that isn't offered."""
    return FieldFault(name, f"asks for something that isn't offered here; {allowed}; got {truncate_repr(value)}")


def find_vae_faults(settings: Mapping[str, JsonValue], vae: str | None, *, prefix: str = "") -> Iterator[FieldFault]:
    """An autoencoder that isn't the one that runs: the service's ``vae``, or the model's own where that is None."""
    value = settings.get(VAE)
    name = value.strip() if isinstance(value, str) else value
    own = "None" if vae is None else vae
    if name in (None, "", False) or str(name).lower() == VAE_CHOICE.lower():
        return
    if is_nothing(name) if vae is None else name in (vae, PurePosixPath(vae).stem):
        return
    yield refuse(prefix + VAE, value, f"allowed are {VAE_CHOICE!r} and {own!r}, which this service runs")


def find_script_faults(scripts: JsonValue) -> Iterator[FieldFault]:
    """Always-on scripts that are on."""
    named = scripts if isinstance(scripts, dict) else {}
    if not named and not is_nothing(scripts):
        yield refuse("alwayson_scripts", scripts, "allowed is an object of scripts that are off")
    for name, script in named.items():
        if not is_script_off(script):
            yield FieldFault(
                f"alwayson_scripts.{name[:MAX_NAME_CHARACTERS]}",
                "is a script that isn't offered here; leave it out, or switch it off",
            )


def find_chance_faults(given: Mapping[str, JsonValue], sampler: str) -> Iterator[FieldFault]:
    """Values of ``eta`` and ``s_noise`` that would change what this sampler generates; 0 is a warning's."""
    for name, defaults in CHANCE.items():
        default = defaults.get(sampler)
        value = _normalise(given.get(name))
        if default is not None and value not in (None, 0, default):
            yield refuse(name, given[name], f"with {sampler}, allowed are {default:g} and 0")


def find_chance_warnings(given: Mapping[str, JsonValue], sampler: str) -> Iterator[str]:
    """A zero that many clients send for "nothing", where it would take the chance out of a sampler; any other value
    where the sampler is the model's own, which keeps its chance."""
    for name, defaults in CHANCE.items():
        if not sampler and _normalise(given.get(name)) not in (None, 0, 1):
            yield f"{name}: {truncate_repr(given[name])} is without effect unless sampler_name is given"
        if defaults.get(sampler) == 1 and name in given and _normalise(given[name]) == 0:
            yield f"{name}: 0 is taken for not given; {sampler} has its {name} of 1 here"


def find_unknown_warning(names: list[str], *, kind: str) -> Iterator[str]:
    """One sentence that names what nobody knows; ``kind`` is such as "field"."""
    if not names:
        return
    shown = ", ".join(truncate_repr(name[:MAX_NAME_CHARACTERS]) for name in names[:MAX_NAMED])
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    yield f"unknown {kind}{'s' if len(names) > 1 else ''} without effect: {shown}{more}"
