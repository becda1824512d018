"""Jobs that share their steps: each gets what it gets alone, whatever the others ask for and whenever they come."""

import pytest
from easel_server.engine.interface import Engine, Generation, StopGenerationError
from easel_server.generation.parameters import GenerationParameters

from tests.support.images import pixels_differ_by
from tests.support.tiny_engine import generate, tiny_engine, tiny_parameters

pytestmark = pytest.mark.torch

TOLERANCE = 2  # of 255: libraries round otherwise in a batch of another size
MODELS = pytest.mark.parametrize("model", ["sd15", "sdxl"])
MIXED = (
    tiny_parameters(prompt="a cat", seed=1, steps=8, sampler="Euler"),
    tiny_parameters(prompt="dog", seed=2, steps=12, sampler="Euler a", guidance_scale=5.0, negative_prompt="fur"),
    tiny_parameters(prompt="sea", seed=3, steps=20, sampler="DPM++ 2M Karras", guidance_scale=9.0),
    tiny_parameters(prompt="hut", seed=4, steps=8, sampler="DDIM", negative_prompt="x", images=2),
    tiny_parameters(prompt="car", seed=5, steps=12, sampler="UniPC", guidance_scale=1.0),
)


def run(engine: Engine, jobs: tuple[GenerationParameters, ...], *, every: int) -> tuple[list[Generation], int]:
    """All jobs, each begun so many steps after the one before it; and how many steps were taken together."""
    begun: list[Generation] = []
    steps = 0
    while len(begun) < len(jobs) or not all(each.is_done for each in begun):
        if len(begun) < len(jobs) and steps >= every * len(begun):
            begun.append(engine.begin(jobs[len(begun)], {}))
        engine.step(begun)
        steps += 1
    return begun, steps


@MODELS
def test_mixed_jobs_that_join_on_the_way_get_what_they_get_alone(model: str) -> None:
    engine = tiny_engine(model)
    together, steps = run(engine, MIXED, every=3)
    assert steps < sum(job.steps for job in MIXED)
    for job, generation in zip(MIXED, together, strict=True):
        assert generation.error is None
        for one, other in zip(generation.encode_images(), generate(engine, job)[0], strict=True):
            assert pixels_differ_by(one, other) <= TOLERANCE


def test_one_that_is_stopped_leaves_at_once_and_the_others_go_on() -> None:
    engine = tiny_engine()
    kept, stopped = (engine.begin(job, {}) for job in MIXED[:2])
    engine.step([kept, stopped])
    stopped.stop()
    assert stopped.is_done
    assert isinstance(stopped.error, StopGenerationError)
    while not kept.is_done:
        engine.step([kept, stopped])
    assert pixels_differ_by(kept.encode_images()[0], generate(engine, MIXED[0])[0][0]) <= TOLERANCE


def test_a_forgotten_job_that_is_collected_while_another_runs_takes_nothing_from_it() -> None:
    """The collector runs wherever memory is asked for: within another job's call as well."""
    import torch  # noqa: PLC0415  # only with the marker
    from easel_server.engine.stepping.stepper import SteppedCall, Stepper  # noqa: PLC0415

    denoiser = torch.nn.Identity()
    stepper = Stepper([denoiser])
    forgotten = [SteppedCall(lambda: denoiser(torch.zeros(1)))]
    forgotten[0].advance()

    def forget_the_other() -> str:
        forgotten.clear()
        denoiser(torch.ones(1))
        return "its own end"

    running = SteppedCall(forget_the_other)
    running.advance()
    assert running.pending is not None
    stepper.step([running])
    assert (running.result, running.error) == ("its own end", None)
