"""A job alone gets, bit by bit, what diffusers' own call gives: for each family, task and sampler."""

from io import BytesIO
from typing import Any

import pytest
from easel_server.engine.interface import Engine, Generation
from easel_server.generation.families import get_family
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.samplers import SAMPLERS
from easel_server.generation.tasks import Task
from PIL import Image

from tests.inference_server.engine.parity.stock import (
    INPUTS,
    OF_LATENTS,
    build_engine,
    build_job,
    build_pipeline,
    call_stock,
    stock_scheduler,
)
from tests.support.nightly import by_day

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # diffusers' of schedulers that lack fields
    pytest.mark.filterwarnings("ignore:Should have:UserWarning"),  # torchsde's of rounding, in the stock call
]

LATER = (" Exponential", " Beta", " SGM Uniform")
SCHEDULED = tuple(name for name in SAMPLERS if name.endswith(LATER) or name in ("Euler Karras", "Heun Karras"))
ALL = tuple(name for name in SAMPLERS if name not in SCHEDULED)
IMAGE_TASKS = (Task.IMAGE_TO_IMAGE, Task.INPAINT)
TASKS = (Task.TEXT_TO_IMAGE, *IMAGE_TASKS)  # those that denoise; for upscaling there is no call of a pipeline
WHOLE = ("sd15", "sd2", "sd-turbo", "sdxl", "sdxl-turbo")  # families whose schedulers may be exchanged
FLOW = ("sd3", "flux", "flux-schnell")
BARE = ("sd15", "sd2", "sdxl", "lcm", "sd3", "flux")
PIXART = ("pixart-alpha", "pixart-sigma")
SAMPLED_BY_DAY = (("sd15", Task.TEXT_TO_IMAGE), ("sdxl", Task.IMAGE_TO_IMAGE), ("sd3", Task.TEXT_TO_IMAGE))


def list_cases() -> list[tuple[str, bool, Task, str | None]]:
    """Model, whether its scheduler's configuration is bare, task, sampler."""
    cases: list[tuple[str, bool, Task, str | None]] = []
    for task in TASKS:
        cases += [(name, False, task, sampler) for name in ("sd15", "sdxl") for sampler in (None, *ALL)]
        cases += [(name, False, task, sampler) for name in ("sd-turbo", "sdxl-turbo") for sampler in (None, "DDIM")]
        cases += [("sd2", False, task, sampler) for sampler in (None, "DPM++ SDE", "Euler a")]
        cases += [(name, False, task, None) for name in FLOW]
        cases += [(name, True, task, None) for name in BARE if (name, task) != ("lcm", Task.INPAINT)]
    cases += [("sd2", False, Task.TEXT_TO_IMAGE, sampler) for sampler in ALL]
    cases += [("lcm", False, task, sampler) for task in TASKS[:2] for sampler in (None, "LCM")]
    cases += [(name, False, Task.TEXT_TO_IMAGE, sampler) for name in PIXART for sampler in (None, *ALL)]
    cases += [(name, False, Task.TEXT_TO_IMAGE, sampler) for name in ("sd15", "sdxl") for sampler in SCHEDULED]
    # As diffusers has them: its other solvers can't begin with an image, and Flux's own shift isn't known to all.
    flow = ("Euler", "Euler Karras", "Euler Exponential", "Euler Beta")
    cases += [(name, False, task, sampler) for name in FLOW for task in IMAGE_TASKS for sampler in flow[1:2]]
    cases += [(name, False, Task.TEXT_TO_IMAGE, sampler) for name in FLOW for sampler in flow]
    cases += [("sd3", False, Task.TEXT_TO_IMAGE, sampler) for sampler in ("Heun", "DPM++ 2M", "UniPC")]
    cases += [("sd3", False, Task.IMAGE_TO_IMAGE, "Heun"), ("flux", False, Task.TEXT_TO_IMAGE, "UniPC")]
    # What a missing field means: for every sampler, with an image to begin with too, where clipping shows most.
    for task in (Task.TEXT_TO_IMAGE, Task.IMAGE_TO_IMAGE):
        cases += [(name, True, task, sampler) for name in ("sd15", "sdxl") for sampler in ALL]
    return list(dict.fromkeys(cases))


