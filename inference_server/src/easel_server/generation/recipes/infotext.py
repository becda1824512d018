"""An image's parameters as the text that AUTOMATIC1111's web UI writes and image tools read, and back. Pure.

    a cat                                     the prompt, in as many lines as it has
    Negative prompt: a dog                    and so on, until the last line
    Steps: 4, Sampler: DPM++ 2M, Schedule type: Karras, Seed: 7, Size: 64x64

A value with a comma, a colon or a line break is written as a JSON string. A prompt that has such lines itself can't be
told from the others: ``recipe.py`` is what is exact.
https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#png-info
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from easel_server.generation.add_ons import (
    AdapterRequest,
    ControlMode,
    ControlPasses,
    ControlType,
    ControlUse,
    HiresRequest,
    find_hires_size,
)
from easel_server.generation.filling.enlarging import LATENT
from easel_server.generation.filling.table import PARAMETERS
from easel_server.generation.parameters import SIDE_STEP_PIXELS, GenerationParameters
from easel_server.generation.prompts.networks import NetworkError, Networks, join_networks, split_networks
from easel_server.generation.samplers import join_sampler

NEGATIVE: Final = "Negative prompt:"
MIN_PAIRS: Final = 3  # that make a line the last one, and not the prompt's
MAX_PAIRS: Final = 200  # that are read
_PAIR: Final = re.compile(r'\s*(\w[\w /-]{0,80}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_SIZE: Final = re.compile(r"([0-9]{1,5})x([0-9]{1,5})")
LORA_HASHES: Final = "Lora hashes"  # NAME: HASH of each adapter
LORA_HASH_CHARACTERS: Final = 12
# What is said of the image besides its parameters, without which it is the same.
FACTS: Final = frozenset(
    {LORA_HASHES, "Model", "Model hash", "VAE", "VAE hash", "Version", "Diffusers", "Torch", "Engine"}
)
CONTROL_NET: Final = "ControlNet"
CONTROL_NUMBERS: Final = {"Weight": "weight", "Guidance Start": "start", "Guidance End": "end"}
UNION_TYPE: Final = "Union Control Type"  # likewise
HR_OPTION: Final = "Hr Option"  # in which passes it counts, as the extension displays its field
_CONTROL_NAME: Final = re.compile(r"ControlNet [0-9]{1,2}")
_NUMBER: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{0,17})?")
_HASH: Final = re.compile(r" \[[0-9a-f]{4,64}\]$")  # of a model, behind its name
_FACTOR: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,6})?")
HIRES: Final = "Hires upscale"  # by which factor
HIRES_SIZE: Final = "Hires resize"  # WIDTHxHEIGHT; 0 for a side that follows from the other
HIRES_NAMES: Final = frozenset({HIRES, HIRES_SIZE, "Hires upscaler", "Hires steps"})
NUMBERS: Final = {
    "Steps": "steps",
    "CFG scale": "guidance_scale",
    "Seed": "seed",
    "Denoising strength": "strength",
    "Reproducibility": "reproducibility",
    "Clip skip": "clip_skip",
    "Eta DDIM": "eta",
}


TEXT_NAMES: Final = (
    FACTS
    | HIRES_NAMES
    | {
        *NUMBERS,
        *("Prompt", "Negative prompt", "Sampler", "Schedule type", "Size-1", "Size-2"),
    }
)


@dataclass(frozen=True)
class Infotext:
    """What was read of a text."""

    pairs: Mapping[str, str]  # by the text's own names, as AUTOMATIC1111 gives them: Size is two
    given: Mapping[str, Any]  # by the names of GenerationParameters, still as texts where they are numbers
    unknown: tuple[str, ...]  # names that say something of the image and mean nothing here
    adapters: tuple[AdapterRequest, ...] = ()


def build_metadata(parameters: GenerationParameters, facts: Mapping[str, object]) -> str:
    """An image's parameters as text.

    ``facts`` holds what parameters alone don't say, such as the model; a fact of a parameter's name stands in its place
    (the seed of this image, the sampler that was really used).
    """
    pairs: dict[str, object] = _describe_enlarging(parameters)
    for row in PARAMETERS if parameters.upscale is None else ():
        if row.metadata is not None:
            pairs[row.metadata.name] = facts.get(row.metadata.name, row.metadata.write(parameters))
            pairs[row.metadata.followed_by] = facts.get(row.metadata.followed_by)
    pairs |= {f"{CONTROL_NET} {number}": _write_control(use) for number, use in enumerate(parameters.controls)}
    if (hires := parameters.hires) is not None:
        pairs |= {"Hires upscaler": hires.upscaler, "Hires steps": hires.steps}
    written = (f"{name}: {_quote(value)}" for name, value in (pairs | dict(facts)).items() if value is not None)
    negative = [f"{NEGATIVE} {parameters.negative_prompt}"] if parameters.negative_prompt else []
    return "\n".join([join_networks(parameters.prompt, parameters.adapters), *negative, ", ".join(written)])


def write_hashes(hashes: Mapping[str, str]) -> str:
    """Of adapters, by name, as AUTOMATIC1111 writes them: each the beginning of the SHA-256 of its tensors' bytes.

    Those are a file's without its header, which training tools change after the training.
    """
    return ", ".join(f"{name}: {whole[:LORA_HASH_CHARACTERS]}" for name, whole in hashes.items())


def _describe_enlarging(parameters: GenerationParameters) -> dict[str, object]:
    """Of an image that was only enlarged, as AUTOMATIC1111 says it: nothing of a prompt."""
    upscale = parameters.upscale
    if upscale is None:
        return {}
    pairs: dict[str, object] = {
        "Size": f"{upscale.width_pixels}x{upscale.height_pixels}",
        "Postprocess upscale to": f"{upscale.width_pixels}x{upscale.height_pixels}",
        "Postprocess upscaler": upscale.upscaler,
    }
    if upscale.second is not None:
        pairs |= {"Postprocess upscaler 2": upscale.second, "Postprocess upscaler 2 visibility": upscale.second_share}
    return pairs


def read_infotext(text: str) -> Infotext:
    """What a text says, whoever wrote it; what isn't there isn't given."""
    *lines, last = text.strip().split("\n")
    found = _PAIR.findall(last)[:MAX_PAIRS]
    if len(found) < MIN_PAIRS:
        lines, found = [*lines, last], []
    start = next((number for number, line in enumerate(lines) if line.strip().startswith(NEGATIVE)), len(lines))
    negative = "\n".join(lines[start:]).strip().removeprefix(NEGATIVE).strip()
    written = {name: _unquote(value.strip()) for name, value in found}
    prompt, adapters = _split("\n".join(lines[:start]).strip())
    given: dict[str, Any] = {"prompt": prompt}
    if negative:
        given["negative_prompt"] = negative
    given |= {NUMBERS[name]: value for name, value in written.items() if name in NUMBERS}
    if (sampler := written.get("Sampler")) and (joined := join_sampler(sampler, written.get("Schedule type"))):
        given["sampler"] = joined
    pairs = {"Prompt": join_networks(prompt, adapters), "Negative prompt": negative, **written}
    controls = [value for name, value in written.items() if _CONTROL_NAME.fullmatch(name)]
    if controls:
        given["controls"] = tuple(_read_control(text) for text in controls)
    if size := _SIZE.fullmatch(written.get("Size", "")):
        given["width_pixels"], given["height_pixels"] = size[1], size[2]
        del pairs["Size"]
        pairs |= {"Size-1": size[1], "Size-2": size[2]}
    if HIRES_NAMES & written.keys():
        # It is that pass's strength. A text that doesn't say enough of the pass asks for none.
        strength = given.pop("strength", None)
        given |= _read_hires(written, size, strength)
    known = {name for name in pairs if name in TEXT_NAMES or _CONTROL_NAME.fullmatch(name)}
    return Infotext(pairs, given, tuple(name for name in pairs if name not in known), adapters)


def _split(prompt: str) -> Networks:
    """As a prompt is read; one whose networks can't be read stays as it is, to be refused with what is wrong."""
    try:
        return split_networks(prompt)
    except NetworkError:
        return Networks(prompt, ())


