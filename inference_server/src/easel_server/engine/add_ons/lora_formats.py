"""A LoRA's file as weights for the layers of a loaded pipeline, whichever trainer wrote it.

What tensors are called is translated by diffusers' own converters (``lora_state_dict`` of the pipeline's class), which
read sd-scripts' (Kohya), x-flux's (XLabs), Black Forest Labs', ComfyUI's and their own forms; peft isn't needed. What
would change an image otherwise than the file says is refused by name: nothing of a file is left out in silence.

Scales: a layer adds ``up(down(x)) * weight * alpha / rank``; a file without alpha means the rank. The converters give
alphas apart, by names of their own (``_get_alpha_name`` there), so each is looked up by its layer's.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import torch
from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin
from diffusers.utils.state_dict_utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from safetensors import SafetensorError, safe_open

METADATA: Final = "lora_adapter_metadata"  # the header's key under which diffusers keeps peft's configuration
TEXT: Final = "text_encoder"
ALLOWED: Final = "allowed are LoRAs for linear and convolution layers, as safetensors"
PICKLE_SIGNS: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
SHOWN_CHARACTERS: Final = 40
LEAST_DIMENSIONS: Final = 2  # of a layer's halves
HEADER_LENGTH_BYTES: Final = 8  # of a safetensors file, before its header
MAX_NAMED: Final = 3  # of a file's tensors, in a message

# By a part of a tensor's name: what kind of file has it.
UNSUPPORTED: Final[Mapping[str, str]] = {
    "hada_w": "a LoHa (LyCORIS)",
    "lokr_w": "a LoKr (LyCORIS)",
    "oft_": "an OFT (LyCORIS)",
    ".on_input": "an IA3 (LyCORIS)",
    ".b1.weight": "a GLoRA (LyCORIS)",
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "lora_mid.": "a LoCon with a Tucker decomposition",
    ".w_norm": "LyCORIS weights of norms",
    "lora_controlnet": "a Control LoRA",
    "query_norm.scale": "a Control LoRA",
    ".norm_q.": "a Control LoRA",
    "emb_params": "an embedding (textual inversion)",
    "clip_l": "an embedding (textual inversion)",
    "model.diffusion_model.": "a whole model",
    "first_stage_model.": "a whole model",
}
IN_FULL: Final = (".diff", ".diff_b")  # differences of whole layers; harmless where they are zeros


class AdapterFileError(Exception):
    """The file can't be used with this model; the message says why, as the end of a sentence that names the file."""


@dataclass(frozen=True)
class LoraLayer:
    """What is added to one layer: ``down`` is [rank, in, …], ``up`` [out, rank, …], of the layer's dtype."""

    down: torch.Tensor
    up: torch.Tensor
    bias: torch.Tensor | None  # [out], within what is scaled
    alpha: float
    divisor: float  # the rank, or its root (https://arxiv.org/abs/2312.03732)

    def scale(self, weight: float) -> float:
        """By which what it adds is multiplied, in peft's order of operations."""
        return weight * self.alpha / self.divisor

    def to(self, device: torch.device) -> "LoraLayer":
        """On a device."""
        bias = None if self.bias is None else self.bias.to(device)
        return replace(self, down=self.down.to(device), up=self.up.to(device), bias=bias)

    @property
    def size_bytes(self) -> int:
        """Of its tensors."""
        tensors = [self.down, self.up, *([] if self.bias is None else [self.bias])]
        return sum(each.numel() * each.element_size() for each in tensors)


@dataclass(frozen=True)
class LoraWeights:
    """A LoRA that fits to a pipeline: its layers by part of the pipeline ("unet", "text_encoder", …) and name there."""

    parts: Mapping[str, Mapping[str, LoraLayer]]
    digest: str  # of the file's content, "sha256:…"
    tensors_hash: str  # of what is behind the header, by which AUTOMATIC1111 and sd-scripts know a LoRA

    @property
    def size_bytes(self) -> int:
        """Of all tensors."""
        return sum(layer.size_bytes for layers in self.parts.values() for layer in layers.values())

    def to(self, device: torch.device, /) -> Self:
        """On a device."""
        moved = {part: {name: each.to(device) for name, each in layers.items()} for part, layers in self.parts.items()}
        return replace(self, parts=moved)


