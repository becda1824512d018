"""LoRA files for tiny models, with random weights from a seed, in the forms that trainers and converters write them.

``write_lora(file, build_sd15(), form=LoraForm.KOHYA, seed=1)`` is the short way. Two files with the same arguments but
for the form hold the same numbers where the form can say them all.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

TEXT_ENCODERS: Final = ("text_encoder", "text_encoder_2")  # T5 is never trained
ATTENTION: Final = re.compile(r"attn\d?\.(to_[qkv]|to_out\.0)$|self_attn\.(q|k|v|out)_proj$")
LAYERS: Final = re.compile(
    rf"{ATTENTION.pattern}|ff\.net\.(0\.proj|2)$|mlp\.fc[12]$|(?<!\.attn)\.proj_(in|out)$|attn\.(add_[qkv]_proj|to_add_out)$"
)
CONVOLUTIONS: Final = re.compile(r"resnets\.\d\.(conv1|conv2|conv_shortcut|time_emb_proj)$|samplers\.0\.conv$")


class LoraForm(StrEnum):
    """How the tensors of a file are called."""

    PEFT = "peft"  # diffusers' training scripts, and ai-toolkit
    OLD = "old"  # diffusers' before peft; attention only
    KOHYA = "kohya"  # sd-scripts, for all but Stable Diffusion XL's and Flux's denoiser
    KOHYA_SGM = "kohya sgm"  # sd-scripts for Stable Diffusion XL, by the names of Stability's own code
    KOHYA_FLUX = "kohya flux"  # sd-scripts for Flux, by the names of Black Forest Labs' own code; double blocks only
    XLABS = "xlabs"  # x-flux, for Flux; attention only


Tensors = dict[str, torch.Tensor]
Pair = tuple[torch.Tensor, torch.Tensor]  # down (A) and up (B)


def write_lora(file: Path, pipeline: Any, **options: Any) -> Path:
    """Write what ``build_lora`` makes; the file's path."""
    save_file(build_lora(pipeline, **options), file)
    return file


def build_lora(
    pipeline: Any,
    *,
    form: LoraForm = LoraForm.PEFT,
    seed: int = 0,
    rank: int = 4,
    alpha: float | None = None,
    strength: float = 0.5,
    text_encoders: bool = True,
    denoiser: bool = True,
    convolutions: bool = False,
    attention_only: bool = False,
) -> Tensors:
    """The tensors of an adapter for this pipeline by their names in the file, float32.

    ``alpha``: None leaves it out, which means the rank. ``strength`` is that of B's numbers: 0 changes no image.
    ``attention_only``: of text encoders and denoiser the layers that diffusers' training scripts train by default.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = ATTENTION if attention_only or form in (LoraForm.OLD, LoraForm.XLABS) else LAYERS
    pairs: dict[str, dict[str, Pair]] = {}
    for part, module in _list_parts(pipeline, text_encoders=text_encoders, denoiser=denoiser):
        targets = (
            (name, layer)
            for name, layer in module.named_modules()
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
            and (chosen.search(name) or (convolutions and CONVOLUTIONS.search(name)))
        )
        pairs[part] = {name: _make_pair(layer, rank, strength, generator) for name, layer in targets}
    return {name: tensor.contiguous().clone() for name, tensor in WRITERS[form](pairs, alpha).items()}


def _list_parts(pipeline: Any, *, text_encoders: bool, denoiser: bool) -> Iterator[tuple[str, torch.nn.Module]]:
    for name in (("unet", "transformer") if denoiser else ()) + (TEXT_ENCODERS if text_encoders else ()):
        module = getattr(pipeline, name, None)
        if module is not None and not type(module).__name__.startswith("T5"):
            yield name, module


def _make_pair(
    layer: torch.nn.Linear | torch.nn.Conv2d, rank: int, strength: float, generator: torch.Generator
) -> Pair:
    shape = layer.weight.shape
    inner = (1,) * (len(shape) - 2)
    down = torch.randn((rank, *shape[1:]), generator=generator) / shape[1:].numel() ** 0.5
    return down, torch.randn((shape[0], rank, *inner), generator=generator) * strength / rank**0.5


def _in_file(part: str, name: str) -> str:
    """Files call CLIP's layers as transformers did before its version 5."""
    is_flat = part in TEXT_ENCODERS and not name.startswith(("text_model.", "text_projection"))
    return f"text_model.{name}" if is_flat else name


def _write_peft(pairs: Mapping[str, Mapping[str, Pair]], alpha: float | None) -> Tensors:
    if alpha is not None:
        raise ValueError("this form has no alpha")
    return {
        f"{part}.{_in_file(part, name)}.lora_{letter}.weight": tensor
        for part, layers in pairs.items()
        for name, pair in layers.items()
        for letter, tensor in zip("AB", pair, strict=True)
    }