def is_by_day(case: tuple[str, bool, Task, str | None]) -> bool:
    """Each model and task with its own scheduler; each sampler from noise with one, from an image with another."""
    name, bare, task, sampler = case
    return sampler is None or (not bare and (name, task) in SAMPLED_BY_DAY)


def run(engine: Engine, job: GenerationParameters) -> Generation:
    """The job, alone, to its end."""
    generation = engine.begin(job, INPUTS)
    while not generation.is_done:
        engine.step([generation])
    return generation


def generate(engine: Engine, job: GenerationParameters) -> Image.Image:
    """The image of a job alone."""
    generation = run(engine, job)
    assert generation.error is None
    return Image.open(BytesIO(generation.encode_images()[0]))


@pytest.mark.parametrize(("name", "bare", "task", "sampler"), by_day(list_cases(), is_by_day))
def test_a_job_alone_gets_what_the_pipelines_own_call_gives(
    name: str, bare: bool, task: Task, sampler: str | None
) -> None:
    job = build_job(task, sampler=sampler)
    # PixArt's repositories have schedulers that know no clipping, so their configuration lacks what DDIM needs.
    lacks_fields = bare or name in PIXART
    pipeline = build_pipeline(name, bare=bare)
    with stock_scheduler(pipeline, sampler, job.seed, bare=lacks_fields):
        expected = call_stock(pipeline, job)
    assert generate(build_engine(name, bare=bare), job).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", FLOW)
@pytest.mark.parametrize("task", TASKS)
def test_euler_is_what_flow_matching_models_have_anyway(name: str, task: Task) -> None:
    engine = build_engine(name)
    named, own = (generate(engine, build_job(task, sampler=sampler)) for sampler in ("Euler", None))
    assert named.tobytes() == own.tobytes()


@pytest.mark.parametrize("name", [*WHOLE, *FLOW, *PIXART])
def test_a_negative_prompt_has_the_effect_that_the_familys_own_argument_has(name: str) -> None:
    engine, family = build_engine(name), build_engine(name).family
    job = build_job(Task.TEXT_TO_IMAGE, negative_prompt="fur", guidance_scale=3.0)
    given: dict[str, Any] = {}
    if family.true_guidance_scale is not None:
        given["true_cfg_scale"] = 2.0
    expected = call_stock(build_pipeline(name), job, **given)
    image = generate(engine, job)
    assert image.tobytes() == expected.tobytes()
    without = generate(engine, build_job(Task.TEXT_TO_IMAGE, guidance_scale=3.0))
    assert (image.tobytes() != without.tobytes()) is (family.count_passes(3.0, "fur") == 2)


def test_latents_are_not_clipped_where_the_configuration_says_nothing_of_it() -> None:
    """Stable Diffusion XL's pipelines take DDIM with its own default as it is; those before it mend that themselves."""
    import diffusers  # noqa: PLC0415  # loads torch

    job = build_job(Task.IMAGE_TO_IMAGE, sampler="DDIM")
    pipeline = build_pipeline("sdxl", bare=True)
    own, images = pipeline.scheduler, {}
    for is_clipped in (True, False):
        fields = OF_LATENTS["DDIM"] | {"clip_sample": is_clipped}
        pipeline.scheduler = diffusers.DDIMScheduler.from_config(own.config, **fields)
        try:
            images[is_clipped] = call_stock(pipeline, job).tobytes()
        finally:
            pipeline.scheduler = own
    assert images[True] != images[False]
    assert generate(build_engine("sdxl", bare=True), job).tobytes() == images[False]


