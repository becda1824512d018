"""What scheduling alone can give: the simulated engine on a clock of its own, and nothing else takes any time.

So the figures are a bound for the real worker with the same curve, and hold for any machine.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any, Final

from easel_server.engine.interface import Generation
from easel_server.generation.parameters import GenerationParameters

from benchmarks.engine.arrivals import Arrival, build_arrivals
from benchmarks.engine.curve_engine import Curve, CurveEngine
from benchmarks.server.samples import percentile

LOAD: Final = 0.8
SAVINGS: Final = (0.1, 0.3, 0.5, 0.7)
STEP_SECONDS: Final = 0.02
DECODE_SECONDS: Final = 0.05
FULL_STEPS: Final = 5  # so many for each of the courses' own: 20, 30 and 50
WIDTHS: Final = (1, 4, 8)
SEED: Final = 100


def measure(*, jobs: int, rounds: int) -> dict[str, Any]:
    """Latencies by steps over one by one, and over the best static batches, medians of so many courses."""
    return {
        "is_simulated": True,
        "seed": SEED,
        "jobs": jobs,
        "rounds": rounds,
        **{
            f"saves={saves}": _measure_curve(Curve(saves, STEP_SECONDS, DECODE_SECONDS), jobs, rounds)
            for saves in SAVINGS
        },
    }


def _measure_curve(curve: Curve, jobs: int, rounds: int) -> dict[str, Any]:
    taken = [_compare_once(curve, jobs, SEED + number) for number in range(rounds)]
    return {name: round(median(each[name] for each in taken), 3) for name in taken[0]}


def _compare_once(curve: Curve, jobs: int, seed: int) -> dict[str, float]:
    alone_seconds = sum(FULL_STEPS * steps for steps in (4, 6, 10)) / 3 * curve.step_seconds + curve.decode_seconds
    arrivals = build_arrivals(_build_job, jobs=jobs, jobs_per_second=LOAD / alone_seconds, seed=seed)
    by_steps = serve(curve, arrivals, CurveEngine(curve).max_images(64, 64), joins=True)
    alone = serve(curve, arrivals, 1, joins=False)
    static = [serve(curve, arrivals, width, joins=False) for width in WIDTHS]
    figures: dict[str, float] = {}
    for percent in (50, 95):
        ours = percentile(by_steps, percent)
        figures[f"p{percent}_over_one_by_one"] = ours / percentile(alone, percent)
        figures[f"p{percent}_over_best_static"] = ours / min(percentile(each, percent) for each in static)
    return figures


def _build_job(seed: int, steps: int) -> GenerationParameters:
    return GenerationParameters(
        prompt="none", width_pixels=64, height_pixels=64, guidance_scale=7.5, seed=seed, steps=FULL_STEPS * steps
    )


def serve(curve: Curve, arrivals: Sequence[Arrival], max_jobs: int, *, joins: bool) -> list[float]:
    """Latencies in seconds. Jobs join at any step, or only where nobody is generated, and then of equal steps only."""
    now = 0.0

    def advance(seconds: float) -> None:
        nonlocal now
        now += seconds

    engine = CurveEngine(curve, pause=advance)
    waiting, running, latencies = list(arrivals), dict[int, tuple[Arrival, Generation]](), list[float]()
    while waiting or running:
        if not running:
            now = max(now, waiting[0].at_seconds)
        if joins or not running:
            for arrival in _choose(waiting, now, max_jobs - len(running), joins=joins):
                waiting.remove(arrival)
                running[arrival.parameters.seed] = (arrival, engine.begin(arrival.parameters, {}))
        engine.step([generation for _, generation in running.values()])
        for seed, (arrival, generation) in list(running.items()):
            if generation.is_done:
                latencies.append(now - arrival.at_seconds)
                del running[seed]
    return latencies


def _choose(waiting: Sequence[Arrival], now: float, room: int, *, joins: bool) -> list[Arrival]:
    here = [each for each in waiting[: 64 + room] if each.at_seconds <= now]
    if not joins:
        here = [each for each in here if each.parameters.steps == here[0].parameters.steps]
    return here[:room]
