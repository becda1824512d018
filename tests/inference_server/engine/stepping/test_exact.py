"""Reproducibility: what neighbours may change of an image (Close: rounding; Exact: nothing)."""

import random
from collections.abc import Iterator, Sequence

import pytest
from easel_contract.gateway_config import Reproducibility
from easel_server.engine.interface import Engine, Generation
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import Task

from tests.inference_server.engine.stepping.running import INPUTS, image_parameters, images_of, run_alone
from tests.support.images import pixels_differ_by
from tests.support.tiny_engine import tiny_engine, tiny_parameters

pytestmark = pytest.mark.torch

CLOSE_TOLERANCE = 2  # of 255, as docs/developers/serving.md says
MODELS = pytest.mark.parametrize("model", ["sd15", "sdxl"])
EXACT = (
    tiny_parameters(seed=1, steps=6, sampler="Euler a", reproducibility=Reproducibility.EXACT),
    tiny_parameters(seed=2, steps=6, guidance_scale=1.0, images=2, reproducibility=Reproducibility.EXACT),
    tiny_parameters(seed=3, steps=7, sampler="UniPC", negative_prompt="fur", reproducibility=Reproducibility.EXACT),
    image_parameters(Task.IMAGE_TO_IMAGE, seed=4, images=2, reproducibility=Reproducibility.EXACT),
)
NEIGHBOURS = (
    tiny_parameters(seed=5, steps=5),
    tiny_parameters(seed=6, steps=9, guidance_scale=1.0, sampler="DPM++ 2M"),
    tiny_parameters(seed=7, steps=7, images=3, negative_prompt="fur"),
    image_parameters(Task.INPAINT, seed=8),
)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """So many of them that a row's place in a call makes a difference to how it is rounded."""
    import torch  # noqa: PLC0415  # most tests don't need it

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def run_in_company(engine: Engine, jobs: Sequence[GenerationParameters], company: int) -> list[Generation]:
    """The jobs, among neighbours that come, and are cancelled, as a seed has it; in any order, at any step."""
    chance = random.Random(company)  # noqa: S311  # not for secrets
    arriving = [*jobs, *chance.choices(NEIGHBOURS, k=4)]
    order = chance.sample(range(len(arriving)), len(arriving))
    begun: dict[int, Generation] = {}
    while order or not all(each.is_done for each in begun.values()):
        while order and chance.random() < 0.5:
            begun[order[0]] = engine.begin(arriving[order[0]], INPUTS)
            order.pop(0)
        engine.step(chance.sample(list(begun.values()), len(begun)))
        for number, each in begun.items():
            if number >= len(jobs) and chance.random() < 0.15:
                each.stop()
    return [begun[number] for number in range(len(jobs))]


@MODELS
def test_exact_bytes_do_not_change_with_neighbours_their_cancellation_order_or_the_moment_of_joining(
    model: str, two_threads: None
) -> None:
    engine = tiny_engine(model)
    expected = [run_alone(engine, job) for job in EXACT]
    for company in range(4):
        assert [images_of(each) for each in run_in_company(engine, EXACT, company)] == expected, f"company {company}"


@MODELS
def test_close_images_differ_by_rounding_only(model: str) -> None:
    engine = tiny_engine(model)
    close = [job.model_copy(update={"reproducibility": Reproducibility.CLOSE}) for job in EXACT]
    expected = [run_alone(engine, job) for job in close]
    for company in range(2):
        for images, generation in zip(expected, run_in_company(engine, close, company), strict=True):
            for one, other in zip(images, images_of(generation), strict=True):
                assert pixels_differ_by(one, other) <= CLOSE_TOLERANCE


def test_of_an_exact_job_each_image_is_that_of_its_own_seed_alone() -> None:
    engine = tiny_engine()
    both = run_alone(engine, EXACT[1])
    for index, image in enumerate(both):
        alone = EXACT[1].model_copy(update={"images": 1, "seed": EXACT[1].seed + index})
        assert pixels_differ_by(image, run_alone(engine, alone)[0]) == 0


@pytest.mark.parametrize("model", ["sd15", "sdxl", "sd3", "flux"])
@pytest.mark.parametrize("task", [Task.IMAGE_TO_IMAGE, Task.INPAINT])
def test_of_several_after_an_image_each_is_that_of_its_own_seed_alone(model: str, task: Task) -> None:
    """Else posting an image's recipe would give another one."""
    engine = tiny_engine(model)
    job = image_parameters(task, seed=4, images=3, reproducibility=Reproducibility.EXACT)
    for index, image in enumerate(run_alone(engine, job)):
        alone = job.model_copy(update={"images": 1, "seed": job.seed + index})
        assert pixels_differ_by(image, run_alone(engine, alone)[0]) == 0


@MODELS
def test_an_exact_job_of_one_image_is_what_a_close_one_is_alone(model: str) -> None:
    """So that reproducing a single image costs nothing else than its company."""
    close = EXACT[0].model_copy(update={"reproducibility": Reproducibility.CLOSE})
    [one], [other] = (run_alone(tiny_engine(model), job) for job in (EXACT[0], close))
    assert pixels_differ_by(one, other) == 0
