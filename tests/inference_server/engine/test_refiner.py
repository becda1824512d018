"""A refiner: loaded beside its base model, sharing what both have alike, and part of what the model is."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from easel_contract.server_config import EngineKind, ModelConfig, SourceConfig
from easel_server.engine.interface import ModelLoadError
from easel_server.engine.loading import load_engine
from easel_server.generation.models import identify_model

from tests.support.tiny_engine import tiny_engine, tiny_model_directory

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its directory, without what it shares with its base: that isn't to be read."""
    directory = tmp_path_factory.mktemp("models") / "refiner"
    shutil.copytree(tiny_model_directory("sdxl-refiner"), directory)
    (directory / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (directory / "text_encoder_2" / "model.safetensors").unlink()
    return directory


def load_both(source: Path, refiner: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The engine's description, and the pipelines that it was given."""
    tiny_engine()  # so that the libraries are prepared before they are imported here
    from easel_server.engine import diffusers_loader  # noqa: PLC0415  # loads torch
    from easel_server.engine.diffusers_engine import DiffusersEngine  # noqa: PLC0415  # loads torch

    given: list[Any] = []

    def build_engine(pipeline: Any, description: Any, *, refiner: Any = None, **options: Any) -> Any:
        given.extend((pipeline, refiner))
        return DiffusersEngine(pipeline, description, **options)

    monkeypatch.setattr(diffusers_loader, "DiffusersEngine", build_engine)
    config = ModelConfig(name="m", source=str(source), refiner=SourceConfig(source=str(refiner)))
    engine = load_engine(config, hub_token=None)
    return engine.description, given


def test_a_refiner_shares_the_second_text_encoder_and_the_autoencoder_of_its_base(
    refiner: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description, (base, second) = load_both(tiny_model_directory("sdxl"), refiner, monkeypatch)
    assert type(second).__name__ == "StableDiffusionXLImg2ImgPipeline"
    assert second.text_encoder_2 is base.text_encoder_2
    assert second.vae is base.vae
    assert second.text_encoder is None
    assert second.unet is not base.unet
    assert description.pipeline == "StableDiffusionXLPipeline"
    assert description.resolved_revision == tiny_engine("sdxl").description.resolved_revision


def test_another_refiner_makes_another_model(refiner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = shutil.copytree(refiner, tmp_path / "other")
    file = other / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    descriptions = [load_both(tiny_model_directory("sdxl"), each, monkeypatch)[0] for each in (refiner, other)]
    descriptions.append(tiny_engine("sdxl").description)
    config = ModelConfig(name="m", source="/m")
    identities = [identify_model(each, config, EngineKind.DIFFUSERS) for each in descriptions]
    assert len({identity.refiner for identity in identities}) == 3
    assert identities[0].refiner.startswith("sha256:")
    assert len({identity.weights for identity in identities}) == 1


def test_a_refiner_that_is_given_as_the_model_is_named() -> None:
    with pytest.raises(ModelLoadError) as raised:
        load_engine(ModelConfig(name="m", source=str(tiny_model_directory("sdxl-refiner"))), hub_token=None)
    assert "it is a refiner, which only goes on with another model's images; name it in model.refiner" in str(
        raised.value
    )


def test_what_is_no_refiner_is_named_with_what_it_is() -> None:
    base = str(tiny_model_directory("sdxl"))
    with pytest.raises(ModelLoadError, match=r"refiner \S+: it is a StableDiffusionXLPipeline, and a refiner is a"):
        load_engine(ModelConfig(name="m", source=base, refiner=SourceConfig(source=base)), hub_token=None)


def test_a_refiner_of_another_family_is_refused(refiner: Path) -> None:
    config = ModelConfig(name="m", source=str(tiny_model_directory("sd15")), refiner=SourceConfig(source=str(refiner)))
    with pytest.raises(ModelLoadError, match=r"a refiner goes with Stable Diffusion XL, and the model is a Stable"):
        load_engine(config, hub_token=None)
