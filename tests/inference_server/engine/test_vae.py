"""An autoencoder that a service names in place of its model's own: loaded from whatever people have, and part of what
the model is."""

import io
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from easel_contract.server_config import EngineKind, ModelConfig, SourceConfig
from easel_server.engine.interface import Engine, ModelLoadError
from easel_server.engine.loading import load_engine
from easel_server.generation.encoding import read_description, read_recipe_text
from easel_server.generation.models import build_cache_key, identify_model, model_key
from easel_server.generation.recipes.recipe import list_differences, read_recipe
from PIL import Image

from tests.support.tiny_engine import generate, tiny_engine, tiny_model_directory, tiny_parameters

pytestmark = pytest.mark.torch


def load(source: Path, vae: Path | None, **changes: Any) -> Engine:
    own = SourceConfig(source=str(vae)) if vae is not None else None
    return load_engine(
        ModelConfig(name="m", source=str(source), vae=own, **changes), hub_token=None, max_batch_images=1
    )


def pixels_of(engine: Engine, **changes: Any) -> bytes:
    [[image]] = generate(engine, tiny_parameters(**changes))
    return Image.open(io.BytesIO(image)).tobytes()


@cache
def other_vae(model: str) -> Any:
    """Of the model's own shape, with other weights."""
    tiny_model_directory(model)
    import torch  # noqa: PLC0415  # most tests don't need it
    from diffusers import AutoencoderKL  # noqa: PLC0415  # loads torch

    vae = AutoencoderKL.from_pretrained(tiny_model_directory(model) / "vae")
    generator = torch.Generator().manual_seed(5)
    for parameter in vae.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return vae.eval()


@cache
def expected_pixels(model: str) -> bytes:
    """Of the same model with that autoencoder as its own."""
    directory = tiny_model_directory(model).with_name(f"{model}-with-another-vae")
    shutil.copytree(tiny_model_directory(model), directory)
    other_vae(model).save_pretrained(directory / "vae")
    return pixels_of(load(directory, None))


def save(tensors: dict[str, Any], file: Path) -> Path:
    from safetensors.torch import save_file  # noqa: PLC0415  # loads torch

    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}, file)
    return file


def as_folder(vae: Any, place: Path) -> Path:
    vae.save_pretrained(place / "sd-vae")
    return place / "sd-vae"