@pytest.mark.parametrize("strength", [0.29, 0.5, 0.58, 0.6, 0.999, 1.0])
@pytest.mark.parametrize("name", ["sd15", "sdxl", "lcm", "sd3", "flux"])
def test_as_many_steps_are_taken_as_the_familys_rule_says_and_the_image_is_the_stock_calls(
    name: str, strength: float
) -> None:
    engine, family = build_engine(name), build_engine(name).family
    job = build_job(Task.IMAGE_TO_IMAGE, strength=strength, steps=10, guidance_scale=1.0).model_copy(
        update={"family": family.name, "sampler": "DDIM" if name in ("sd15", "sdxl") else None}
    )
    seen: list[int] = []

    def note(_pipeline: Any, index: int, _timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
        seen.append(index)
        return kept

    pipeline = build_pipeline(name)
    with stock_scheduler(pipeline, job.sampler, job.seed):
        expected = call_stock(pipeline, job, callback_on_step_end=note)
    assert len(seen) == job.denoising_steps
    assert generate(engine, job).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", [*WHOLE, "lcm", *FLOW, *PIXART])
def test_progress_comes_step_by_step_for_every_family(name: str) -> None:
    engine = build_engine(name)
    generation = engine.begin(build_job(Task.TEXT_TO_IMAGE), INPUTS)
    seen = {generation.steps_done}
    while not generation.is_done:
        engine.step([generation])
        seen.add(generation.steps_done)
    assert seen == set(range(6))


@pytest.mark.parametrize("sampler", ["DPM++ SDE", "DPM++ SDE Karras", "DPM++ 2M SDE", "Euler a", "LCM"])
def test_a_stochastic_sampler_goes_by_each_images_seed_in_any_company(sampler: str) -> None:
    engine = build_engine("sd15")
    both = run(engine, build_job(Task.TEXT_TO_IMAGE, sampler=sampler, images=2, seed=70)).encode_images()
    alone = generate(engine, build_job(Task.TEXT_TO_IMAGE, sampler=sampler, seed=71))
    again = generate(engine, build_job(Task.TEXT_TO_IMAGE, sampler=sampler, seed=71))
    assert alone.tobytes() == again.tobytes()
    second = Image.open(BytesIO(both[1]))
    assert max(abs(one - other) for one, other in zip(second.tobytes(), alone.tobytes(), strict=True)) <= 2


@pytest.mark.parametrize("sampler", ["DPM++ SDE", "DPM++ SDE Karras"])
def test_dpm_sde_adds_noise_on_the_way(sampler: str) -> None:
    """From the same first noise, other noise on the way gives another image."""
    from easel_server.engine.schedulers.schedulers import Schedulers  # noqa: PLC0415  # loads torch

    pipeline, images = build_pipeline("sd15"), []
    schedulers, own = Schedulers(pipeline.scheduler, get_family("Stable Diffusion")), pipeline.scheduler
    for seed in (1, 2):
        pipeline.scheduler = schedulers.build(sampler, [seed])
        try:
            images.append(call_stock(pipeline, build_job(Task.TEXT_TO_IMAGE)).tobytes())
        finally:
            pipeline.scheduler = own
    assert images[0] != images[1]


@pytest.mark.parametrize("name", ["sd15", "sdxl", "pixart-sigma"])
def test_eta_is_the_pipelines_own_argument_and_its_noise_is_of_each_images_seed(name: str) -> None:
    task = Task.TEXT_TO_IMAGE
    jobs = [build_job(task, sampler="DDIM", seed=71, eta=eta) for eta in (0.0, 0.5, 1.0)]
    images = []
    for job in jobs:
        pipeline = build_pipeline(name)
        with stock_scheduler(pipeline, job.sampler, job.seed, bare=name in PIXART):
            expected = call_stock(pipeline, job, eta=job.eta)
        images.append(generate(build_engine(name), job).tobytes())
        assert images[-1] == expected.tobytes()
    assert len(set(images)) == len(images)
    both = run(build_engine(name), jobs[1].model_copy(update={"images": 2, "seed": 70})).encode_images()
    second = Image.open(BytesIO(both[1])).tobytes()
    assert max(abs(one - other) for one, other in zip(second, images[1], strict=True)) <= 2


@pytest.mark.parametrize("name", FLOW)
@pytest.mark.parametrize("task", TASKS)
def test_flow_matching_models_are_solved_with_every_sampler_that_they_list(name: str, task: Task) -> None:
    """The solvers take the model's shift, with the image's size where it goes by that, and begin with images too."""
    engine = build_engine(name)
    samplers = engine.description.samplers
    assert set(samplers) >= {"Euler", "Euler Beta", "DPM++ 2M", "UniPC"}
    images = {sampler: generate(engine, build_job(task, sampler=sampler, steps=8)).tobytes() for sampler in samplers}
    assert len(set(images.values())) == len(images)
    # Solvers of one equation come to nearly the same image; of another one they wouldn't.
    for sampler in ("DPM++ 2M", "UniPC"):
        pairs = zip(images[sampler], images["Euler"], strict=True)
        assert sum(abs(one - other) for one, other in pairs) / len(images["Euler"]) < 20