def _write_old(pairs: Mapping[str, Mapping[str, Pair]], alpha: float | None) -> Tensors:
    if alpha is not None:
        raise ValueError("this form has no alpha")
    written: Tensors = {}
    for part, layers in pairs.items():
        for name, pair in layers.items():
            attention, _, layer = _in_file(part, name).partition("attn1.")
            which = "attn1"
            if not layer:
                attention, _, layer = _in_file(part, name).partition("attn2.")
                which = "attn2"
            if layer:
                called = f"{attention}{which}.processor.{layer.removesuffix('.0')}_lora"
            else:
                called = re.sub(r"(q|k|v|out)_proj$", r"to_\1_lora", _in_file(part, name))
            written |= {f"{part}.{called}.{way}.weight": each for way, each in zip(("down", "up"), pair, strict=True)}
    return written


def _write_kohya(
    pairs: Mapping[str, Mapping[str, Pair]],
    alpha: float | None,
    rename: Callable[[str], str] = lambda name: name,
) -> Tensors:
    written: Tensors = {}
    encoders = [part for part in pairs if part in TEXT_ENCODERS]
    prefixes = dict(zip(encoders, ("te1", "te2") if len(encoders) > 1 else ("te",), strict=False))
    for part, layers in pairs.items():
        for name, (down, up) in layers.items():
            called = rename(name) if part not in TEXT_ENCODERS else _in_file(part, name)
            key = f"lora_{prefixes.get(part, 'unet')}_{called.replace('.', '_')}"
            written |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}
            if alpha is not None:
                written[f"{key}.alpha"] = torch.tensor(alpha)
    return written


def _write_kohya_sgm(pairs: Mapping[str, Mapping[str, Pair]], alpha: float | None) -> Tensors:
    return _write_kohya(pairs, alpha, _rename_to_sgm)


def _rename_to_sgm(name: str) -> str:
    """Of a UNet with two layers in each block."""
    block = re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.?(.*)", name)
    if block:
        way, number, kind, index, rest = block[1], int(block[2]), block[3], int(block[4]), block[5]
        if kind.endswith("samplers"):
            return f"input_blocks.{3 + 3 * number}.0.op" if way == "down" else f"output_blocks.{3 * number + 2}.2.conv"
        place = f"input_blocks.{1 + 3 * number + index}" if way == "down" else f"output_blocks.{3 * number + index}"
        return f"{place}.{0 if kind == 'resnets' else 1}.{_rename_resnet(rest) if kind == 'resnets' else rest}"
    middle = re.match(r"mid_block\.(\w+)\.(\d+)\.(.*)", name)
    if middle is None:
        raise ValueError(name)
    if middle[1] == "attentions":
        return f"middle_block.1.{middle[3]}"
    return f"middle_block.{2 * int(middle[2])}.{_rename_resnet(middle[3])}"


def _rename_resnet(name: str) -> str:
    names = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1"}
    return {**names, "conv_shortcut": "skip_connection"}[name]


def _write_kohya_flux(pairs: Mapping[str, Mapping[str, Pair]], alpha: float | None) -> Tensors:
    names = {
        "attn.to_out.0": "img_attn.proj",
        "attn.to_add_out": "txt_attn.proj",
        "ff.net.0.proj": "img_mlp.0",
        "ff.net.2": "img_mlp.2",
    }
    of_blocks = {}
    for name, pair in pairs.get("transformer", {}).items():
        block = re.match(r"transformer_blocks\.(\d+)\.(.*)", name)
        if block and block[2] in names:
            of_blocks[f"double_blocks.{block[1]}.{names[block[2]]}"] = pair
    others = {part: layers for part, layers in pairs.items() if part in TEXT_ENCODERS}
    written = _write_kohya({"transformer": of_blocks, **others}, alpha)
    return {name.replace("lora_te_", "lora_te1_"): tensor for name, tensor in written.items()}


def _write_xlabs(pairs: Mapping[str, Mapping[str, Pair]], alpha: float | None) -> Tensors:
    if alpha is not None:
        raise ValueError("this form has no alpha")
    written: Tensors = {}
    for name, (down, up) in pairs["transformer"].items():
        block = re.match(r"transformer_blocks\.(\d+)\.attn\.(to_out\.0|to_q)$", name)
        if block is None:
            continue
        if block[2] == "to_q":  # one pair for queries, keys and values
            kind, up_all = "qkv_lora1", torch.cat([up, up * 0.5, up * -1])
        else:
            kind, up_all = "proj_lora1", up
        key = f"double_blocks.{block[1]}.processor.{kind}"
        written |= {f"{key}.down.weight": down, f"{key}.up.weight": up_all}
    return written


WRITERS: Final[Mapping[LoraForm, Callable[[Mapping[str, Mapping[str, Pair]], float | None], Tensors]]] = {
    LoraForm.PEFT: _write_peft,
    LoraForm.OLD: _write_old,
    LoraForm.KOHYA: _write_kohya,
    LoraForm.KOHYA_SGM: _write_kohya_sgm,
    LoraForm.KOHYA_FLUX: _write_kohya_flux,
    LoraForm.XLABS: _write_xlabs,
}