def as_pipeline(vae: Any, place: Path) -> Path:
    vae.save_pretrained(place / "vae")
    (place / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    return place


def as_original(vae: Any, place: Path) -> Path:
    from tests.support.wild_files import name_autoencoder  # noqa: PLC0415  # loads torch

    return save(name_autoencoder(vae), place / "vae-ft-mse-840000-ema-pruned.safetensors")


def as_part_of_a_checkpoint(vae: Any, place: Path) -> Path:
    from tests.support.wild_files import add_prefix, name_autoencoder  # noqa: PLC0415  # loads torch

    return save(add_prefix("first_stage_model.", name_autoencoder(vae)), place / "my [vae].safetensors")


def as_new_names(vae: Any, place: Path) -> Path:
    return save(vae.state_dict(), place / "diffusion_pytorch_model.safetensors")


def as_old_names(vae: Any, place: Path) -> Path:
    """As diffusers wrote attention until 0.13, sd-vae-ft-mse among it."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for key, tensor in vae.state_dict().items():
        name = key
        for new, former in old.items():
            name = name.replace(f".{new}.", f".{former}.")
        tensors[name] = tensor
    return save(tensors, place / "old.safetensors")


def as_only_file_of_a_folder(vae: Any, place: Path) -> Path:
    return as_original(vae, place / "only").parent


LAYOUTS: dict[str, Callable[[Any, Path], Path]] = {
    "a folder of diffusers' layout": as_folder,
    "a whole pipeline": as_pipeline,
    "an original file": as_original,
    "a file with a checkpoint's prefix": as_part_of_a_checkpoint,
    "a file with diffusers' names": as_new_names,
    "a file with diffusers' old names": as_old_names,
    "a folder with one file": as_only_file_of_a_folder,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_are_those_of_the_model_with_that_autoencoder_as_its_own(tmp_path: Path, layout: str) -> None:
    engine = load(tiny_model_directory(), LAYOUTS[layout](other_vae("sd15"), tmp_path))
    assert pixels_of(engine) == expected_pixels("sd15")
    assert pixels_of(engine) != pixels_of(tiny_engine())


@pytest.mark.parametrize("model", ["sdxl", "sd3", "flux"])
def test_each_family_takes_one_of_its_own(tmp_path: Path, model: str) -> None:
    assert pixels_of(load(tiny_model_directory(model), as_original(other_vae(model), tmp_path))) == expected_pixels(
        model
    )


def test_the_models_own_is_neither_needed_nor_read(tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model_directory(), tmp_path / "model")
    (model / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    engine = load(model, as_folder(other_vae("sd15"), tmp_path))
    assert pixels_of(engine) == expected_pixels("sd15")
    with pytest.raises(ModelLoadError, match="component vae has no weights"):
        load(model, None)


def test_a_single_file_of_a_model_takes_it_in_place_of_the_one_that_it_holds(tmp_path: Path) -> None:
    from tests.inference_server.engine.test_single_files import (  # noqa: PLC0415  # loads torch
        checkpoint_of,
        is_same,
        write_configuration,
    )

    write_configuration(tmp_path / "model", "sd15")
    file = save(checkpoint_of("sd15"), tmp_path / "model" / "dream.safetensors")
    beside = as_original(other_vae("sdxl"), tmp_path)  # as AUTOMATIC1111 looks for one, and isn't asked to here
    shutil.move(beside, file.with_name("dream.vae.safetensors"))
    vae = as_original(other_vae("sd15"), tmp_path / "vaes")
    engine = load(file, vae)
    assert engine.description.vae_name == vae.name
    images = [Image.frombytes("RGB", (64, 64), each) for each in (pixels_of(engine), expected_pixels("sd15"))]
    assert is_same(*images)


def test_a_tiny_autoencoder_may_stand_for_a_whole_one(tmp_path: Path) -> None:
    tiny_model_directory()
    from diffusers import AutoencoderTiny  # noqa: PLC0415  # loads torch

    channels = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    engine = load(tiny_model_directory(), as_folder(AutoencoderTiny(**channels), tmp_path))
    assert len(pixels_of(engine)) == 64 * 64 * 3


def test_one_of_another_family_is_refused_with_what_differs(tmp_path: Path) -> None:
    xl, sixteen = as_folder(other_vae("sdxl"), tmp_path / "xl"), as_original(other_vae("sd3"), tmp_path / "sd3")
    sentence = "its scaling_factor is 0.13025, and the model's 0.18215: it is of another family; name an autoencoder"
    with pytest.raises(ModelLoadError, match=sentence):
        load(tiny_model_directory(), xl)
    with pytest.raises(ModelLoadError, match="its latents have 16 channels, and the model's 4; name an autoencoder"):
        load(tiny_model_directory(), sixteen)


def test_what_is_no_autoencoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"VAE .*: .*no\.safetensors .* is a model; name an autoencoder"):
        load(tiny_model_directory(), save(other_unet(), tmp_path / "no.safetensors"))
    with pytest.raises(ModelLoadError, match=r"VAE /vae/gone: /vae/gone does not exist; check model\.vae\.source"):
        load(tiny_model_directory(), Path("/vae/gone"))
    (tmp_path / "two").mkdir()
    for name in ("one", "two"):
        as_original(other_vae("sd15"), tmp_path / "two" / name)
    with pytest.raises(ModelLoadError, match=r"has no config\.json and 0 files of weights"):
        load(tiny_model_directory(), tmp_path / "two")


def other_unet() -> dict[str, Any]:
    import torch  # noqa: PLC0415  # most tests don't need it

    return {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}


def test_images_of_another_autoencoder_are_others_to_the_cache_the_flights_and_the_checkpoints(tmp_path: Path) -> None:
    from easel_server.engine.stepping.checkpoints import build_subject  # noqa: PLC0415  # loads torch

    vae = as_original(other_vae("sd15"), tmp_path)
    renamed = shutil.copy(vae, tmp_path / "renamed.safetensors")
    engines = [tiny_engine(), load(tiny_model_directory(), vae), load(tiny_model_directory(), Path(renamed))]
    config = ModelConfig(name="m", source=str(tiny_model_directory()))
    configs = [config, config.model_copy(update={"vae": SourceConfig(source=str(vae))})]
    keys = [build_cache_key("d", identify_model(each.description, config, EngineKind.DIFFUSERS)) for each in engines]
    assert keys[0] != keys[1] == keys[2]  # the same weights, whatever they are called
    assert len({model_key(each, EngineKind.DIFFUSERS) for each in configs}) == 2
    subjects = {build_subject(tiny_parameters(), each.description, {}) for each in engines}
    assert len(subjects) == 2


def test_an_image_says_which_it_was_in_both_of_its_forms(tmp_path: Path) -> None:
    import hashlib  # noqa: PLC0415

    vae = as_original(other_vae("sd15"), tmp_path)
    engine = load(tiny_model_directory(), vae)
    [[image]] = generate(engine, tiny_parameters())
    digest = hashlib.sha256(vae.read_bytes()).hexdigest()
    with Image.open(io.BytesIO(image)) as opened:
        text, recipe = read_description(opened), read_recipe(read_recipe_text(opened))
    assert f"VAE hash: {digest[:10]}, VAE: {vae.name}" in text
    assert (recipe.model["vae"], recipe.model["vaeName"]) == (f"sha256:{digest}", vae.name)
    own = identify_model(tiny_engine().description, ModelConfig(name="m", source="/m"), EngineKind.DIFFUSERS)
    recipe.model["weights"] = own.weights  # type: ignore[index]
    assert any("vae sha256:" in each for each in list_differences(recipe, {}, own))


def test_its_weights_count_where_memory_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_engine()
    from easel_server.engine.model_files import pipelines  # noqa: PLC0415  # loads torch

    vae = as_original(other_vae("sd15"), tmp_path)
    monkeypatch.setattr(pipelines, "_read_free_bytes", lambda _: 1000)
    with pytest.raises(ModelLoadError, match=r"the weights take .*vae [0-9.]+ MiB"):
        load(tiny_model_directory(), vae)
