"""Control images by a network: what transformers' own pipeline gives, made once, by the worker, as part of the job."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from easel_contract.add_ons import AddOnConfig
from easel_contract.gateway_config import Reproducibility
from easel_server.engine import loading
from easel_server.engine.interface import GenerationError
from easel_server.generation.add_ons import HiresPass
from easel_server.generation.tasks import Task
from PIL import Image

from tests.inference_server.engine.add_ons.control_nets import run, use_of
from tests.inference_server.engine.parity.stock import INPUTS, build_engine, build_job
from tests.inference_server.engine.stepping.running import go_on, images_of
from tests.support.images import digest

loading.prepare_libraries()
pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning"),  # diffusers' own, of Flux's ControlNets
]


@pytest.fixture(scope="module")
def depth(tmp_path_factory: Any) -> AddOnConfig:
    from tests.support.tiny_models.depth import write_tiny_depth  # noqa: PLC0415  # loads torch

    return AddOnConfig(name="depth", source=str(write_tiny_depth(tmp_path_factory.mktemp("depth"))))


def made_by(config: AddOnConfig) -> dict[str, str]:
    return {"preprocessor": config.name, "preprocessor_key": config.key}


def call_transformers(source: str, image: Image.Image) -> Image.Image:
    """Its own pipeline's image."""
    from transformers import pipeline  # noqa: PLC0415  # loads torch

    found: Any = pipeline("depth-estimation", model=source, device="cpu")(image)
    grey: Image.Image = found["depth"]
    return grey.convert("RGB")


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 160)])
@pytest.mark.parametrize("is_metric", [False, True])
def test_a_control_image_of_depth_is_that_of_transformers_pipeline_with_near_points_white(
    size: tuple[int, int], is_metric: bool, tmp_path: Path
) -> None:
    from easel_server.engine.images.preprocessors import load_depth_network  # noqa: PLC0415  # loads torch

    from tests.support.tiny_models.depth import write_tiny_depth  # noqa: PLC0415  # loads torch

    write_tiny_depth(tmp_path, is_metric=is_metric)
    image = Image.merge("RGB", [Image.effect_noise(size, sigma) for sigma in (20, 60, 90)])
    ours = load_depth_network("depth", tmp_path).make(image)
    assert (ours.size, ours.mode) == (size, "RGB")
    stock = np.asarray(call_transformers(str(tmp_path), image)).astype(int)
    expected = 255 - stock if is_metric else stock
    assert np.abs(np.asarray(ours).astype(int) - expected).max() <= is_metric  # which is rounded from the other end
    assert np.asarray(ours).std() > 1


def test_a_job_has_its_control_image_made_once_and_gets_what_it_gets_with_the_finished_one(
    nets: Any, depth: AddOnConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from easel_server.engine.images.preprocessors import DepthNetwork  # noqa: PLC0415  # loads torch

    engine, config = build_engine("sd15"), nets["sd15"]
    made: list[Image.Image] = []
    make = DepthNetwork.make

    def count(network: Any, image: Image.Image) -> Image.Image:
        made.append(make(network, image))
        return made[-1]

    monkeypatch.setattr(DepthNetwork, "make", count)
    hires = HiresPass(width_pixels=128, height_pixels=128, upscaler="Latent", strength=0.75)
    asked = {"hires": hires, "reproducibility": Reproducibility.EXACT}
    job = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config, **made_by(depth)),), **asked)
    engine.gather(job, [config, depth])
    generation = engine.begin(job, INPUTS, add_ons=[config, depth])
    beside = engine.begin(build_job(Task.TEXT_TO_IMAGE), {})
    go_on(engine, [generation, beside])
    [image] = images_of(generation)
    assert len(made) == 1  # for both passes
    buffer = BytesIO()
    made[0].save(buffer, "PNG")
    finished = buffer.getvalue()
    again = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config, image_digest=digest(finished)),), **asked)
    other = engine.begin(again, {digest(finished): finished}, add_ons=[config])
    go_on(engine, [other])
    assert Image.open(BytesIO(images_of(other)[0])).tobytes() == Image.open(BytesIO(image)).tobytes()
    raw = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config),), **asked)
    assert run(engine, raw, [config]) != Image.open(BytesIO(image)).tobytes()
    assert engine._residency.count_held_bytes() == 0


def test_a_job_goes_on_with_the_same_control_image_from_its_checkpoint(nets: Any, depth: AddOnConfig) -> None:
    engine, config = build_engine("sd15"), nets["sd15"]
    job = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config, **made_by(depth)),))
    whole = run(engine, job, [config, depth])
    first = engine.begin(job, INPUTS, add_ons=[config, depth])
    go_on(engine, [first], until=lambda: first.steps_done >= 3)
    saved = first.checkpoint()
    first.stop()
    second = engine.begin(job, INPUTS, checkpoint=saved, add_ons=[config, depth])
    assert second.steps_done >= 3
    go_on(engine, [second])
    assert Image.open(BytesIO(images_of(second)[0])).tobytes() == whole


def test_a_file_that_is_overwritten_in_place_changes_nothing_of_the_network_that_was_read(tmp_path: Path) -> None:
    from easel_server.engine.images.preprocessors import load_depth_network  # noqa: PLC0415  # loads torch

    from tests.support.tiny_models.depth import write_tiny_depth  # noqa: PLC0415  # loads torch

    write_tiny_depth(tmp_path)
    image = Image.effect_noise((64, 64), 60).convert("RGB")
    network = load_depth_network("depth", tmp_path)
    weights = tmp_path / "model.safetensors"
    with weights.open("r+b") as file:  # the same file to whoever has it open or mapped
        file.write(bytes(weights.stat().st_size))
    before = network.make(image)
    write_tiny_depth(tmp_path)
    assert before.tobytes() == load_depth_network("depth", tmp_path).make(image).tobytes()


def test_what_is_no_network_for_depth_fails_the_job_by_its_name(nets: Any, depth: AddOnConfig, tmp_path: Path) -> None:
    engine, config = build_engine("sd15"), nets["sd15"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"architectures": ["BertModel"], "model_type": "bert"}))
    (tmp_path / "file.safetensors").write_bytes(b"")
    refused = {
        str(tmp_path / "other"): "BertModel; allowed is …ForDepthEstimation",
        str(tmp_path / "file.safetensors"): "is a file; name the folder",
        str(nets["sdxl"].source): "can't be read",
    }
    for source, said in refused.items():
        other = AddOnConfig(name="depth", source=source)
        job = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config, **made_by(other)),))
        generation = engine.begin(job, INPUTS, add_ons=[config, other])
        assert isinstance(generation.error, GenerationError), source
        assert "preprocessor depth" in str(generation.error)
        assert said in str(generation.error)
    lost = build_job(Task.TEXT_TO_IMAGE, controls=(use_of(config, **made_by(depth)),))
    assert "didn't come with the job" in str(engine.begin(lost, INPUTS, add_ons=[config]).error)
