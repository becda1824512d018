"""ControlNet's units and lists, as AUTOMATIC1111's extension has them.

Its clients send every field that there is. What would change the image and isn't offered is refused by its name.
https://github.com/Mikubill/sd-webui-controlnet/wiki/API
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final

from easel_contract.add_ons import ControlNetConfig
from easel_contract.gateway_config import LimitsConfig
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from easel_server.api.automatic1111.harmless import is_nothing, is_unit_off
from easel_server.gateway.input_images import decode_base64, decode_image, encode_png, flatten
from easel_server.gateway.preprocessing import NONE, PREPROCESSORS, Preprocessor, find_threshold_fault, preprocess
from easel_server.gateway.preprocessing.controls import ControlFit, ControlUnit, check_preprocessor
from easel_server.gateway.refusals import refuse_field
from easel_server.generation.add_ons import ControlMode, ControlPasses, ControlType
from easel_server.generation.messages import MAX_NAMED, truncate_repr

SCRIPTS: Final = ("controlnet", "ControlNet")  # what clients call it
FIELD: Final = "alwayson_scripts.controlnet.args"
VERSION: Final = 2  # of the extension's API
SHOWN_HASH_CHARACTERS: Final = 8
RESIZE_MODES: Final = {
    **{way.value.lower(): way for way in ControlFit},
    **{str(number): way for number, way in enumerate(ControlFit)},
    # As its older versions said it.
    "scale to fit (inner fit)": ControlFit.FILL,
    "envelope (outer fit)": ControlFit.CROP,
    "inner fit (scale to fit)": ControlFit.FILL,
    "outer fit (shrink to fit)": ControlFit.CROP,
}
CONTROL_MODES: Final = {
    **{mode.value.lower(): mode for mode in ControlMode},
    **{str(number): mode for number, mode in enumerate(ControlMode)},
}
UNKNOWN_TYPE: Final = "unknown"  # as its page sends it
TYPES: Final = {each.value.lower(): each for each in ControlType}
PASSES: Final = {each.value.lower(): each for each in ControlPasses}
NUMBERS: Final = ("weight", "guidance_start", "guidance_end", "threshold_a", "threshold_b")
UNSET: Final = -1  # of a threshold, as any below 0: the preprocessor's own
UNUSED_THRESHOLD: Final = 64  # that clients send for whichever preprocessor
# Without effect here: of memory, pages and files.
INERT: Final = frozenset(
    {
        *("enabled", "lowvram", "low_vram", "processor_res", "pixel_perfect", "save_detected_map", "batch_images"),
        *("animatediff_batch", "input_mode", "is_ui", "use_preview_as_input", "generated_image"),
        *("batch_modifiers", "output_dir", "loopback", "guidance", "image_fg", "mask_image_fg"),
    }
)
READ: Final = frozenset(
    {
        *NUMBERS,
        "image",
        "input_image",
        "module",
        "model",
        "resize_mode",
        "control_mode",
        "guessmode",
        "hr_option",
        "union_control_type",
    }
)
# What asks for something else than a control image: nothing of it, or refused by its name.
REFUSED: Final = ("mask", "mask_image", "effective_region_mask", "ipadapter_input", "advanced_weighting")
DETECT_RESOLUTION: Final = 512
MAX_DETECTED: Final = 8
DEPTH: Final = "Depth"  # what configured preprocessors make
CONTROL_TYPES: Final = ("Canny", DEPTH, "Lineart", "MLSD", "Scribble", "SoftEdge", "Tile", "Recolor")


class DetectBody(BaseModel):
    """The body of detect."""

    model_config = ConfigDict(extra="ignore")

    controlnet_module: str = NONE
    controlnet_input_images: list[str] = Field(default_factory=list, max_length=MAX_DETECTED)
    controlnet_images: list[str] = Field(default_factory=list, max_length=MAX_DETECTED)  # as webuiapi says it
    controlnet_processor_res: Annotated[int, Field(ge=-1, le=4096)] = DETECT_RESOLUTION
    controlnet_threshold_a: float = UNSET
    controlnet_threshold_b: float = UNSET


def take_units(scripts: JsonValue) -> tuple[list[tuple[str, Mapping[str, Any]]], dict[str, JsonValue]]:
    """The units that are on, each with what it is called in errors, and the other scripts."""
    named = dict(scripts) if isinstance(scripts, dict) else {}
    units: list[tuple[str, Mapping[str, Any]]] = []
    for script in SCRIPTS:
        content = named.pop(script, None)
        arguments = content.get("args") if isinstance(content, dict) else content
        listed = [arguments] if isinstance(arguments, dict) else arguments if isinstance(arguments, list) else []
        for number, unit in enumerate(listed):
            if is_nothing(unit) or is_unit_off(unit):
                continue
            if not isinstance(unit, dict):
                raise refuse_field(f"{FIELD}[{number}]", f"is {truncate_repr(unit)}, allowed is an object")
            units.append((f"{FIELD}[{number}]", unit))
    return units, named


def read_unit(
    field: str, given: Mapping[str, Any], known: Sequence[ControlNetConfig], preprocessors: Sequence[str]
) -> ControlUnit:
    """A unit; ``preprocessors`` are the configured ones.

    Raises RefusalError, and for a name that there isn't leaves that to the parameters' table.
    """
    module = _find_module(given.get("module"), preprocessors)
    check_preprocessor(f"{field}.module", module, preprocessors)
    for name in REFUSED:
        if not is_nothing(given.get(name)):
            raise refuse_field(f"{field}.{name}", "asks for something that isn't offered here; leave it out")
    numbers = {name: _read_number(f"{field}.{name}", given[name]) for name in NUMBERS if not _is_absent(given, name)}
    if is_nothing(given.get("model")):
        allowed = ", ".join(each.name for each in known[:MAX_NAMED]) or "none, as this service has no ControlNets"
        raise refuse_field(f"{field}.model", f"is missing; a preprocessor alone changes nothing; allowed are {allowed}")
    image, image_field = _read_image(field, given)
    mode = given.get("control_mode")
    if mode is None and given.get("guessmode"):
        mode = ControlMode.CONTROL.value
    return ControlUnit(
        field=field,
        name=_find_name(str(given.get("model") or ""), known),
        image=image,
        image_field=image_field,
        preprocessor=module,
        preprocessor_field="module",
        thresholds=(_choose(module, 0, numbers), _choose(module, 1, numbers)),
        fit=_read_choice(f"{field}.resize_mode", given.get("resize_mode"), RESIZE_MODES, ControlFit.CROP),
        weight=numbers.get("weight", 1.0),
        start=numbers.get("guidance_start", 0.0),
        end=numbers.get("guidance_end", 1.0),
        mode=_read_choice(f"{field}.control_mode", mode, CONTROL_MODES, ControlMode.BALANCED),
        passes=_read_choice(f"{field}.hr_option", given.get("hr_option"), PASSES, ControlPasses.BOTH),
        control_type=_read_type(f"{field}.union_control_type", given.get("union_control_type")),
    )


def _find_module(written: Any, preprocessors: Sequence[str] = ()) -> str:
    """A preprocessor's name, of its alias too: "invert (from white bg & black line)"."""
    if is_nothing(written):
        return NONE
    name = str(written).partition(" (")[0].lower()
    return name if name in PREPROCESSORS else next((each for each in preprocessors if each.lower() == name), name)


