"""Of generations that have ended, or that nobody holds any more, nothing is left."""

import gc
import random
from collections import Counter

import pytest
from easel_server.engine.interface import Generation
from easel_server.generation.tasks import Task

from tests.inference_server.engine.stepping.running import INPUTS, image_parameters
from tests.support.tiny_engine import tiny_engine, tiny_parameters

pytestmark = pytest.mark.torch

JOBS = (
    tiny_parameters(seed=1, steps=2),
    tiny_parameters(seed=2, steps=3, sampler="DPM++ 2M", guidance_scale=1.0),
    image_parameters(Task.IMAGE_TO_IMAGE, seed=3, steps=4),
    image_parameters(Task.INPAINT, seed=4, steps=4),
)


def count_objects() -> Counter[str]:
    """What is alive of each kind that a generation has."""
    gc.collect()
    kinds = ("_Greenlet", "Tensor", "Generator", "StagesRun", "DiffusersGeneration", "DenoiserCall")
    names = Counter(type(each).__name__ for each in gc.get_objects())
    return Counter({name: count for name, count in names.items() if name in kinds or name.endswith("Pipeline")})


def run_mixed(count: int) -> None:
    """Generations that end, are stopped, fail, or are dropped while they pause; three under way at a time."""
    engine = tiny_engine()
    chance = random.Random(count)  # noqa: S311  # not for secrets
    running: list[Generation] = []
    for number in range(count):
        running.append(engine.begin(JOBS[number % len(JOBS)], INPUTS))
        engine.step(running)
        end = chance.choice(("stop", "fail", "drop", "go on"))
        if end == "stop":
            running[0].stop()
        elif end == "fail":
            running[0].call.throw(RuntimeError("no such shape"))  # type: ignore[attr-defined]
        elif end == "drop":
            running.pop(0)
        running = [each for each in running if not each.is_done][-3:]


def test_nothing_is_left_of_mixed_generations() -> None:
    run_mixed(20)
    before = count_objects()
    run_mixed(60)
    assert count_objects() == before


def test_dropping_one_that_pauses_frees_what_it_holds_at_once() -> None:
    import torch  # noqa: PLC0415  # most tests don't need it

    gc.disable()
    try:
        before = sum(type(each).__name__ in ("_Greenlet", "StagesRun") for each in gc.get_objects())
        generation = tiny_engine().begin(JOBS[0], {})
        del generation
        assert sum(type(each).__name__ in ("_Greenlet", "StagesRun") for each in gc.get_objects()) == before
    finally:
        gc.enable()
    assert torch.is_grad_enabled()
