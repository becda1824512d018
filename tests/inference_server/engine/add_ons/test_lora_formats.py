"""What isn't a LoRA for the model is refused with what it is, and what is allowed."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from easel_server.engine.add_ons.lora_formats import AdapterFileError, read_lora
from safetensors.torch import load_file, save_file

from tests.inference_server.engine.add_ons.adapters import build_tiny
from tests.support.tiny_models.adapters import LoraForm, Tensors, write_lora

LAYER = "lora_unet_mid_block_attentions_0_proj_in"


def fault_of(file: Path, model: str = "sd15") -> str:
    """Why it can't be used."""
    with pytest.raises(AdapterFileError) as caught:
        read_lora(file, build_tiny(model))
    return str(caught.value)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({f"{LAYER}.hada_w1_a": torch.ones(2, 4)}, "it is a LoHa (LyCORIS)"),
        ({f"{LAYER}.lokr_w1": torch.ones(2, 4)}, "it is a LoKr (LyCORIS)"),
        ({f"{LAYER}.oft_blocks": torch.ones(2, 4)}, "it is an OFT (LyCORIS)"),
        ({f"{LAYER}.on_input": torch.ones(1)}, "it is an IA3 (LyCORIS)"),
        ({f"{LAYER}.dora_scale": torch.ones(2)}, "it is a DoRA"),
        ({"unet.mid_block.attentions.0.proj_in.lora_magnitude_vector.weight": torch.ones(2)}, "it is a DoRA"),
        ({f"{LAYER}.lora_mid.weight": torch.ones(2, 2, 3, 3)}, "a LoCon with a Tucker decomposition"),
        ({f"{LAYER}.diff": torch.ones(4, 4)}, "it changes whole layers"),
        ({"emb_params": torch.ones(2, 4)}, "it is an embedding (textual inversion)"),
        ({"model.diffusion_model.out.0.weight": torch.ones(4)}, "it is a whole model"),
        ({"conv.weight": torch.ones(4)}, "it is no LoRA: its tensors are conv.weight"),
        ({}, "it is no LoRA: its tensors are none"),
    ],
)
def test_another_kind_of_file_is_refused_by_its_name_with_what_is_allowed(
    named: Tensors, said: str, tmp_path: Path
) -> None:
    save_file(named, tmp_path / "other.safetensors")
    fault = fault_of(tmp_path / "other.safetensors")
    assert said in fault
    assert "allowed are LoRAs for linear and convolution layers, as safetensors" in fault


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data[: len(data) // 2], "it can't be read, or is cut off"),
        (lambda data: data[:5], "it can't be read, or is cut off"),
        (lambda _data: b"", "it can't be read, or is cut off"),
        (lambda _data: b"<!DOCTYPE html>" * 100, "it can't be read, or is cut off"),
        (lambda _data: b"PK\x03\x04" + bytes(100), "it is a pickle, which may run code as it is read"),
        (lambda _data: b"\x80\x02}q\x00." + bytes(100), "it is a pickle, which may run code as it is read"),
    ],
)
def test_a_damaged_file_and_a_pickle_are_refused(spoil: Callable[[bytes], bytes], said: str, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "style.safetensors", build_tiny("sd15"))
    file.write_bytes(spoil(file.read_bytes()))
    assert said in fault_of(file)


def change(file: Path, edit: Callable[[Tensors], Any], metadata: dict[str, str] | None = None) -> Path:
    """The same file with other tensors."""
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata=metadata)
    return file


def test_numbers_that_arent_finite_are_refused_by_the_tensors_name(tmp_path: Path) -> None:
    file = write_lora(tmp_path / "style.safetensors", build_tiny("sd15"))
    name = next(iter(load_file(file)))
    fault = fault_of(change(file, lambda tensors: tensors[name].fill_(float("nan"))))
    assert fault == f"its {name} has numbers that aren't finite: it was damaged, or badly trained"


def test_half_of_a_layer_is_refused(tmp_path: Path) -> None:
    file = write_lora(tmp_path / "style.safetensors", build_tiny("sd15"))
    name = next(name for name in load_file(file) if "lora_B" in name)
    assert "one half is missing" in fault_of(change(file, lambda tensors: tensors.pop(name)))


