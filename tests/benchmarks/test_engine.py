"""The engine's benchmark: what it compares with, and the fake engine of its simulated part."""

from collections.abc import Sequence
from typing import Any

import pytest
from easel_server.engine.interface import StopGenerationError
from easel_server.generation.parameters import GenerationParameters

from benchmarks.engine import ideal
from benchmarks.engine.__main__ import GOALS, build_table
from benchmarks.engine.arrivals import MIXED_STEPS, Arrival, build_arrivals
from benchmarks.engine.curve_engine import Curve, CurveEngine
from benchmarks.engine.schemes import build_static_scheme
from tests.support.tiny_engine import tiny_engine, tiny_parameters

CURVE = Curve(saves=0.5, step_seconds=1.0, decode_seconds=10.0)


def job(steps: int, seed: int = 0, **changes: Any) -> GenerationParameters:
    return tiny_parameters(steps=steps, seed=seed, sampler="Euler", **changes)


def course(engine: Any, arrivals: Sequence[tuple[int, GenerationParameters]], stop_at: int) -> list[list[Any]]:
    """What each job looks like after each step: they join when it is time, and one is stopped on the way."""
    joined: list[Any] = []
    seen: list[list[Any]] = []
    for step in range(12):
        joined += [engine.begin(parameters, {}) for at, parameters in arrivals if at == step]
        if step == stop_at:
            joined[0].stop()
        engine.step(joined)
        seen.append([(each.is_done, each.steps_done, type(each.error)) for each in joined])
    return seen


@pytest.mark.torch
def test_simulated_jobs_take_the_steps_that_the_real_engines_take() -> None:
    arrivals = [(0, job(8, 1)), (0, job(3, 2)), (2, job(4, 3, images=2)), (3, job(1, 4))]
    simulated = course(CurveEngine(CURVE, pause=lambda _: None), arrivals, stop_at=5)
    assert simulated == course(tiny_engine(), arrivals, stop_at=5)
    assert simulated[-1][0] == (True, 5, StopGenerationError)


def test_a_simulated_step_takes_what_the_curve_says() -> None:
    pauses: list[float] = []
    engine = CurveEngine(CURVE, pause=pauses.append)
    jobs = [engine.begin(job(2), {}), engine.begin(job(3, images=2), {})]
    for _ in range(4):
        engine.step(jobs)
    # 3 images: 0.5 + 0.5 * 3; the first job is decoded in the second step, the other one's images in the third.
    assert pauses == [2.0, 2.0 + 10, 1.5 + 20, 0.0]


def test_a_static_batch_has_jobs_of_equal_steps_only_and_nobody_joins_it() -> None:
    pauses: list[float] = []
    engine: Any = CurveEngine(CURVE, pause=pauses.append)
    arrivals = [Arrival(0.0, job(steps, seed)) for seed, steps in enumerate((2, 3, 2, 2, 2))]
    served = build_static_scheme(3)(engine, arrivals)
    assert len(served.latencies_seconds) == len(arrivals)
    alone, three = 1.0, 2.0
    assert pauses == [three, three + 30, alone, alone, alone + 10, alone, alone + 10]


def test_arrivals_follow_from_the_seed_and_come_at_the_rate() -> None:
    def build(seed: int, steps: int) -> GenerationParameters:
        return job(steps, seed)

    arrivals = build_arrivals(build, jobs=4000, jobs_per_second=5.0, seed=1)
    assert arrivals == build_arrivals(build, jobs=4000, jobs_per_second=5.0, seed=1)
    assert arrivals[-1].at_seconds == pytest.approx(4000 / 5, rel=0.05)
    counts = [sum(each.parameters.steps == steps for each in arrivals) for steps in MIXED_STEPS]
    assert counts == pytest.approx([4000 / 3] * 3, rel=0.05)


@pytest.mark.parametrize(
    ("part", "figures", "line"),
    [
        ("alone", {"sd15": {"engine_over_stock": {"by_cpu": {"median": 1.0}}}}, "at most 1.02"),
        ("memory", {"resident_last_over_first": 1.0}, "at most 1.05"),
        ("simulated", {"saves=0.1": {"p50_over_one_by_one": 1.0}}, "at most 1.02"),
        ("simulated", {"saves=0.5": {"p50_over_one_by_one": 0.6}}, "at most 0.65"),
        ("serving", {"p95_over_best_static": 0.8}, "at most 0.85"),
    ],
)
def test_figures_stand_beside_their_goals(part: str, figures: dict[str, Any], line: str) -> None:
    assert [each for each in build_table(part, figures) if each.endswith(line)], GOALS


def test_the_ideal_scheduler_gains_nothing_where_batching_saves_nothing_and_much_where_it_does() -> None:
    figures = ideal.measure(jobs=100, rounds=3)
    assert figures["saves=0.1"]["p50_over_one_by_one"] == 1.0  # the measured cap is one there
    assert figures["saves=0.7"]["p95_over_one_by_one"] < 0.6 < figures["saves=0.3"]["p95_over_one_by_one"]


def test_in_the_ideal_a_job_that_joins_waits_for_a_step_and_one_behind_a_static_batch_for_all_of_it() -> None:
    arrivals = [Arrival(0.0, job(4, 1)), Arrival(1.5, job(1, 2))]
    curve = Curve(saves=1.0, step_seconds=1.0, decode_seconds=0.0)
    assert ideal.serve(curve, arrivals, 8, joins=True) == [1.5, 4.0]
    assert ideal.serve(curve, arrivals, 8, joins=False) == [4.0, 3.5]
