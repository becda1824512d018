"""``<lora:name:0.8>``: how AUTOMATIC1111's prompts ask for adapters, and by which names adapters are found. Pure.

https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#extra-networks
There, a prompt's networks may be anywhere in it, and what is left of it is what the model reads. All patterns take time
linear in the prompt's length.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from easel_contract.add_ons import AdapterConfig

from easel_server.generation.add_ons import AdapterRequest, AdapterUse
from easel_server.generation.messages import truncate_repr

# Anything else in angle brackets is words, as it is there: <3, <a cat>, <embedding:style>.
NETWORK: Final = re.compile(r"<\s*(lora|lyco|lycoris|hypernet)\s*:([^<>]*)>?", re.IGNORECASE)
HYPERNETWORK: Final = "hypernet"
MAX_TEXT_CHARACTERS: Final = 64_000  # longer prompts are refused anyway, whatever they ask for
FILE_NAMES: Final = (".safetensors", ".pt", ".ckpt", ".bin")
_SPACES: Final = re.compile(r"\s+")


class NetworkError(ValueError):
    """A network that can't be asked for so; the message says which, why, and what to write instead."""


class Networks(NamedTuple):
    """What was found of a prompt."""

    prompt: str  # without them
    adapters: tuple[AdapterRequest, ...]


def split_networks(text: str) -> Networks:
    """A prompt, and the adapters that it asks for, in their order. Raises NetworkError.

    Each is taken out of the text and nothing else is changed, but for white space at the ends.
    """
    if "<" not in text or len(text) > MAX_TEXT_CHARACTERS:
        return Networks(text, ())
    adapters = tuple(_read_network(found[0], found[1], found[2]) for found in NETWORK.finditer(text))
    return Networks(NETWORK.sub("", text).strip(), adapters) if adapters else Networks(text, ())


def _read_network(written: str, kind: str, arguments: str) -> AdapterRequest:
    shown = truncate_repr(written)
    if kind.lower() == HYPERNETWORK:
        raise NetworkError(f"has {shown}, and hypernetworks can't be asked for here; leave it out")
    parts = [each.strip() for each in arguments.split(":")]
    named = dict(each.split("=", 1) for each in parts if "=" in each)
    name, *plain = [each for each in parts if "=" not in each] or [""]
    if not written.endswith(">") or not name:
        raise NetworkError(f"has {shown}, which is cut off; write <lora:NAME:WEIGHT>")
    if len(plain) > 2 or set(named) - {"te", "unet"}:
        raise NetworkError(f"has {shown}, of which only a name and a weight are known here; write <lora:{name}:1>")
    text, denoiser = ([*plain, "", ""])[:2]
    weights = [_read_weight(each, shown, name) for each in (named.get("te", text), named.get("unet", denoiser)) if each]
    if len(set(weights)) > 1:
        raise NetworkError(
            f"has {shown}, whose weights of text encoder and denoiser differ; here they are one: write "
            f"<lora:{name}:{write_weight(weights[-1])}>"
        )
    return AdapterRequest(name, weights[0] if weights else None)


def _read_weight(text: str, shown: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        written = truncate_repr(text.strip())
        raise NetworkError(f"has {shown}, whose weight {written} is no number; write <lora:{name}:0.8>") from None


def join_networks(prompt: str, adapters: Iterable[AdapterUse | AdapterRequest]) -> str:
    """The prompt with its adapters, as ``split_networks`` reads them."""
    written = (f"<lora:{use.name}{'' if use.weight is None else f':{write_weight(use.weight)}'}>" for use in adapters)
    return " ".join([*([prompt] if prompt else []), *written])


def write_weight(weight: float) -> str:
    """As people write it: 1, 0.8; in full where that is another number."""
    short = f"{weight:g}"
    return short if float(short) == weight else repr(weight)


def find_network(text: str) -> str | None:
    """What is wrong with a prompt that asks for a network where only words are read."""
    found = NETWORK.search(text) if "<" in text else None
    if found is None:
        return None
    if found[1].lower() == HYPERNETWORK:
        return f"has {truncate_repr(found[0])}, and hypernetworks can't be asked for here; leave it out"
    return f"has {truncate_repr(found[0])}, which isn't read of this text; ask for adapters by `loras` instead"


def build_adapter_finder(adapters: Sequence[AdapterConfig]) -> Callable[[str], AdapterConfig | None]:
    """Finds an adapter as clients say its name: as it is configured; with its file's ending; or in other case, with
    other white space or by its file's name, where only one is meant."""
    exact = {each.name: each for each in adapters}
    loose: dict[str, set[str]] = {}
    for each in adapters:
        for name in {_simplify(each.name), *((_simplify(PurePosixPath(each.file).name),) if each.file else ())}:
            loose.setdefault(name, set()).add(each.name)
    return lambda name: exact.get(name) or exact.get(name.strip()) or _find_only(_simplify(name), loose, exact)


def _find_only(name: str, loose: Mapping[str, set[str]], exact: Mapping[str, AdapterConfig]) -> AdapterConfig | None:
    found = loose.get(name, set())
    return exact[next(iter(found))] if len(found) == 1 else None


def _simplify(name: str) -> str:
    folded = _SPACES.sub(" ", name).strip().casefold()
    return next((folded.removesuffix(ending) for ending in FILE_NAMES if folded.endswith(ending)), folded)