@pytest.mark.parametrize(
    ("made_for", "used_with", "said"),
    [
        ("sdxl", "sd15", "it seems to be for Stable Diffusion XL"),
        ("flux", "sd15", "it seems to be for Flux"),
        ("sd15", "flux", "it seems to be for Stable Diffusion"),
        ("sd3", "flux", "it seems to be for Stable Diffusion 3"),
        ("flux", "sd3", "it seems to be for Flux"),
        ("sd15", "sdxl", "it seems to be for Stable Diffusion"),
    ],
)
def test_one_for_another_family_is_refused_with_the_family_that_it_seems_to_be_for(
    made_for: str, used_with: str, said: str, tmp_path: Path
) -> None:
    file = write_lora(tmp_path / "style.safetensors", build_tiny(made_for))
    assert fault_of(file, used_with).endswith(said)


@pytest.mark.parametrize("width", [768, 1024, 2048])
def test_families_differ_by_the_width_of_their_prompts(width: int, tmp_path: Path) -> None:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{layer}.lora_down.weight": torch.ones(2, width), f"{layer}.lora_up.weight": torch.ones(320, 2)}
    save_file(tensors, tmp_path / "style.safetensors")
    family = {768: "1.x", 1024: "2.x", 2048: "XL"}[width]
    assert fault_of(tmp_path / "style.safetensors").endswith(f"it seems to be for Stable Diffusion {family}")


def test_each_layer_has_its_own_alpha(tmp_path: Path) -> None:
    pipeline = build_tiny("sd15")
    file = write_lora(tmp_path / "style.safetensors", pipeline, form=LoraForm.KOHYA, alpha=2.0)
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    change(file, lambda tensors: tensors.update({f"{layer}.alpha": torch.tensor(1.0)}))
    layers = read_lora(file, pipeline).parts["unet"]
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    assert layers[name].scale(0.5) == 0.5 * 1.0 / 4
    assert {each.scale(1.0) for other, each in layers.items() if other != name} == {2.0 / 4}


def test_pefts_configuration_in_the_file_says_the_scale(tmp_path: Path) -> None:
    pipeline = build_tiny("sd15")
    config = {"unet.lora_alpha": 8, "unet.r": 4, "unet.use_rslora": True, "unet.alpha_pattern": {"attn1.to_q": 2}}
    file = write_lora(tmp_path / "style.safetensors", pipeline, text_encoders=False)
    change(file, lambda _tensors: None, {"format": "pt", "lora_adapter_metadata": json.dumps(config)})
    layers = read_lora(file, pipeline).parts["unet"]
    assert layers["mid_block.attentions.0.transformer_blocks.0.attn1.to_q"].scale(1.0) == 2 / 4**0.5
    assert layers["mid_block.attentions.0.transformer_blocks.0.attn1.to_k"].scale(1.0) == 8 / 4**0.5


def test_differences_of_whole_layers_that_are_zeros_do_no_harm(tmp_path: Path) -> None:
    pipeline = build_tiny("sd15")
    file = write_lora(tmp_path / "style.safetensors", pipeline, form=LoraForm.KOHYA, alpha=4.0)
    whole = read_lora(file, pipeline)
    change(file, lambda tensors: tensors.update({"lora_unet_conv_in.diff_b": torch.zeros(16)}))
    assert read_lora(file, pipeline).parts["unet"].keys() == whole.parts["unet"].keys()


@pytest.mark.parametrize(
    "half", [torch.tensor(1.0), torch.zeros(0, 16, 1, 1), torch.zeros(4, 16, 1, 1, dtype=torch.bool)]
)
def test_halves_that_are_no_matrices_are_refused_before_a_job_divides_by_their_rank(
    half: torch.Tensor, tmp_path: Path
) -> None:
    file = write_lora(tmp_path / "odd.safetensors", build_tiny("sd15"), seed=1)
    tensors = load_file(file)
    for name in [each for each in tensors if each.endswith("lora_A.weight")]:
        tensors[name] = half.clone()
    save_file(tensors, file)
    assert "no matrix of a LoRA" in fault_of(file)


@pytest.mark.parametrize(
    "configuration",
    [
        '{"unet.lora_alpha": NaN}',
        '{"unet.lora_alpha": 1e999}',
        '{"unet.lora_alpha": "x"}',
        '{"unet.lora_alpha": null}',
        '{"unet.lora_alpha": 4, "unet.alpha_pattern": [1]}',
        "[]",
        '"unet.lora_alpha"',
        "[" * 100_000,
    ],
)
def test_a_header_that_says_no_scale_is_refused(configuration: str, tmp_path: Path) -> None:
    file = write_lora(tmp_path / "odd.safetensors", build_tiny("sd15"), seed=1)
    save_file(load_file(file), file, metadata={"lora_adapter_metadata": configuration})
    assert re.search("header|can't be read", fault_of(file))
