"""Upscalers: networks of the published architecture, tile by tile, and jobs that only enlarge."""

import io
from pathlib import Path
from typing import Any

import pytest
from easel_contract.add_ons import UpscalerConfig
from easel_server.engine.interface import GenerationError, NonFiniteError, StopGenerationError
from easel_server.generation.add_ons import UPSCALE_STEPS, Upscaling
from easel_server.generation.encoding import read_description
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import Task
from PIL import Image, ImageChops

from tests.support.tiny_engine import tiny_engine

pytestmark = pytest.mark.torch


def build_image(width: int = 50, height: int = 37) -> Image.Image:
    return Image.effect_noise((width, height), 80).convert("RGB")


def find_difference(one: Image.Image, other: Image.Image) -> float:
    """The largest of all, of 255."""
    extrema: Any = ImageChops.difference(one, other).getextrema()
    return max(high for _, high in extrema)


def write(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def ask(image: Image.Image, size: tuple[int, int], upscaler: str, key: str = "", **more: Any) -> GenerationParameters:
    upscale = Upscaling(upscaler=upscaler, key=key, width_pixels=size[0], height_pixels=size[1], **more)
    return GenerationParameters(
        prompt="",
        width_pixels=image.width,
        height_pixels=image.height,
        steps=UPSCALE_STEPS,
        guidance_scale=0,
        seed=0,
        task=Task.UPSCALE,
        image_digest="d",
        upscale=upscale,
    )


@pytest.fixture
def config(tmp_path: Path) -> UpscalerConfig:
    tiny_engine()
    from tests.support.tiny_models.upscalers import write_tiny_upscaler  # noqa: PLC0415

    return UpscalerConfig(name="4x", source=str(write_tiny_upscaler(tmp_path / "4x.safetensors")))


def load(config: UpscalerConfig) -> Any:
    from easel_server.engine.add_ons.upscalers import load_network  # noqa: PLC0415

    return load_network(Path(config.source), config.name)


def run(image: Image.Image, parameters: GenerationParameters, *configs: UpscalerConfig) -> Image.Image:
    engine = tiny_engine()
    generation = engine.begin(parameters, {"d": write(image)}, add_ons=configs)
    while not generation.is_done:
        engine.step([generation])
    if generation.error is not None:
        raise generation.error
    return Image.open(io.BytesIO(generation.encode_images()[0]))


def test_tile_by_tile_is_the_same_as_at_once(config: UpscalerConfig) -> None:
    import torch  # noqa: PLC0415
    from easel_server.engine.add_ons.upscalers import enlarge_by_tiles  # noqa: PLC0415

    image, network, cpu = build_image(150, 110), load(config), torch.device("cpu")
    whole = enlarge_by_tiles(image, network, cpu, tile_pixels=1000)
    tiled = enlarge_by_tiles(image, network, cpu, tile_pixels=40)
    assert whole.size == (600, 440)
    assert find_difference(whole, tiled) <= 1


def test_tiles_are_halved_where_memory_ends_and_the_image_stays_the_same(config: UpscalerConfig) -> None:
    import torch  # noqa: PLC0415
    from easel_server.engine.add_ons.upscalers import enlarge_by_tiles  # noqa: PLC0415

    image, network, cpu = build_image(150, 110), load(config), torch.device("cpu")
    whole = enlarge_by_tiles(image, network, cpu)
    forward = network.forward

    def run_out(pixels: torch.Tensor) -> Any:
        if pixels.shape[-1] > 120:
            raise torch.OutOfMemoryError("too much")
        return forward(pixels)

    network.forward = run_out
    assert find_difference(whole, enlarge_by_tiles(image, network, cpu)) <= 1


@pytest.mark.parametrize("size", [(100, 74), (200, 148), (75, 55)])
def test_an_image_of_any_size_is_enlarged_by_any_factor(config: UpscalerConfig, size: tuple[int, int]) -> None:
    image = build_image()
    enlarged = run(image, ask(image, size, "4x", config.key), config)
    assert enlarged.size == size
    text = read_description(enlarged)
    assert "Postprocess upscaler: 4x" in text
    assert f"Size: {size[0]}x{size[1]}" in text
    assert "Steps" not in text


def test_a_network_is_used_again_until_the_image_is_large_enough(config: UpscalerConfig) -> None:
    image = build_image(20, 20)
    assert run(image, ask(image, (200, 200), "4x", config.key), config).size == (200, 200)


@pytest.mark.parametrize(
    ("name", "way"), [("Lanczos", Image.Resampling.LANCZOS), ("Nearest", Image.Resampling.NEAREST)]
)
def test_without_a_network_the_image_is_interpolated(name: str, way: Image.Resampling) -> None:
    image = build_image()
    enlarged = run(image, ask(image, (100, 74), name))
    assert ImageChops.difference(enlarged.convert("RGB"), image.resize((100, 74), way)).getbbox() is None


def test_another_shape_is_cut_in_the_middle() -> None:
    image = build_image(40, 20)
    enlarged = run(image, ask(image, (40, 40), "Nearest")).convert("RGB")
    middle = image.resize((80, 40), Image.Resampling.NEAREST).crop((20, 0, 60, 40))
    assert ImageChops.difference(enlarged, middle).getbbox() is None


def test_a_second_upscaler_is_blended_over_the_first() -> None:
    image = build_image()
    size = 100, 74
    blended = run(image, ask(image, size, "Lanczos", second="Nearest", second_share=0.25)).convert("RGB")
    parts = [image.resize(size, way) for way in (Image.Resampling.LANCZOS, Image.Resampling.NEAREST)]
    assert ImageChops.difference(blended, Image.blend(parts[0], parts[1], 0.25)).getbbox() is None


def test_progress_counts_tiles_and_a_job_can_be_stopped_between_them(config: UpscalerConfig) -> None:
    engine = tiny_engine()
    image = build_image(600, 400)
    parameters = ask(image, (1200, 800), "4x", config.key)
    generation = engine.begin(parameters, {"d": write(image)}, add_ons=(config,))
    seen = []
    while not generation.is_done:
        seen.append(generation.steps_done)
        engine.step([generation])
    assert len(set(seen)) > 6
    assert seen == sorted(seen)
    assert generation.steps_done == UPSCALE_STEPS
    stopped = engine.begin(parameters, {"d": write(image)}, add_ons=(config,))
    engine.step([stopped])
    stopped.stop()
    assert isinstance(stopped.error, StopGenerationError)


def test_what_is_no_upscaler_is_refused_by_its_name(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, other)
    image = build_image()
    pickled = tmp_path / "pickle.pth"
    pickled.write_bytes(b"\x80\x04")
    said = {other: "upscaler mine: ", pickled: "upscaler mine: ", tmp_path / "missing.safetensors": "doesn't exist"}
    for source, sentence in said.items():
        config = UpscalerConfig(name="mine", source=str(source))
        with pytest.raises(GenerationError, match=sentence):
            run(image, ask(image, (100, 74), "mine", config.key), config)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_network_whose_numbers_are_no_image_is_refused_by_its_name(config: UpscalerConfig, number: float) -> None:
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    damaged = {name: torch.full_like(tensor, number) for name, tensor in load_file(config.source).items()}
    save_file(damaged, config.source)
    image = build_image()
    with pytest.raises(NonFiniteError, match="upscaler 4x gave numbers that aren't finite"):
        run(image, ask(image, (100, 74), "4x", config.key), config)


def test_an_image_that_would_get_too_large_on_its_way_is_refused(
    config: UpscalerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from easel_server.engine.add_ons import upscalers  # noqa: PLC0415

    monkeypatch.setattr(upscalers, "MAX_NETWORK_PIXELS", 100 * 100)
    image = build_image()
    with pytest.raises(GenerationError, match="would make 200x148 pixels"):
        run(image, ask(image, (100, 74), "4x", config.key), config)
