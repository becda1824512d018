"""How a service has its model denoised, where the model's files don't say it: as if they did."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from easel_contract.server_config import EngineKind, ModelConfig, SchedulerConfig
from easel_server.engine.interface import Engine, ModelLoadError
from easel_server.engine.loading import load_engine
from easel_server.generation.models import build_cache_key, identify_model
from easel_server.generation.recipes.recipe import read_recipe

from tests.support.images import open_image
from tests.support.tiny_engine import generate, tiny_engine, tiny_model_directory, tiny_parameters

pytestmark = pytest.mark.torch

VELOCITY = {"predictionType": "VPrediction", "rescaleBetasZeroSnr": True, "timestepSpacing": "Trailing"}
AS_FILES_SAY = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def load(source: Path, **scheduler: Any) -> Engine:
    chosen = SchedulerConfig.model_validate(scheduler) if scheduler else None
    config = ModelConfig(name="m", source=str(source), scheduler=chosen)
    return load_engine(config, hub_token=None, max_batch_images=1)


def with_files_that_say(place: Path, model: str, kind: str, **fields: Any) -> Path:
    """The model, whose own scheduler is of this kind and has these fields."""
    directory = shutil.copytree(tiny_model_directory(model), place / model)
    index, file = directory / "model_index.json", directory / "scheduler" / "scheduler_config.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "scheduler": ["diffusers", kind]}))
    file.write_text(json.dumps({**json.loads(file.read_text()), "_class_name": kind, **fields}))
    return directory


def pixels_of(engine: Engine, **changes: Any) -> bytes:
    [[image]] = generate(engine, tiny_parameters(**changes))
    return open_image(image).tobytes()


def test_velocity_with_zero_terminal_snr_is_as_if_the_files_said_so(tmp_path: Path) -> None:
    said = load(with_files_that_say(tmp_path, "sd15", "EulerDiscreteScheduler", **AS_FILES_SAY))
    chosen = load(tiny_model_directory(), sampler="Euler", **VELOCITY)
    for sampler in (None, "Euler a", "DPM++ 2M Karras", "DDIM", "UniPC", "LCM"):
        assert pixels_of(chosen, sampler=sampler) == pixels_of(said, sampler=sampler), sampler
        assert pixels_of(chosen, sampler=sampler) != pixels_of(tiny_engine(), sampler=sampler)
    assert chosen.description.samplers == tuple(
        each for each in said.description.samplers if each in chosen.description.samplers
    )
    assert not {"PNDM", "Heun", "DPM++ SDE"} & set(chosen.description.samplers), (
        "these can't do it, and would ignore it"
    )


@pytest.mark.parametrize("model", ["sd3", "flux"])
def test_a_shift_is_as_if_the_files_said_so_whatever_the_size(tmp_path: Path, model: str) -> None:
    fields = {"shift": 5.0, "use_dynamic_shifting": False}
    said = load(with_files_that_say(tmp_path, model, "FlowMatchEulerDiscreteScheduler", **fields))
    chosen = load(tiny_model_directory(model), shift=5.0)
    assert chosen.description.samplers == said.description.samplers
    for sampler in (None, "DPM++ 2M", "Euler Karras"):
        assert pixels_of(chosen, sampler=sampler) == pixels_of(said, sampler=sampler), sampler
    assert pixels_of(chosen) != pixels_of(tiny_engine(model))


def test_a_sampler_is_what_a_job_gets_that_names_none() -> None:
    chosen = load(tiny_model_directory(), sampler="DPM++ 2M Karras")
    assert pixels_of(chosen) == pixels_of(tiny_engine(), sampler="DPM++ 2M Karras")
    assert pixels_of(chosen, sampler="PNDM") == pixels_of(tiny_engine(), sampler="PNDM")


@pytest.mark.parametrize(
    ("model", "scheduler", "sentence"),
    [
        ("sd15", {"shift": 3}, "shift is for models that match flows .* and this one's scheduler is a PNDMScheduler"),
        ("sd3", {"predictionType": "VPrediction"}, "sets prediction_type, and this model matches flows"),
        ("sd3", {"sampler": "DDIM"}, "sampler is 'DDIM', which this model can't use; it can use: Euler, Euler Karras"),
        (
            "sd15",
            {"rescaleBetasZeroSnr": True},
            "the model's own PNDMScheduler has no rescale_betas_zero_snr; name a sampler that has .*: Euler, ",
        ),
        (
            "sd15",
            {"rescaleBetasZeroSnr": True, "sampler": "Heun"},
            "sampler is 'Heun', which this model can't use; it can use: Euler, ",
        ),
    ],
)
def test_what_the_model_cannot_do_is_refused_when_it_is_loaded(
    model: str, scheduler: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelLoadError, match=sentence):
        load(tiny_model_directory(model), **scheduler)


def test_other_images_are_cached_apart_and_say_what_they_are_of() -> None:
    engines = [tiny_engine(), load(tiny_model_directory(), sampler="Euler", **VELOCITY)]
    engines.append(load(tiny_model_directory(), sampler="Euler a"))
    config = ModelConfig(name="m", source="/m")
    keys = [build_cache_key("d", identify_model(each.description, config, EngineKind.DIFFUSERS)) for each in engines]
    assert keys[0] == keys[2], "which sampler a job has is in its parameters"
    assert keys[0] != keys[1]
    [[image]] = generate(engines[1], tiny_parameters())
    recipe = json.loads(open_image(image).info["easel"])
    assert recipe["scheduler"]["class"] == "EulerDiscreteScheduler"
    assert {name: recipe["scheduler"][name] for name in AS_FILES_SAY} == AS_FILES_SAY
    assert "prediction_type=VPrediction" in read_recipe(recipe).model["schedulerConfig"]
