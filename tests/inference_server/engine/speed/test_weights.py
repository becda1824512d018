"""Weights in 8 bits or in the host's memory: the image stays, the bytes go."""

from typing import Any

import pytest
from easel_contract.server_config import EngineConfig, ModelConfig, Offload, Quantization
from easel_server.engine.interface import ModelLoadError
from easel_server.engine.loading import load_engine

from tests.support.images import open_image
from tests.support.tiny_engine import generate, tiny_engine, tiny_model_directory, tiny_parameters

pytestmark = pytest.mark.torch

MEAN_DIFFERENCE = 12  # of 255: e4m3 has 3 bits after the leading one; images of random weights have no large areas


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux"])
def test_a_quantized_model_has_less_than_half_of_the_bytes_and_gives_nearly_the_same_image(name: str) -> None:
    """From 32 bits; a quarter but for what diffusers keeps: norms, and with them the modulation of SD 3 and Flux."""
    from easel_server.engine.speed.weights import count_weight_bytes, quantize  # noqa: PLC0415  # loads torch

    pipeline, quantized = build(name), build(name)
    quantize(quantized)
    part = "unet" if hasattr(pipeline, "unet") else "transformer"
    before, after = (getattr(each, part) for each in (pipeline, quantized))
    assert count_linear_bytes(after) * 2 < count_linear_bytes(before)
    assert count_weight_bytes(after) < count_weight_bytes(before)
    assert after.dtype == before.dtype, "it computes as before"
    one, other = (run(each) for each in (pipeline, quantized))
    difference = sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)
    assert 0 < difference < MEAN_DIFFERENCE


def test_a_quantized_model_is_loaded_and_serves() -> None:
    config = ModelConfig(name="q", source=str(tiny_model_directory("sd15")), quantization=Quantization.FLOAT8)
    engine: Any = load_engine(config, hub_token=None, engine=EngineConfig())
    assert engine.description.dtype == "float32"
    image = generate(engine, tiny_parameters())[0][0]
    assert open_image(image).size == (64, 64)
    assert image != generate(tiny_engine(), tiny_parameters())[0][0]


def test_offloaded_blocks_give_the_same_image_to_the_byte() -> None:
    """With the processor as the device: the hooks run, the copies go nowhere."""
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.speed.weights import offload  # noqa: PLC0415  # loads torch

    pipeline, offloaded = build("sdxl"), build("sdxl")
    offload(offloaded, torch.device("cpu"))
    assert run(pipeline) == run(offloaded)


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (EngineConfig(offload=Offload.GROUP), "set worker.engine.offload to None"),
        (EngineConfig.model_validate({"compile": "On"}), "set it to Off"),
    ],
    ids=["offload", "compile"],
)
def test_what_needs_a_gpu_is_refused_on_a_cpu_with_what_to_change(engine: EngineConfig, said: str) -> None:
    config = ModelConfig(name="m", source=str(tiny_model_directory("sd15")))
    with pytest.raises(ModelLoadError, match="needs an accelerator, and torch sees none") as raised:
        load_engine(config, hub_token=None, engine=engine)
    assert said in str(raised.value)


def build(name: str) -> Any:
    from tests.support import tiny_models  # noqa: PLC0415  # loads torch

    pipeline = getattr(tiny_models, f"build_{name}")()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipeline: Any) -> bytes:
    import torch  # noqa: PLC0415  # most tests don't need it

    generator = torch.Generator("cpu").manual_seed(1)
    image = pipeline("a cat", width=64, height=64, num_inference_steps=2, generator=generator).images[0]
    pixels: bytes = image.tobytes()
    return pixels


def count_linear_bytes(module: Any) -> int:
    import torch  # noqa: PLC0415  # most tests don't need it

    layers = (each for each in module.modules() if isinstance(each, torch.nn.Linear))
    return sum(each.weight.numel() * each.weight.element_size() for each in layers)