class _Converted(NamedTuple):
    tensors: dict[str, torch.Tensor]  # by the converter's names
    alphas: Mapping[str, float]
    metadata: Mapping[str, Any] | None  # peft's configuration, each key after its part's name


def takes_adapters(pipeline: Any) -> bool:
    """Whether diffusers knows LoRAs for pipelines of this class."""
    return hasattr(type(pipeline), "lora_state_dict")


def read_lora(file: Path, pipeline: Any) -> LoraWeights:
    """Its weights in the host's memory. Raises AdapterFileError for what isn't a LoRA for this pipeline, OSError."""
    tensors, metadata = _read_tensors(file)
    _check_kind(tensors)
    converted = _convert(tensors, metadata, type(pipeline), pipeline)
    parts: dict[str, dict[str, LoraLayer]] = {}
    unknown = set(converted.tensors)
    for part in type(pipeline)._lora_loadable_modules:
        own = {name: name for name in converted.tensors if name.startswith(f"{part}.")}
        unknown -= own.keys()
        module = getattr(pipeline, part, None)
        if not own:
            continue
        if module is None:
            raise AdapterFileError(f"it is for a part ({part}) that this model lacks{_guess(tensors)}")
        parts[part] = _build_layers(part, module, own, converted, tensors)
    if unknown or not parts:
        named = ", ".join(sorted(unknown)[:MAX_NAMED])
        what = f"{len(unknown)} of its {len(converted.tensors)} tensors are for no part of this model ({named}, …)"
        raise AdapterFileError(f"{what}{_guess(tensors)}")
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        content.seek(0)
        content.seek(HEADER_LENGTH_BYTES + int.from_bytes(content.read(HEADER_LENGTH_BYTES), "little"))
        tensors_hash = hashlib.file_digest(content, "sha256").hexdigest()
    return LoraWeights(parts, f"sha256:{digest}", tensors_hash)


def _read_tensors(file: Path) -> tuple[dict[str, torch.Tensor], Mapping[str, Any] | None]:
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no mapping
            header: Mapping[str, str] = opened.metadata() or {}
            metadata = json.loads(header[METADATA]) if METADATA in header else None
    except (SafetensorError, ValueError, RecursionError) as error:
        with file.open("rb") as content:
            if content.read(4).startswith(PICKLE_SIGNS):
                raise AdapterFileError(f"it is a pickle, which may run code as it is read; {ALLOWED}") from error
        raise AdapterFileError(f"it can't be read, or is cut off: {error}; {ALLOWED}") from error
    if metadata is not None and not isinstance(metadata, dict):
        raise AdapterFileError(f"the configuration in its header ({METADATA}) is no object; {ALLOWED}")
    return tensors, metadata