def _write_control(use: ControlUse) -> str:
    """As AUTOMATIC1111's extension does. What its image was made from isn't known here any more."""
    optional = {
        HR_OPTION: None if use.passes is ControlPasses.BOTH else use.passes.value,
        UNION_TYPE: None if use.control_type is None else use.control_type.value,
    }
    said = {
        "Module": use.preprocessor or "none",
        "Model": use.name,
        "Weight": use.weight,
        "Guidance Start": use.start,
        "Guidance End": use.end,
        "Control Mode": use.mode.value,
        **optional,
    }
    return ", ".join(f"{name}: {value}" for name, value in said.items() if value is not None)


def _read_control(text: str) -> dict[str, Any]:
    """A ControlNet whose image the text doesn't hold."""
    said = {name: value.strip() for name, value in _PAIR.findall(text)}
    modes, passes = ({each.value: each for each in kind} for kind in (ControlMode, ControlPasses))
    numbers = {own: said[name] for name, own in CONTROL_NUMBERS.items() if _NUMBER.fullmatch(said.get(name, ""))}
    name = _HASH.sub("", said.get("Model", ""))
    choices = {
        "mode": modes.get(said.get("Control Mode", ""), ControlMode.BALANCED),
        "passes": passes.get(said.get(HR_OPTION, ""), ControlPasses.BOTH),
        "control_type": next((each for each in ControlType if each.value == said.get(UNION_TYPE)), None),
    }
    return {"name": name, "image_digest": "", **choices, **{own: float(number) for own, number in numbers.items()}}


def _read_hires(
    written: Mapping[str, str], size: "re.Match[str] | None", strength: str | None
) -> dict[str, Mapping[str, Any]]:
    """The second pass by the names of ``HiresPass``; empty if its size isn't said."""
    resized = _SIZE.fullmatch(written.get(HIRES_SIZE, ""))
    factor = _FACTOR.fullmatch(written.get(HIRES, ""))
    if size is None or (resized is None and factor is None):
        return {}
    asked = HiresRequest(
        width_pixels=int(resized[1]) or None if resized else None,
        height_pixels=int(resized[2]) or None if resized else None,
        factor=float(factor[0]) if factor else None,
    )
    first = max(1, int(size[1])), max(1, int(size[2]))
    width, height = find_hires_size(first, asked, SIDE_STEP_PIXELS)
    hires = {"width_pixels": width, "height_pixels": height, "upscaler": written.get("Hires upscaler", LATENT)}
    steps = written.get("Hires steps", "0")
    said = {"steps": None if steps == "0" else steps, "strength": strength}
    return {"hires": hires | {name: value for name, value in said.items() if value is not None}}


def _quote(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ',:\n"') else text


def _unquote(text: str) -> str:
    if len(text) < 2 or not (text.startswith('"') and text.endswith('"')):
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        return text
