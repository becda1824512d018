"""A job alone: in the engine beside the stock call, with previews beside without, exact beside close. In turns.

Engine and stock call end with the same images in memory, compared to the byte, so that it is the same work.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Final

from easel_contract.gateway_config import Reproducibility
from easel_server.engine.interface import Engine, Generation
from easel_server.generation.parameters import GenerationParameters
from easel_server.worker.job_run import choose_preview_steps

from benchmarks.engine.jobs import build_engine, call_stock, decode_only_image, load, load_stock, run_jobs
from benchmarks.engine.models import PROMPT, SAMPLER, SD15, SD15_NARROW, SDXL, BenchModel, written
from benchmarks.engine.turns import compare, take_rounds

STEPS: Final = 10
PREVIEWS: Final = 3  # as many as a client may ask for
PREVIEW_STEPS: Final = 20
EXACT_IMAGES: Final = 4  # of a batch that always has the same size


def measure(*, rounds: int) -> dict[str, Any]:
    """Each model's time in the engine as a share of the stock call's."""
    figures: dict[str, Any] = {"steps": STEPS}
    for model in (SD15, SDXL):
        with written(model) as directory:
            figures[model.name] = _compare_with_stock(
                model, load(directory, max_batch_images=1), load_stock(directory, SAMPLER), rounds
            )
    return figures


def measure_compiled(*, rounds: int) -> dict[str, Any]:
    """The same with the denoiser's repeated blocks compiled on both sides."""
    model = SD15_NARROW
    with written(model) as directory:
        ours, stock = load_stock(directory, SAMPLER), load_stock(directory, SAMPLER)
    for pipeline in (ours, stock):
        pipeline.unet.compile_repeated_blocks(dynamic=True)
    return {"steps": STEPS, model.name: _compare_with_stock(model, build_engine(ours, model.name), stock, rounds)}


def _compare_with_stock(model: BenchModel, engine: Engine, stock: Any, rounds: int) -> dict[str, Any]:
    numbers = itertools.count()

    def job() -> GenerationParameters:
        # Another prompt each time: the engine keeps what it has encoded, the stock call doesn't.
        number = next(numbers)
        return model.parameters(seed=number, steps=STEPS, prompt=f"{PROMPT}, {number}")

    first = job()
    is_equal = decode_only_image(run_jobs(engine, [first])) == call_stock(stock, first)[0].tobytes()
    sides = {"engine": lambda: run_jobs(engine, [job()]), "stock": lambda: call_stock(stock, job())}
    taken = take_rounds(sides, rounds)
    return {"images_are_equal": is_equal, "engine_over_stock": compare(taken, "engine", "stock")}


def measure_previews(*, rounds: int) -> dict[str, Any]:
    """A job with previews over the same without, by the engine's thread."""
    figures: dict[str, Any] = {"steps": PREVIEW_STEPS, "previews": PREVIEWS}
    for model in (SD15, SDXL):
        with written(model) as directory:
            engine = load(directory, max_batch_images=1)
            job = model.parameters(seed=1, steps=PREVIEW_STEPS)
            count = _draw_with_previews(engine, job)
            assert count == PREVIEWS, f"{count} previews instead of {PREVIEWS}"
            sides = {
                "with": lambda engine=engine, job=job: _draw_with_previews(engine, job),
                "without": lambda engine=engine, job=job: run_jobs(engine, [job]),
            }
            figures[model.name] = {"with_over_without": compare(take_rounds(sides, rounds), "with", "without")}
    return figures


def _draw_with_previews(engine: Engine, job: GenerationParameters) -> int:
    """How many were given."""
    due = choose_preview_steps(job.steps, PREVIEWS)
    given = 0

    def look(generations: Sequence[Generation]) -> None:
        nonlocal given
        if due and generations[0].steps_done >= due[0]:
            due.pop(0)
            given += generations[0].build_preview() is not None

    run_jobs(engine, [job], look)
    return given


def measure_exact(*, rounds: int) -> dict[str, Any]:
    """Jobs with ``reproducibility: Exact`` over the same with Close: one alone, and as many as fit into the batch."""
    figures: dict[str, Any] = {"steps": STEPS, "batch_images": EXACT_IMAGES}
    model = SD15
    with written(model) as directory:
        engine = load(directory, max_batch_images=EXACT_IMAGES)
        for jobs in (1, EXACT_IMAGES):
            sides = {
                kind.value: lambda kind=kind, jobs=jobs: run_jobs(
                    engine,
                    [model.parameters(seed=seed, steps=STEPS, reproducibility=kind) for seed in range(jobs)],
                )
                for kind in Reproducibility
            }
            taken = take_rounds(sides, rounds)
            figures[f"jobs={jobs}"] = {"exact_over_close": compare(taken, "Exact", "Close")}
    return figures
