"""A ControlNet from its file: a folder of diffusers' layout, or a .safetensors with either family of tensor names.

A file says nothing of how it is built. A ControlNet has the shape of the denoiser that it is for, so that one's
configuration is taken, and a file that doesn't fit it is of another family.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import diffusers
import torch
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint
from safetensors import SafetensorError
from safetensors.torch import load_file

from easel_server.engine.interface import GenerationError
from easel_server.generation.add_ons import ControlType

CONFIG: Final = "config.json"
WEIGHTS: Final = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors", "*.safetensors")
# By the class of the denoiser that each is for.
KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "UNet2DConditionModel": "ControlNetModel",
        "SD3Transformer2DModel": "SD3ControlNetModel",
        "FluxTransformer2DModel": "FluxControlNetModel",
    }
)
UNION: Final = "ControlNetUnionModel"  # a UNet's, of one network for several kinds of control images
# In the order in which published ones count the kinds: https://huggingface.co/xinsir/controlnet-union-sdxl-1.0,
# https://huggingface.co/InstantX/FLUX.1-dev-Controlnet-Union
UNION_TYPES: Final[Mapping[str, tuple[ControlType, ...]]] = MappingProxyType(
    {
        UNION: (
            ControlType.POSE,
            ControlType.DEPTH,
            ControlType.SOFT_EDGE,
            ControlType.HARD_EDGE,
            ControlType.NORMAL,
            ControlType.SEGMENTATION,
            ControlType.TILE,
            ControlType.INPAINT,
        ),
        "FluxControlNetModel": (
            ControlType.HARD_EDGE,
            ControlType.TILE,
            ControlType.DEPTH,
            ControlType.BLUR,
            ControlType.POSE,
            ControlType.GREY,
            ControlType.LOW_QUALITY,
        ),
    }
)
TASKS_OF_UNION: Final = "task_embedding"  # [kinds, channels]
# What the text encoders of published models give, by which people know the family.
FAMILIES: Final[Mapping[int, str]] = MappingProxyType(
    {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
)
OWN_PARTS: Final = ("control_model.", "controlnet_cond_embedding.", "controlnet_down_blocks.", "zero_convs.")
CHANNELS: Final = 3
MAX_NUMBERS_RATIO: Final = 2  # of what a configuration asks for to what its file has


def load_control_net(name: str, path: Path, denoiser: Any) -> Any:
    """The network in the host's memory, in the denoiser's dtype. Blocks.

    Raises GenerationError for what is no ControlNet, or one of another family than the denoiser.
    """
    folder = path if path.is_dir() else path.parent
    config = _read_config(folder / CONFIG)
    if path.is_dir():
        if not config:
            raise GenerationError(f"{name!r} is no ControlNet: {folder.name} has no {CONFIG}; name its file")
        path = _find_weights(name, folder)
    tensors = _read(name, path)
    kind = KINDS.get(type(denoiser).__name__)
    said = config.get("_class_name", kind)
    if kind == KINDS["UNet2DConditionModel"] and ("Union" in str(said) or TASKS_OF_UNION in tensors):
        kind = said = UNION  # whichever of its names it bears
    if kind is None or said != kind:
        raise GenerationError(f"{name!r} is a {said}, and this model's ControlNets are of {kind or 'no known class'}")
    net = _build(name, kind, config, denoiser, tensors)
    return net.to(denoiser.dtype).eval().requires_grad_(False)  # torch's own


def find_union_types(net: Any) -> tuple[ControlType, ...]:
    """The kinds of control images that it tells apart, by their numbers; none where it is for one kind."""
    count = net.config.get("num_control_type") or net.config.get("num_mode") or 0
    return UNION_TYPES.get(type(net).__name__, ())[:count]


def _build(name: str, kind: str, config: Mapping[str, Any], denoiser: Any, tensors: dict[str, torch.Tensor]) -> Any:
    maker = getattr(diffusers, kind)
    is_of_unet = kind in (KINDS["UNet2DConditionModel"], UNION)
    if is_of_unet:
        _check_family(name, config, tensors, denoiser)
    if config and kind == UNION and TASKS_OF_UNION in tensors:
        # Beside the files of the one repository lies a configuration for the smaller of the two.
        kinds, channels = tensors[TASKS_OF_UNION].shape
        config = {**config, "num_control_type": kinds, "num_trans_channel": channels}
    if config:
        _check_size(name, maker, config, tensors)
        net = maker.from_config(dict(config))
    elif kind == KINDS["UNet2DConditionModel"]:
        net = maker.from_unet(denoiser, load_weights_from_unet=False, conditioning_channels=CHANNELS)
    else:
        raise GenerationError(f"{name!r} has no {CONFIG} beside it; name the folder of diffusers' layout")
    if is_of_unet:
        tensors = convert_controlnet_checkpoint(tensors, net.config)  # type: ignore[no-untyped-call]
    own = net.state_dict()
    missing = sorted(own.keys() - tensors.keys())
    other = sorted(key for key in own.keys() & tensors.keys() if own[key].shape != tensors[key].shape)
    if missing or other:
        first = (other or missing)[0]
        why = f"{first} is {tuple(tensors[first].shape)}, expected is {tuple(own[first].shape)}" if other else first
        lack = f"{len(other)} tensors differ in shape" if other else f"it lacks {len(missing)} tensors"
        raise GenerationError(f"{name!r} is a ControlNet of another model than this one: {lack} (the first: {why})")
    net.load_state_dict({key: tensors[key] for key in own})
    return net


def _check_size(name: str, maker: Any, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """A configuration may ask for more memory than a worker has, and its file hold a few bytes."""
    with torch.device("meta"):
        numbers = sum(each.numel() for each in maker.from_config(dict(config)).parameters())
    held = sum(each.numel() for each in tensors.values())
    if numbers > MAX_NUMBERS_RATIO * held:
        raise GenerationError(f"{name!r} has {held} numbers in its file, and its {CONFIG} asks for {numbers}")


def _check_family(name: str, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], denoiser: Any) -> None:
    if not any(key.startswith(OWN_PARTS) for key in tensors):
        raise GenerationError(f"{name!r} is no ControlNet: its file has no tensor of one ({', '.join(OWN_PARTS)}…)")
    width = config.get("cross_attention_dim") or next(
        (tensor.shape[-1] for key, tensor in sorted(tensors.items()) if key.endswith("attn2.to_k.weight")), None
    )
    own = denoiser.config.cross_attention_dim
    if width is not None and width != own:
        raise GenerationError(f"{name!r} is for {_name_family(width)}, and this model is {_name_family(own)}")
    channels = config.get("conditioning_channels", CHANNELS)
    if channels != CHANNELS:
        raise GenerationError(f"{name!r} takes control images of {channels} channels; allowed is {CHANNELS}")


def _name_family(width: Any) -> str:
    known = FAMILIES.get(width) if isinstance(width, int) else None
    return known or f"a model with text embeddings of {width}"


def _find_weights(name: str, folder: Path) -> Path:
    for pattern in WEIGHTS:
        if found := sorted(folder.glob(pattern)):
            return found[0]
    raise GenerationError(f"{name!r} is no ControlNet: {folder.name} has no .safetensors file")


def _read(name: str, path: Path) -> dict[str, torch.Tensor]:
    if path.suffix != ".safetensors":
        raise GenerationError(f"{name!r}: {path.name} is no .safetensors file; other files are never opened here")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise GenerationError(f"{name!r}: {path.name} can't be read as .safetensors ({error})") from error


def _read_config(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_own = isinstance(content, dict) and "ControlNet" in str(content.get("_class_name"))
    return content if is_own else {}