def _check_kind(tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        kind = next((kind for part, kind in UNSUPPORTED.items() if part in name), None)
        if kind is not None and not (kind.startswith("an embedding") and "lora" in name):
            raise AdapterFileError(f"it is {kind} ({name}); {ALLOWED}")
        if name.endswith(IN_FULL) and tensor.any():
            raise AdapterFileError(f"it changes whole layers ({name}); {ALLOWED}")
        if ".t5xxl." in name and tensor.any():
            raise AdapterFileError(f"it changes the T5 text encoder ({name}), which no model here takes")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise AdapterFileError(f"its {name} has numbers that aren't finite: it was damaged, or badly trained")
    if not any("lora" in name for name in tensors):
        named = ", ".join(list(tensors)[:MAX_NAMED])
        raise AdapterFileError(f"it is no LoRA: its tensors are {named or 'none'}, …; {ALLOWED}")


def _convert(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any] | None, kind: Any, pipeline: Any
) -> _Converted:
    options: dict[str, Any] = {"return_alphas": True}  # which only Flux's looks at
    if issubclass(kind, StableDiffusionXLLoraLoaderMixin):
        options["unet_config"] = pipeline.unet.config
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(IN_FULL)}
    try:
        converted = kind.lora_state_dict(dict(kept), **options)
    except (ValueError, LookupError, AssertionError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise AdapterFileError(
            f"diffusers can't read its form for {kind.__name__}{_guess(tensors)}: {reason[0][:200] if reason else ''}"
        ) from error
    state, alphas = converted if isinstance(converted, tuple) else (converted, None)
    plain = {name: float(alpha) for name, alpha in (alphas or {}).items()}
    return _Converted(state, plain, metadata)


def _build_layers(
    part: str,
    module: torch.nn.Module,
    own: dict[str, str],
    converted: _Converted,
    tensors: Mapping[str, torch.Tensor],
) -> dict[str, LoraLayer]:
    """Of one part. ``own`` are its tensors' names by themselves: converters rename keys, whatever the values are."""
    names = _rename(part, module, {name.removeprefix(f"{part}."): name for name in own})
    known = dict(module.named_modules())
    layers: dict[str, LoraLayer] = {}
    missing = []
    for name, source in names.items():
        if not name.endswith(".lora_A.weight"):
            continue
        layer = name.removesuffix(".lora_A.weight")
        target = known.get(layer)
        up = names.get(f"{layer}.lora_B.weight")
        if not isinstance(target, torch.nn.Linear | torch.nn.Conv2d):
            missing.append(layer)
            continue
        if up is None:
            raise AdapterFileError(f"it is cut off: of {part}.{layer} one half is missing")
        bias = names.get(f"{layer}.lora_B.bias")
        pair = converted.tensors[source], converted.tensors[up]
        for tensor in pair:
            if tensor.ndim < LEAST_DIMENSIONS or not tensor.numel() or not tensor.is_floating_point():
                raise AdapterFileError(
                    f"its {part}.{layer} is {tuple(tensor.shape)} of {tensor.dtype}, which is no matrix of a LoRA"
                )
        alpha, divisor = _find_scale(part, layer, source, pair[0].shape[0], converted)
        down_shape, up_shape = _find_shapes(target, pair[0].shape[0])
        _check_shapes(part, layer, pair, (down_shape, up_shape), tensors)
        dtype = _find_dtype(target, module)
        layers[layer] = LoraLayer(
            _copy(pair[0].reshape(down_shape), dtype),
            _copy(pair[1].reshape(up_shape), dtype),
            None if bias is None else _copy(converted.tensors[bias], dtype),
            alpha,
            divisor,
        )
    if missing:
        named = ", ".join(sorted(missing)[:MAX_NAMED])
        raise AdapterFileError(
            f"{len(missing)} of its {len(missing) + len(layers)} layers aren't in this model's {part} ({named}, …)"
            f"{_guess(tensors)}"
        )
    if len(names) != 2 * len(layers) + sum(1 for name in names if name.endswith(".lora_B.bias")):
        stray = next((name for name in names if not name.endswith(("lora_A.weight", "lora_B.weight"))), "a half")
        raise AdapterFileError(f"it has what isn't a LoRA's ({part}.{stray}); {ALLOWED}")
    return layers


def _copy(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """In memory of its own, so that the file doesn't stay mapped."""
    return tensor.to(dtype, copy=True).contiguous()


def _rename(part: str, module: torch.nn.Module, names: dict[str, str]) -> dict[str, str]:
    """As diffusers does it when it hands weights to peft."""
    if not part.startswith(TEXT):
        return names if "lora_A" in next(iter(names)) else dict(convert_unet_state_dict_to_peft(names))  # type: ignore[no-untyped-call]
    try:
        plain = convert_state_dict_to_diffusers(names)  # type: ignore[no-untyped-call]
        renamed: dict[str, str] = convert_state_dict_to_peft(plain)  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise AdapterFileError(f"diffusers can't read the names of its {part} ({next(iter(names))})") from error
    if hasattr(module, "text_model"):
        return renamed
    return {name.removeprefix("text_model."): source for name, source in renamed.items()}


def _find_scale(part: str, layer: str, source: str, rank: int, converted: _Converted) -> tuple[float, float]:
    """Alpha and what it is divided by: of peft's configuration in the file, or of the layer's own alpha."""
    config = converted.metadata or {}
    if f"{part}.lora_alpha" in config:
        patterns = config.get(f"{part}.alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise AdapterFileError(f"the {part}.alpha_pattern in its header is no object")
        alpha = _read_alpha(
            part, next((patterns[name] for name in patterns if _matches(name, layer)), config[f"{part}.lora_alpha"])
        )
        return alpha, math.sqrt(rank) if config.get(f"{part}.use_rslora") else float(rank)
    names = (source.partition(".lora.")[0] + ".alpha", f"{part}.{layer}.alpha")
    return next((converted.alphas[name] for name in names if name in converted.alphas), float(rank)), float(rank)


def _read_alpha(part: str, written: object) -> float:
    if isinstance(written, bool) or not isinstance(written, int | float) or not math.isfinite(written):
        raise AdapterFileError(f"an alpha of its {part} in its header is {str(written)[:SHOWN_CHARACTERS]}, no number")
    return float(written)


def _matches(pattern: str, layer: str) -> bool:
    plain = pattern.removeprefix("^")
    return layer == plain or layer.endswith(f".{plain}")


def _find_shapes(target: torch.nn.Linear | torch.nn.Conv2d, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of down and up."""
    shape = tuple(target.weight.shape)
    return (rank, *shape[1:]), (shape[0], rank, *(1 for _ in shape[2:]))


def _check_shapes(
    part: str,
    layer: str,
    pair: tuple[torch.Tensor, torch.Tensor],
    expected: tuple[tuple[int, ...], tuple[int, ...]],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Linear layers and convolutions of one pixel may be written as each other."""
    for tensor, shape in zip(pair, expected, strict=True):
        if [side for side in tensor.shape if side != 1] != [side for side in shape if side != 1]:
            raise AdapterFileError(
                f"its {part}.{layer} is {tuple(tensor.shape)}, and this model's takes {shape}{_guess(tensors)}"
            )


def _find_dtype(target: torch.nn.Module, module: Any) -> torch.dtype:
    """That which the layer computes in: weights may be kept in 8 bits."""
    dtype: torch.dtype = target.weight.dtype  # type: ignore[assignment]
    return module.dtype if dtype.itemsize < 2 else dtype


class _Sign(NamedTuple):
    family: str
    is_seen: Callable[[Mapping[str, torch.Tensor]], bool]


def _has(*parts: str) -> Callable[[Mapping[str, torch.Tensor]], bool]:
    return lambda tensors: any(part in name for name in tensors for part in parts)


def _reads_width(width: int) -> Callable[[Mapping[str, torch.Tensor]], bool]:
    """Whether cross attention takes prompts of so many numbers a token."""
    keys = ("attn2_to_k.lora_down", "attn2.to_k.lora_A", "attn2.processor.to_k_lora.down", "attn2.to_k.lora.down")
    return lambda tensors: any(
        tensor.ndim > 1 and tensor.shape[1] == width for name, tensor in tensors.items() if any(k in name for k in keys)
    )


# The first that is seen. Widths are those of the published models.
FAMILIES: Final = (
    _Sign("Flux", _has("single_blocks", "single_transformer_blocks", "double_blocks")),
    _Sign("Stable Diffusion 3", _has("joint_blocks", "attn.add_q_proj", "attn.to_add_out")),
    _Sign("a video model", _has("temporal", "motion_modules", "blocks.0.cross_attn")),
    _Sign("Stable Diffusion XL", _has("lora_te2_", "text_encoder_2.", "input_blocks_8_1_transformer_blocks_9")),
    _Sign("Stable Diffusion XL", _reads_width(2048)),
    _Sign("Stable Diffusion 2.x", _reads_width(1024)),
    _Sign("Stable Diffusion 1.x", _reads_width(768)),
    _Sign("Stable Diffusion", _has("lora_unet_", "unet.")),
    _Sign("a model with a transformer", _has("transformer_blocks")),
)


def _guess(tensors: Mapping[str, torch.Tensor]) -> str:
    """For which family it seems to be, as a part of a sentence."""
    family = next((sign.family for sign in FAMILIES if sign.is_seen(tensors)), None)
    return "" if family is None else f"; it seems to be for {family}"
