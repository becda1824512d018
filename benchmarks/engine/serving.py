"""Latency and throughput of the real worker by steps, beside one job after the other and static batches.

Jobs of mixed steps; all ways get the same arrivals, in turns, from one loaded model. First everything at once
(saturation), which gives the capacity of one by one; then a Poisson process at LOAD of that.
"""

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

from easel_server.engine.interface import Engine
from easel_server.generation.parameters import GenerationParameters

from benchmarks.engine.arrivals import BuildJob, Service, build_arrivals, summarize_latencies
from benchmarks.engine.curve_engine import Curve, CurveEngine
from benchmarks.engine.schemes import Scheme, build_static_scheme, build_worker_scheme

LOAD: Final = 0.8  # of what one by one can do
SEED: Final = 80
SATURATION_JOBS: Final = 24
ONE_BY_ONE: Final = "worker, one by one"
BY_STEPS: Final = "worker, by steps"  # as many together as the engine does best
STATIC: Final = {"static, up to 4": 4, "static, up to 8": 8}
SCHEMES: Final[Mapping[str, Scheme]] = {
    ONE_BY_ONE: build_worker_scheme(1),
    BY_STEPS: build_worker_scheme(None),
    **{name: build_static_scheme(jobs) for name, jobs in STATIC.items()},
}
SAVINGS: Final = (0.1, 0.3, 0.5, 0.7)
CURVE_STEP_SECONDS: Final = 0.008
CURVE_DECODE_SECONDS: Final = 0.008
AT_ONCE: Final = 4  # curves that sleep side by side, each in a process of its own


def measure(*, jobs: int, rounds: int) -> dict[str, Any]:
    """With the real engine on this processor."""
    from benchmarks.engine.jobs import load  # noqa: PLC0415  # curves need no torch
    from benchmarks.engine.models import SD15_NARROW, written  # noqa: PLC0415

    with written(SD15_NARROW) as directory:
        engine = load(directory)
        return {
            "model": SD15_NARROW.name,
            **measure_engine(engine, lambda seed, steps: SD15_NARROW.parameters(seed=seed, steps=steps), jobs, rounds),
        }


def measure_simulated(*, jobs: int) -> dict[str, Any]:
    """With curves: savings that a GPU may have."""
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(AT_ONCE, mp_context=spawning) as pool:
        measured = pool.map(_measure_curve, SAVINGS, [jobs] * len(SAVINGS))
        return {
            "is_simulated": True,
            "step_milliseconds": CURVE_STEP_SECONDS * 1000,
            "decode_milliseconds": CURVE_DECODE_SECONDS * 1000,
            **{f"saves={saves}": figures for saves, figures in zip(SAVINGS, measured, strict=True)},
        }


def _measure_curve(saves: float, jobs: int) -> dict[str, Any]:
    engine: Any = CurveEngine(Curve(saves, CURVE_STEP_SECONDS, CURVE_DECODE_SECONDS))
    return measure_engine(engine, _build_plain_job, jobs, 1)


def _build_plain_job(seed: int, steps: int) -> GenerationParameters:
    return GenerationParameters(
        prompt="none", width_pixels=64, height_pixels=64, guidance_scale=7.5, seed=seed, steps=steps
    )


def measure_engine(engine: Engine, build: BuildJob, jobs: int, rounds: int) -> dict[str, Any]:
    """Every way to serve, at saturation and under load."""
    flood = build_arrivals(build, jobs=SATURATION_JOBS, jobs_per_second=None, seed=SEED)
    for scheme in SCHEMES.values():
        scheme(engine, flood[: SATURATION_JOBS // 4])  # a turn that isn't counted
    saturated = {name: scheme(engine, flood) for name, scheme in SCHEMES.items()}
    rate = LOAD * saturated[ONE_BY_ONE].jobs_per_second
    served: dict[str, list[Service]] = {name: [] for name in SCHEMES}
    for number in range(rounds):
        arrivals = build_arrivals(build, jobs=jobs, jobs_per_second=rate, seed=SEED + number)
        for name, scheme in SCHEMES.items():
            served[name].append(scheme(engine, arrivals))
    return {
        "seed": SEED,
        "max_images": _find_max_images(engine, build),
        "jobs": jobs * rounds,
        "load": LOAD,
        "arrivals_per_second": round(rate, 3),
        "saturated_images_per_second": {name: round(each.jobs_per_second, 3) for name, each in saturated.items()},
        **_compare(saturated, served),
    }


def _find_max_images(engine: Engine, build: BuildJob) -> int:
    job = build(0, 1)
    return engine.max_images(job.width_pixels, job.height_pixels)


def _compare(saturated: Mapping[str, Service], served: Mapping[str, Sequence[Service]]) -> dict[str, Any]:
    summaries = {name: summarize_latencies(services) for name, services in served.items()}
    ours, alone = summaries[BY_STEPS], summaries[ONE_BY_ONE]
    others = [summaries[name] for name in STATIC]
    fastest = max(saturated[name].jobs_per_second for name in STATIC)
    return {
        "latency": summaries,
        **{
            f"{percent}_over_one_by_one": round(ours[f"{percent}_milliseconds"] / alone[f"{percent}_milliseconds"], 3)
            for percent in ("p50", "p95")
        },
        **{
            f"{percent}_over_best_static": round(
                ours[f"{percent}_milliseconds"] / min(each[f"{percent}_milliseconds"] for each in others), 3
            )
            for percent in ("p50", "p95")
        },
        "throughput_over_one_by_one": round(
            saturated[BY_STEPS].jobs_per_second / saturated[ONE_BY_ONE].jobs_per_second, 3
        ),
        "throughput_over_best_static": round(saturated[BY_STEPS].jobs_per_second / fastest, 3),
    }
