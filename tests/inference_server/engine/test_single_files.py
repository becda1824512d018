"""Single files of weights, in the layouts that other front ends write: the same images as the pipeline they are of."""

import io
import json
import pickle
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from easel_contract.server_config import ModelConfig, SafetyPolicy
from easel_server.engine.interface import Engine, ModelLoadError
from easel_server.engine.loading import load_engine
from PIL import Image, ImageChops

from tests.support.tiny_engine import generate, tiny_engine, tiny_model_directory, tiny_parameters

pytestmark = pytest.mark.torch

UNET = "model.diffusion_model."
VAE = "first_stage_model."


def load(source: Path, **changes: Any) -> Engine:
    return load_engine(ModelConfig(name="m", source=str(source), **changes), hub_token=None)


def image_of(engine: Engine) -> Image.Image:
    return Image.open(io.BytesIO(generate(engine, tiny_parameters())[0][0]))


def is_same(one: Image.Image, other: Image.Image) -> bool:
    """Up to a step of a colour: weights that lie elsewhere in memory are added up in another order."""
    extrema = ImageChops.difference(one, other).getextrema()
    return all(isinstance(band, tuple) and band[1] <= 1 for band in extrema)


@cache
def directory_of(name: str) -> Path:
    """Of a tiny model, which has what all models of its family have alike."""
    directory = tiny_model_directory(name)
    if name == "sd3":
        directory = shutil.copytree(directory, directory.with_name("sd3-with-an-identity"))
        import torch  # noqa: PLC0415  # most tests don't need it
        from transformers import CLIPTextModelWithProjection  # noqa: PLC0415  # loads torch

        encoder = CLIPTextModelWithProjection.from_pretrained(directory / "text_encoder")
        torch.nn.init.eye_(encoder.text_projection.weight)  # files of this family don't hold it
        encoder.save_pretrained(directory / "text_encoder")
    return directory


@cache
def checkpoint_of(name: str) -> dict[str, Any]:
    """The tiny model's weights in one file, as its family's original trainer writes them."""
    directory = directory_of(name)
    from diffusers import DiffusionPipeline  # noqa: PLC0415  # loads torch

    from tests.support import wild_files  # noqa: PLC0415  # loads torch

    build = {
        "sd15": wild_files.build_sd15_checkpoint,
        "sd2": wild_files.build_sd2_checkpoint,
        "sdxl": wild_files.build_sdxl_checkpoint,
        "sd3": wild_files.build_sd3_checkpoint,
    }[name]
    return build(DiffusionPipeline.from_pretrained(directory))


def save(tensors: dict[str, Any], file: Path) -> Path:
    from safetensors.torch import save_file  # noqa: PLC0415  # loads torch

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.clone().contiguous() for key, tensor in tensors.items()}, file)
    return file


def write_configuration(directory: Path, name: str, *, without: tuple[str, ...] = ("*.safetensors",)) -> Path:
    """A pipeline's directory without weights, or without those that are named."""
    shutil.copytree(directory_of(name), directory, ignore=shutil.ignore_patterns(*without), dirs_exist_ok=True)
    return directory


def without(prefix: str, tensors: dict[str, Any]) -> dict[str, Any]:
    return {key: tensor for key, tensor in tensors.items() if not key.startswith(prefix)}


def only(prefix: str, tensors: dict[str, Any], new: str) -> dict[str, Any]:
    return {new + key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def with_averages(tensors: dict[str, Any]) -> dict[str, Any]:
    from tests.support.wild_files import build_averages  # noqa: PLC0415  # loads torch

    return {**tensors, **build_averages(only(UNET, tensors, "."))}


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {key.replace(old, new): tensor for key, tensor in tensors.items()}


WHOLE: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "Stable Diffusion 1.5": ("sd15", dict),
    "Stable Diffusion 2.1": ("sd2", dict),
    "Stable Diffusion XL": ("sdxl", dict),
    "Stable Diffusion 3": ("sd3", dict),
    "with moving averages": ("sd15", with_averages),
    "of before CLIP's text model was inside of another": ("sd15", renamed("transformer.text_model.", "transformer.")),
    "with the autoencoder as ComfyUI calls it": ("sdxl", renamed(VAE, "vae.")),
    "compiled when it was saved": ("sd15", renamed(UNET, f"_orig_mod.{UNET}")),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_whole_model_in_one_file_is_the_same_as_its_pipeline(tmp_path: Path, case: str) -> None:
    name, change = WHOLE[case]
    write_configuration(tmp_path, name)
    engine = load(save(change(checkpoint_of(name)), tmp_path / "dream & [v8] (1).safetensors"))
    pipeline = load(directory_of(name)) if name == "sd3" else tiny_engine(name)
    assert engine.description.pipeline == pipeline.description.pipeline
    assert engine.description.defaults == pipeline.description.defaults
    assert engine.description.resolved_revision == pipeline.description.resolved_revision
    assert is_same(image_of(engine), image_of(pipeline))


PARTIAL: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "ComfyUI's denoiser without a prefix": ("unet", lambda tensors: only(UNET, tensors, "")),
    "a denoiser with half of its prefix": ("unet", lambda tensors: only(UNET, tensors, "diffusion_model.")),
    "a denoiser with its prefix": ("unet", lambda tensors: only(UNET, tensors, UNET)),
    "no autoencoder": ("vae", lambda tensors: without(VAE, tensors)),
}


