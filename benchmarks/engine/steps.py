"""What a step costs besides the denoiser's arithmetic, and where a job's time goes.

The denoiser of ``measure_overhead`` answers at once with noise from a shelf: a fake, so that what is left is Python and
the schedulers' small tensors.
"""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from easel_server.generation.samplers import SAMPLERS

from benchmarks.engine.jobs import call_stock, load, load_stock, run_jobs
from benchmarks.engine.models import PROMPT, SD15, SD15_NARROW, BenchModel, written
from benchmarks.server.samples import summarize

FEW_STEPS: Final = 10
MANY_STEPS: Final = 110
SHARES_STEPS: Final = 10
BATCHES: Final = (1, 4, 8)
MICROSECONDS: Final = 1e6


def measure_overhead(*, rounds: int) -> dict[str, Any]:
    """Processor time a step and job with a denoiser that takes none: in the engine, and in the stock call."""
    model = SD15_NARROW
    with written(model) as directory, _instant_denoiser():
        engine, stock = load(directory, max_batch_images=8), load_stock(directory, "Euler")

        def run(jobs: int, steps: int) -> None:
            run_jobs(engine, [model.parameters(seed=seed, steps=steps) for seed in range(jobs)])

        figures = {
            f"engine_jobs={jobs}_cpu_microseconds_a_step_and_job": _time_step(
                functools.partial(run, jobs), jobs, rounds
            )
            for jobs in BATCHES
        }
        figures["stock_cpu_microseconds_a_step"] = _time_step(
            lambda steps: call_stock(stock, model.parameters(seed=1, steps=steps)), 1, rounds
        )
    return figures


def _time_step(run: Callable[[int], object], jobs: int, rounds: int) -> dict[str, Any]:
    """A step more, for each job, in microseconds of processor time."""

    def take(steps: int) -> float:
        began = time.process_time()
        run(steps)
        return time.process_time() - began

    take(FEW_STEPS)
    more = [take(MANY_STEPS) - take(FEW_STEPS) for _ in range(rounds)]
    return summarize([each / (MANY_STEPS - FEW_STEPS) / jobs * MICROSECONDS for each in more]).to_record(1)


@contextmanager
def _instant_denoiser() -> Iterator[None]:
    shelf: dict[torch.Size, torch.Tensor] = {}
    forward = UNet2DConditionModel.forward

    @functools.wraps(forward)
    def answer(_: Any, sample: torch.Tensor, *__: Any, **options: Any) -> Any:
        if sample.shape not in shelf:
            shelf[sample.shape] = torch.randn(sample.shape)
        noise = shelf[sample.shape]
        return (
            diffusers.models.unets.unet_2d_condition.UNet2DConditionOutput(sample=noise)
            if options.get("return_dict", True)
            else (noise,)
        )

    with mock.patch.object(UNet2DConditionModel, "forward", answer):
        yield


def measure_shares() -> dict[str, Any]:
    """Where the processor time of jobs goes, alone and with others, from their begin to their encoded images."""
    with written(SD15) as directory:
        return {"model": SD15.name, "steps": SHARES_STEPS} | {
            f"jobs={jobs}": _take_apart(SD15, directory, jobs) for jobs in (1, 8)
        }


def _take_apart(model: BenchModel, directory: Any, jobs: int) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    scheduler = getattr(diffusers, SAMPLERS["Euler"].scheduler)
    with ExitStack() as stack:
        # The parts don't call each other, so that their times add up.
        for part, owner, name in (
            ("denoiser", UNet2DConditionModel, "forward"),
            ("scheduler", scheduler, "step"),
            ("scheduler", scheduler, "scale_model_input"),
            ("decoder", AutoencoderKL, "decode"),
            ("text encoders", diffusers.StableDiffusionPipeline, "encode_prompt"),
        ):
            stack.enter_context(mock.patch.object(owner, name, _timed(getattr(owner, name), part, seconds)))
        engine = load(directory, max_batch_images=8)
        warm_up, batch = (
            [
                model.parameters(seed=seed, steps=SHARES_STEPS, prompt=f"{PROMPT}, {number} {seed}")
                for seed in range(jobs)
            ]
            for number in range(2)
        )
        for each in run_jobs(engine, warm_up):
            each.encode_images()
        seconds.clear()
        began = time.process_time()
        generations = run_jobs(engine, batch)
        drawn = time.process_time()
        for each in generations:
            each.encode_images()
        ended = time.process_time()
    seconds["encoding PNG"] = ended - drawn
    seconds["all else: pipelines, joining and splitting, waiting calls"] = (
        drawn - began - (sum(seconds.values()) - seconds["encoding PNG"])
    )
    return {
        "cpu_milliseconds_a_job": round((ended - began) / jobs * 1000, 2),
        "share": {part: round(value / (ended - began), 4) for part, value in seconds.items()},
    }


def _timed(function: Callable[..., Any], part: str, seconds: dict[str, float]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        began = time.process_time()
        try:
            return function(*arguments, **options)
        finally:
            seconds[part] = seconds.get(part, 0.0) + time.process_time() - began

    return run
