"""What holds for Stable Diffusion 1.5 and XL holds for each family: shared steps, checkpoints, Exact."""

from functools import cache
from typing import Any

import pytest
from easel_contract.gateway_config import Reproducibility

from tests.inference_server.engine.stepping.running import build_engine, go_on, images_of, run_alone, take_checkpoint
from tests.support.images import pixels_differ_by
from tests.support.tiny_engine import tiny_parameters

pytestmark = pytest.mark.torch

CLOSE_TOLERANCE = 2  # of 255, as docs/developers/serving.md says
FAMILIES = pytest.mark.parametrize("family", ["sd2", "lcm", "sd3", "flux", "pixart_alpha", "pixart_sigma"])


@cache
def engine_of(family: str) -> Any:
    """One for all tests: it takes longer to make than to use."""
    from tests.support import tiny_models  # noqa: PLC0415  # loads torch

    return build_engine(getattr(tiny_models, f"build_{family}")())


@FAMILIES
def test_jobs_that_share_steps_get_what_they_get_alone(family: str) -> None:
    engine = engine_of(family)
    jobs = [
        tiny_parameters(seed=1, steps=4, guidance_scale=3.0),
        tiny_parameters(seed=2, steps=6, prompt="sea", images=2),
    ]
    expected = [run_alone(engine, job) for job in jobs]
    first = engine.begin(jobs[0], {})
    engine.step([first])
    second = engine.begin(jobs[1], {})
    go_on(engine, [first, second])
    for images, generation in zip(expected, (first, second), strict=True):
        for one, other in zip(images, images_of(generation), strict=True):
            assert pixels_differ_by(one, other) <= CLOSE_TOLERANCE


@FAMILIES
def test_a_checkpoint_leads_to_the_same_image(family: str) -> None:
    engine = engine_of(family)
    job = tiny_parameters(seed=3, steps=5, guidance_scale=3.0, images=2)
    checkpoint = take_checkpoint(engine, job, steps=3)
    resumed = engine.begin(job, {}, checkpoint=checkpoint)
    assert resumed.steps_done == 3
    go_on(engine, [resumed])
    assert images_of(resumed) == run_alone(engine, job)


@FAMILIES
def test_exact_bytes_do_not_change_with_a_neighbour(family: str) -> None:
    engine = engine_of(family)
    job = tiny_parameters(seed=4, steps=4, guidance_scale=3.0, reproducibility=Reproducibility.EXACT)
    generations = [engine.begin(tiny_parameters(seed=5, steps=6, guidance_scale=3.0), {}), engine.begin(job, {})]
    go_on(engine, generations)
    assert images_of(generations[1]) == run_alone(engine, job)
