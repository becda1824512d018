"""Samplers by AUTOMATIC1111's names: each generates, differs from the others, and keeps the promise of batches."""

import subprocess
import sys
from typing import Any

import pytest
from easel_server.engine.interface import GenerationError
from easel_server.generation.samplers import SAMPLERS, split_sampler
from easel_server.generation.tasks import Task

from tests.support.images import build_image, digest, open_image, pixels_differ_by
from tests.support.nightly import by_day
from tests.support.tiny_engine import generate, generate_together, ignore_step, tiny_engine, tiny_parameters

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_all_are_offered_for_models_with_the_usual_noise_schedule(model):
    assert tiny_engine(model).description.samplers == tuple(SAMPLERS)


def test_flow_matching_models_are_offered_what_knows_flow_and_keep_their_shift():
    from diffusers import FlowMatchEulerDiscreteScheduler  # noqa: PLC0415  # loads torch, as a gateway never does
    from easel_server.engine.schedulers.schedulers import FLOW_SAMPLERS, Schedulers  # noqa: PLC0415

    schedulers = Schedulers(FlowMatchEulerDiscreteScheduler(shift=3.0))
    assert set(schedulers.samplers) == FLOW_SAMPLERS
    for sampler in (None, "Euler", "Heun"):
        assert schedulers.build(sampler).config.shift == 3.0
    for sampler in ("DPM++ 2M", "UniPC"):
        assert schedulers.build(sampler).config.flow_shift == 3.0
    with pytest.raises(GenerationError, match="can't use the sampler 'DDIM'; it can use: Euler"):
        schedulers.build("DDIM")


def test_models_with_flow_in_another_scheduler_are_offered_those_that_know_it():
    from diffusers import DPMSolverMultistepScheduler  # noqa: PLC0415
    from easel_server.engine.schedulers.schedulers import Schedulers  # noqa: PLC0415

    own = DPMSolverMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction")
    schedulers = Schedulers(own)
    assert {"DPM++ 2M", "DPM++ 2M SDE", "UniPC"} <= set(schedulers.samplers)
    assert all(schedulers.build(name).config.flow_shift == 3.0 for name in schedulers.samplers)


def test_a_name_means_the_same_whatever_the_models_own_scheduler_has():
    from diffusers import DPMSolverMultistepScheduler  # noqa: PLC0415
    from easel_server.engine.schedulers.schedulers import Schedulers  # noqa: PLC0415

    own: Any = DPMSolverMultistepScheduler(use_karras_sigmas=True, algorithm_type="sde-dpmsolver++", solver_order=3)
    schedulers = Schedulers(own)
    plain = schedulers.build("DPM++ 2M").config
    assert (plain.algorithm_type, plain.use_karras_sigmas, plain.solver_order) == ("dpmsolver++", False, 2)
    assert schedulers.build("Euler").config.use_karras_sigmas is False
    assert schedulers.build("DPM++ SDE Karras").config.use_karras_sigmas is True
    assert schedulers.build(None).config == own.config


def test_what_a_pipeline_has_mended_in_its_own_scheduler_is_kept():
    """Stable Diffusion's pipelines turn clipping off where a repository doesn't; diffusers notes it as a default."""
    from diffusers import DDIMScheduler  # noqa: PLC0415
    from easel_server.engine.schedulers.schedulers import read_config  # noqa: PLC0415

    scheduler: Any = DDIMScheduler()
    assert "clip_sample" not in read_config(scheduler)
    scheduler.register_to_config(clip_sample=False)
    assert read_config(scheduler)["clip_sample"] is False
    assert read_config(DDIMScheduler(clip_sample=True))["clip_sample"] is True


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", by_day([1, 2, 3, 7], (1, 7).__contains__))
def test_each_generates_with_few_steps_and_odd_ones(sampler, steps):
    seen: list[int] = []
    request = tiny_parameters(sampler=sampler, steps=steps)
    [[data]] = generate_together(tiny_engine(), [request], {}, lambda step: seen.append(step.done))
    assert seen == sorted(seen)
    assert seen[-1] == steps
    assert len(set(open_image(data).convert("L").tobytes())) > 1, "a plain image is a broken one"
    name, schedule = split_sampler(sampler)
    written = f"Sampler: {name}, Schedule type: {schedule}, " if schedule else f"Sampler: {name}, "
    assert written in open_image(data).info["parameters"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_generates_a_job_of_a_batch_as_if_alone(sampler):
    """Those that add noise at each step take it from the image's own seed."""
    engine = tiny_engine("sdxl")
    requests = [tiny_parameters(sampler=sampler, seed=seed, steps=5) for seed in (3, 30)]
    together = generate(engine, *requests)
    for images, parameters in zip(together, requests, strict=True):
        assert pixels_differ_by(images[0], generate(engine, parameters)[0][0]) <= 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_begins_with_an_image_too(sampler):
    image = build_image(64, 64)
    parameters = tiny_parameters(
        task=Task.IMAGE_TO_IMAGE, image_digest=digest(image), strength=0.5, steps=6, sampler=sampler
    )
    seen: list[int] = []
    [[data]] = generate_together(
        tiny_engine(), [parameters], {digest(image): image}, lambda step: seen.append(step.done)
    )
    assert seen[-1] == 6
    assert len(set(open_image(data).convert("L").tobytes())) > 1


def test_they_differ_and_none_leaves_a_trace_in_the_next_generation():
    engine = tiny_engine()
    own = generate(engine, tiny_parameters(steps=8))
    generated = {name: generate(engine, tiny_parameters(steps=8, sampler=name))[0][0] for name in SAMPLERS}
    pixels = {name: open_image(data).tobytes() for name, data in generated.items()}
    assert len(set(pixels.values())) == len(pixels)
    assert generate(engine, tiny_parameters(steps=8)) == own
    assert pixels["PNDM"] == open_image(own[0][0]).tobytes(), "the model's own"


def test_an_unknown_one_is_named_with_what_there_is():
    with pytest.raises(
        GenerationError, match=r"can't use the sampler 'Euler b'; it can use: Euler, Euler Karras, Euler Exp"
    ):
        generate_together(tiny_engine(), [tiny_parameters(sampler="Euler b")], {}, ignore_step)


def test_the_names_are_known_without_torch():
    program = "import sys, easel_server.generation.samplers; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