@pytest.mark.parametrize("case", PARTIAL)
def test_what_a_file_lacks_comes_from_the_pipeline_beside_it(tmp_path: Path, case: str) -> None:
    kind, change = PARTIAL[case]
    write_configuration(tmp_path, "sd15", without=())
    given = [tmp_path / "unet"] if kind == "unet" else [tmp_path / "unet", tmp_path / "text_encoder"]
    for directory in given:
        (next(directory.glob("*.safetensors"))).unlink()
    engine = load(save(change(checkpoint_of("sd15")), tmp_path / "dream.safetensors"))
    assert is_same(image_of(engine), image_of(tiny_engine()))


def test_an_autoencoder_beside_the_file_is_used_in_place_of_its_own(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415  # most tests don't need it

    write_configuration(tmp_path, "sd15")
    tensors = checkpoint_of("sd15")
    broken = {key: torch.zeros_like(each) if key.startswith(VAE) else each for key, each in tensors.items()}
    file = save(broken, tmp_path / "dream.safetensors")
    alone = image_of(load(file))
    save(only(VAE, tensors, ""), tmp_path / "dream.vae.safetensors")
    assert is_same(image_of(load(file)), image_of(tiny_engine()))
    assert not is_same(alone, image_of(tiny_engine()))


def test_a_safety_checker_is_only_looked_for_beside_a_file_where_one_is_asked_for(tmp_path: Path) -> None:
    write_configuration(tmp_path, "sd15")
    index = tmp_path / "model_index.json"
    checker = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    index.write_text(json.dumps({**json.loads(index.read_text()), **checker}))
    file = save(checkpoint_of("sd15"), tmp_path / "dream.safetensors")
    assert load(file).description.pipeline == "StableDiffusionPipeline"
    with pytest.raises(ModelLoadError, match="component safety_checker has no weights"):
        load(file, safety=SafetyPolicy.BLUR)


def test_a_directory_with_one_file_is_that_file_and_so_is_its_folder_of_the_same_name(tmp_path: Path) -> None:
    save(checkpoint_of("sd15"), tmp_path / "dream.safetensors")
    write_configuration(tmp_path / "dream", "sd15")
    assert is_same(image_of(load(tmp_path)), image_of(tiny_engine()))


def test_weights_of_half_the_width_are_loaded_as_wide_as_the_device_wants(tmp_path: Path) -> None:
    write_configuration(tmp_path, "sd15")
    halves = {key: tensor.half() for key, tensor in checkpoint_of("sd15").items()}
    engine = load(save(halves, tmp_path / "dream.safetensors"))
    assert engine.description.dtype == "float32"
    assert engine.description.resolved_revision != tiny_engine().description.resolved_revision


def test_a_pickle_is_refused_unless_the_service_allows_it(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415  # most tests don't need it

    write_configuration(tmp_path, "sd15")
    file = tmp_path / "dream.ckpt"
    torch.save({"state_dict": checkpoint_of("sd15"), "epoch": 3}, file)
    with pytest.raises(ModelLoadError, match=r"dream\.ckpt is a pickle, .* or set model\.allowPickles"):
        load(file)
    assert is_same(image_of(load(file, allow_pickles=True)), image_of(tiny_engine()))


class Call:
    """What a pickle calls where it is read in full."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def test_what_a_pickle_would_call_is_not_called_even_where_pickles_are_allowed(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415  # most tests don't need it

    write_configuration(tmp_path, "sd15")
    file, called = tmp_path / "dream.ckpt", tmp_path / "called"
    torch.save({"state_dict": {"weight": Call(called)}}, file)
    with pytest.raises(ModelLoadError, match=r"dream\.ckpt can't be read as tensors alone"):
        load(file, allow_pickles=True)
    file.write_bytes(pickle.dumps({"weight": Call(called)}))
    with pytest.raises(ModelLoadError, match=r"dream\.ckpt can't be read as tensors alone"):
        load(file, allow_pickles=True)
    assert not called.exists()


def test_a_file_of_another_family_than_its_configuration_is_named(tmp_path: Path) -> None:
    write_configuration(tmp_path, "sd15")
    file = save(checkpoint_of("sdxl"), tmp_path / "xl.safetensors")
    with pytest.raises(ModelLoadError, match=r"xl\.safetensors doesn't fit its .*configRepository"):
        load(file)


def test_a_file_without_any_configuration_says_where_it_was_looked_for_and_what_to_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants  # noqa: PLC0415  # most tests don't need it

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    file = save(checkpoint_of("sd15"), tmp_path / "dream.safetensors")
    with pytest.raises(ModelLoadError) as raised:
        load(file)
    for part in (
        "dream.safetensors holds no configuration and no tokenizers",
        "looked for in stable-diffusion-v1-5/stable-diffusion-v1-5",
        "HF_HUB_OFFLINE is set",
        "put model_index.json and the folders of a pipeline of the same family",
        "model.configRepository",
    ):
        assert part in str(raised.value)