def drop_images(scripts: JsonValue) -> JsonValue:
    """Always-on scripts as an answer repeats them, and a wait keeps them."""
    units = {"image", "input_image"}

    def without(value: JsonValue) -> JsonValue:
        if isinstance(value, dict):
            return {name: None if name in units and each else without(each) for name, each in value.items()}
        return [without(each) for each in value] if isinstance(value, list) else value

    return without(scripts)


def find_unit_warnings(units: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """What of the units is accepted and has no effect."""
    for field, given in units:
        if not is_nothing(given.get("module")) and given.get("pixel_perfect") is False and "processor_res" in given:
            yield f"{field}.processor_res: is without effect; control images are made at the image's own size"
        if unknown := [name for name in given if name not in (INERT | READ) and name not in REFUSED]:
            yield f"{field}: unknown fields without effect: {', '.join(map(truncate_repr, unknown[:10]))}"


def _is_absent(given: Mapping[str, Any], name: str) -> bool:
    return given.get(name) is None or given[name] == ""


def _read_number(field: str, written: Any) -> float:
    try:
        number = float(written)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not abs(number) < 1e6 or isinstance(written, bool):  # nor is NaN
        raise refuse_field(field, f"is {truncate_repr(written)}, allowed is a number")
    return number


def _choose(module: str, index: int, numbers: Mapping[str, float]) -> float | None:
    """A threshold; one below 0 stands for the preprocessor's own, and so does what clients send to any, where it
    isn't one."""
    number = numbers.get(NUMBERS[3 + index], UNSET)
    own = PREPROCESSORS[module].thresholds[index : index + 1] if module in PREPROCESSORS else ()
    is_meant = number != UNUSED_THRESHOLD or (bool(own) and own[0].least <= number <= own[0].most)
    return number if number >= 0 and is_meant else None


def _read_choice(field: str, written: Any, choices: Mapping[str, Any], default: Any) -> Any:
    if written is None or written == "":
        return default
    chosen = choices.get(str(written).lower())
    if chosen is None:
        raise refuse_field(field, f"is {truncate_repr(written)}, allowed are {', '.join(choices)}")
    return chosen


def _read_type(field: str, written: Any) -> ControlType | None:
    """Of the control image; None where that isn't said."""
    if written is not None and str(written).lower() == UNKNOWN_TYPE:
        return None
    chosen: ControlType | None = _read_choice(field, written, TYPES, None)
    return chosen


def _read_image(field: str, given: Mapping[str, Any]) -> tuple[bytes | None, str]:
    for name in ("image", "input_image"):
        written = given.get(name)
        if isinstance(written, dict):  # with a mask, as its page sends it
            if not is_nothing(written.get("mask")):
                raise refuse_field(f"{field}.{name}.mask", "asks for something that isn't offered here; leave it out")
            written = written.get("image")
        if is_nothing(written):
            continue
        if not isinstance(written, str):
            raise refuse_field(f"{field}.{name}", f"is {truncate_repr(written)}, allowed is an image as base64")
        return decode_base64(f"{field}.{name}", written, is_prefix_needed=False), name
    return None, "image"


def show_name(config: ControlNetConfig) -> str:
    """As front ends list a model: with a short hash of where it comes from."""
    return f"{config.name} [{config.key[:SHOWN_HASH_CHARACTERS]}]"


def _find_name(written: str, known: Sequence[ControlNetConfig]) -> str:
    """The name, of "name [hash]" too, whatever the hash: it is its list's."""
    if is_nothing(written):
        return ""
    bare = written.rpartition(" [")[0] if written.endswith("]") else written
    names = {each.name.lower(): each.name for each in known}
    return names.get(written.lower(), names.get(bare.lower(), written))


def build_model_list(known: Sequence[ControlNetConfig]) -> dict[str, Any]:
    """The answer of model_list."""
    return {"model_list": [show_name(each) for each in known]}


def build_module_list(preprocessors: Sequence[str], *, is_offered: bool) -> dict[str, Any]:
    """The answer of module_list: what there is, with the configured ones, and what sliders each has."""
    offered = {**PREPROCESSORS, **{name: Preprocessor((DEPTH,)) for name in preprocessors}}
    detail = {
        name: {
            "model_free": False,
            "sliders": [
                {"name": own.name, "value": own.default, "min": own.least, "max": own.most}
                for own in preprocessor.thresholds
            ],
        }
        for name, preprocessor in (offered.items() if is_offered else ())
    }
    return {"module_list": list(detail), "module_detail": detail}


def build_control_types(known: Sequence[ControlNetConfig], preprocessors: Sequence[str]) -> dict[str, Any]:
    """The answer of control_types: preprocessors by what they are for, and the models whose names say so."""
    if not known:
        return {"control_types": {}}
    shown = [show_name(each) for each in known]
    types = {"All": _build_type([*PREPROCESSORS, *preprocessors], shown)}
    for kind in CONTROL_TYPES:
        modules = [NONE, *(name for name, each in PREPROCESSORS.items() if kind in each.kinds)]
        modules += preprocessors if kind == DEPTH else ()
        types[kind] = _build_type(modules, [name for name in shown if _is_for(kind, name)])
    return {"control_types": types}


def _is_for(kind: str, name: str) -> bool:
    """By what its name says; a union network is for all of them."""
    return kind.lower() in name.lower() or "union" in name.lower()


def _build_type(modules: list[str], models: list[str]) -> dict[str, Any]:
    return {
        "module_list": modules,
        "model_list": ["None", *models],
        "default_option": modules[1] if len(modules) > 1 else NONE,
        "default_model": models[0] if models else "None",
    }


def detect(body: DetectBody, limits: LimitsConfig, preprocessors: Sequence[str]) -> dict[str, Any]:
    """The answer of detect: what preprocessors make of images. Takes time: run it in ``Decoders``."""
    module = _find_module(body.controlnet_module)
    if module in (each.lower() for each in preprocessors):
        raise refuse_field(
            "controlnet_module",
            f"is {truncate_repr(module)}, which workers do as part of a job; name it in a unit of one",
        )
    check_preprocessor("controlnet_module", module)
    numbers = {"threshold_a": body.controlnet_threshold_a, "threshold_b": body.controlnet_threshold_b}
    thresholds = (_choose(module, 0, numbers), _choose(module, 1, numbers))
    if (fault := find_threshold_fault(module, thresholds)) is not None:
        raise refuse_field(f"controlnet_{NUMBERS[3 + fault[0]]}", fault[1])
    given = body.controlnet_input_images or body.controlnet_images
    if not given:
        raise refuse_field("controlnet_input_images", "is empty; allowed are images as base64")
    one = partial(_detect_one, module=module, thresholds=thresholds, body=body, limits=limits)
    return {"images": [one(text) for text in given], "info": "Success"}


def _detect_one(
    text: str,
    *,
    module: str,
    thresholds: tuple[float | None, float | None],
    body: DetectBody,
    limits: LimitsConfig,
) -> str:
    field = "controlnet_input_images"
    data = decode_base64(field, text, is_prefix_needed=False)
    image = flatten(decode_image(field, data, max_pixels=limits.max_input_pixels))
    shorter = body.controlnet_processor_res if body.controlnet_processor_res > 0 else min(image.size)
    scale = shorter / min(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size[0] * size[1] > limits.max_input_pixels:
        raise refuse_field("controlnet_processor_res", f"makes {size[0]}x{size[1]} pixels; ask for fewer")
    return base64.b64encode(encode_png(preprocess(module, image.resize(size), thresholds))).decode("ascii")
