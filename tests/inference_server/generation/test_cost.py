"""Learning how long work takes from jobs that were done."""

import random
from dataclasses import replace

import pytest
from easel_server.generation.add_ons import AdapterUse, ControlUse, HiresPass
from easel_server.generation.cost import (
    DECAY,
    MIN_GPU_SECONDS,
    AddOnWork,
    CostModel,
    CostSums,
    Measurement,
    count_add_on_work,
    solve_without_negatives,
    work_units,
)
from easel_server.generation.tasks import Task
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.jobs import build_parameters

SECONDS = st.floats(min_value=0.01, max_value=100)


def sums_of(*measurements: tuple[float, float]) -> CostSums:
    sums = CostSums()
    for units, gpu_seconds in measurements:
        sums = sums.add(Measurement(units, gpu_seconds))
    return sums


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, 1.0),
        ({"steps": 8}, 2.0),
        ({"images": 3}, 3.0),
        ({"width_pixels": 128, "height_pixels": 128}, 4.0),
        ({"guidance_scale": 1.0}, 0.5),  # one pass a step
        ({"task": Task.IMAGE_TO_IMAGE, "strength": 0.5}, 0.5),  # half of the steps are skipped
        ({"prompt": "a much longer prompt" * 20}, 1.0),
    ],
    ids=["base", "steps", "images", "pixels", "no guidance", "image to image", "prompt"],
)
def test_work_follows_from_what_is_asked_for(changes: dict[str, object], factor: float) -> None:
    base = work_units(build_parameters())
    assert work_units(build_parameters(**changes)) == pytest.approx(factor * base)


def test_a_unit_is_one_pass_over_a_megapixel() -> None:
    parameters = build_parameters(width_pixels=1024, height_pixels=1024, steps=1, guidance_scale=1.0)
    assert work_units(parameters) == 1.0


@given(
    overhead=st.floats(min_value=0, max_value=5),
    slope=st.floats(min_value=0.001, max_value=5),
    units=st.lists(st.floats(min_value=0.1, max_value=100), min_size=5, max_size=200),
)
def test_a_line_is_found_again(overhead: float, slope: float, units: list[float]) -> None:
    units = [*units, 1.0, 50.0]  # so that they differ
    model = sums_of(*((unit, overhead + slope * unit) for unit in units)).fit()
    for unit in (0.1, 10.0, 100.0):
        expected = overhead + slope * unit
        assert model.overhead_seconds + model.seconds_per_unit * unit == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_a_prior_is_used_until_enough_is_known() -> None:
    assert CostSums().fit() == CostModel()
    assert sums_of((1.0, 9.0), (2.0, 18.0)).fit() == CostModel()


def test_jobs_that_are_all_alike_give_their_mean() -> None:
    model = sums_of(*[(4.0, seconds) for seconds in (1.9, 2.0, 2.1) * 100]).fit()
    assert model.overhead_seconds == 0.0
    assert 4.0 * model.seconds_per_unit == pytest.approx(2.0, rel=0.01)


@given(st.lists(st.tuples(SECONDS, SECONDS), min_size=3, max_size=50))
def test_no_prediction_is_below_zero_whatever_was_measured(measurements: list[tuple[float, float]]) -> None:
    model = sums_of(*measurements).fit()
    assert model.overhead_seconds >= 0
    assert model.seconds_per_unit >= 0
    assert model.predict(build_parameters()) >= MIN_GPU_SECONDS


def test_a_faster_gpu_is_noticed_within_some_hundred_jobs() -> None:
    slow = [(float(number % 5 + 1), float(number % 5 + 1)) for number in range(1000)]
    fast = [(float(number % 5 + 1), 0.1 * (number % 5 + 1)) for number in range(500)]
    model = sums_of(*slow, *fast).fit()
    assert model.overhead_seconds + 5 * model.seconds_per_unit == pytest.approx(0.5, rel=0.1)
    assert DECAY**500 < 0.01


ADAPTERS = tuple(AdapterUse(name=name, weight=1.0, key=name) for name in ("ink", "oil"))
CONTROLS = (ControlUse(name="canny", key="c", image_digest="d", start=0.0, end=0.5),)


def test_what_add_ons_have_to_do_follows_from_what_is_asked_for() -> None:
    plain = build_parameters()
    assert not count_add_on_work(plain)
    with_adapters = build_parameters(adapters=ADAPTERS, controls=CONTROLS)
    units = work_units(plain)
    assert work_units(with_adapters) == units
    # Pipelines call a ControlNet at every step, at scale 0 where it has no say.
    assert count_add_on_work(with_adapters) == AddOnWork(
        control_units=units, adapters=2.0, adapter_units=2 * units, upscaled_megapixels=0.0
    )


def test_a_second_pass_counts_by_its_own_size_and_steps_and_its_network_by_what_it_enlarges_to() -> None:
    plain = build_parameters(steps=4, images=2)
    size = {"width_pixels": 2 * plain.width_pixels, "height_pixels": 2 * plain.height_pixels}
    latent = build_parameters(steps=4, images=2, hires=HiresPass(**size, upscaler="Latent", steps=8, strength=0.5))
    assert work_units(latent) == pytest.approx(5 * work_units(plain))  # 4 of 8 steps over four times the pixels
    assert not count_add_on_work(latent)
    network = HiresPass(**size, upscaler="x4", key="k", steps=8, strength=0.5)
    megapixels = 2 * size["width_pixels"] * size["height_pixels"] / 2**20
    assert count_add_on_work(build_parameters(steps=4, images=2, hires=network)).upscaled_megapixels == megapixels


TRUE = (0.3, 0.04, 0.015, 0.08, 0.003, 0.5)  # seconds of a job, a unit, and each of add-ons' work
COST = st.floats(min_value=0.001, max_value=2.0)


def seconds_of(measured: Measurement, costs: tuple[float, ...]) -> float:
    values = (1.0, measured.work_units, *measured.add_ons.values)
    return sum(value * cost for value, cost in zip(values, costs, strict=True))


def mixture(chance: random.Random, jobs: int) -> list[Measurement]:
    """Requests of all kinds, a third of them plain; what they take isn't measured yet."""
    measurements = []
    for _ in range(jobs):
        units = chance.choice([4, 8, 20, 30]) * chance.choice([0.25, 1.0, 2.25]) * chance.choice([1, 2]) * 2.0
        adapters = float(chance.choice([0, 0, 1, 3]))
        work = AddOnWork(
            control_units=units * chance.choice([0, 0, 0.5, 1.0]),
            adapters=adapters,
            adapter_units=adapters * units,
            upscaled_megapixels=chance.choice([0.0, 0.0, 4.0, 9.0]),
        )
        measurements.append(Measurement(units, 0.0, work if chance.random() > 0.3 else AddOnWork()))
    return measurements


@settings(max_examples=30, deadline=None)
@given(costs=st.tuples(*[COST] * len(TRUE)), seed=st.integers(0, 1000))
def test_the_costs_of_a_mixture_are_learned_within_a_few_per_cent(costs: tuple[float, ...], seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  # a replayable mixture
    sums = CostSums()
    for each in mixture(chance, 400):
        sums = sums.add(replace(each, gpu_seconds=seconds_of(each, costs)))
    model = sums.fit()
    for each in mixture(chance, 20):
        assert seconds_of(each, model.coefficients) == pytest.approx(seconds_of(each, costs), rel=0.05)


def test_noise_of_a_tenth_leaves_predictions_of_every_kind_of_job_near_the_truth() -> None:
    chance = random.Random(1)  # noqa: S311
    sums = CostSums()
    for each in mixture(chance, 600):
        sums = sums.add(replace(each, gpu_seconds=seconds_of(each, TRUE) * chance.gauss(1.0, 0.1)))
    coefficients = sums.fit().coefficients
    for each in mixture(chance, 50):
        assert seconds_of(each, coefficients) == pytest.approx(seconds_of(each, TRUE), rel=0.15)


@given(st.lists(st.tuples(SECONDS, SECONDS), max_size=50))
def test_a_service_that_never_uses_add_ons_predicts_by_the_line_as_before(jobs: list[tuple[float, float]]) -> None:
    sums = sums_of(*jobs)
    model = sums.fit()
    assert model.add_on_seconds is None
    parameters = build_parameters()
    line = model.overhead_seconds + model.seconds_per_unit * work_units(parameters)
    assert model.predict(parameters) == max(MIN_GPU_SECONDS, line)


def test_before_any_was_seen_add_ons_are_guessed_by_the_services_own_speed() -> None:
    slow = sums_of(*[(float(units), 10.0 * units) for units in range(1, 20)]).fit()
    plain, controlled = build_parameters(), build_parameters(controls=CONTROLS)
    assert slow.predict(controlled) > 1.1 * slow.predict(plain)
    assert CostModel().predict(build_parameters(adapters=ADAPTERS)) > CostModel().predict(plain)


def test_a_cold_adapter_is_not_taken_for_denoising() -> None:
    """Loads make jobs with adapters slow, and those without are predicted as if nothing had been."""
    sums, chance = CostSums(), random.Random(2)  # noqa: S311
    for _ in range(300):
        units = chance.uniform(1, 20)
        sums = sums.add(Measurement(units, 0.2 + 0.05 * units))
        loaded = AddOnWork(adapters=1.0, adapter_units=units)
        sums = sums.add(Measurement(units, 0.2 + 0.05 * units + chance.choice([0.0, 5.0]), loaded))
    model = sums.fit()
    assert model.overhead_seconds + 10 * model.seconds_per_unit == pytest.approx(0.7, rel=0.05)
    assert model.predict(build_parameters(adapters=ADAPTERS[:1])) > model.predict(build_parameters()) + 1.5


MEASURED = st.builds(
    Measurement, SECONDS, SECONDS, st.builds(AddOnWork, SECONDS, SECONDS, st.sampled_from([0.0, 1.0]), SECONDS)
)


@settings(max_examples=50, deadline=None)
@given(st.lists(MEASURED, max_size=30))
def test_no_coefficient_is_below_zero_or_endless_whatever_was_measured(measurements: list[Measurement]) -> None:
    sums = CostSums()
    for each in measurements:
        sums = sums.add(each)
    assert all(0 <= value < 1e6 for value in sums.fit().coefficients)


@given(st.lists(st.lists(st.floats(0.1, 10), min_size=3, max_size=3), min_size=4, max_size=20), st.randoms())
def test_the_solution_is_no_worse_than_any_near_it(rows: list[list[float]], chance: random.Random) -> None:
    seconds = [chance.uniform(-5, 20) for _ in rows]
    matrix = [[sum(row[i] * row[j] for row in rows) + (0.01 if i == j else 0.0) for j in range(3)] for i in range(3)]
    right = [sum(row[i] * second for row, second in zip(rows, seconds, strict=True)) for i in range(3)]

    def miss(weights: list[float]) -> float:
        quadratic = sum(matrix[i][j] * weights[i] * weights[j] for i in range(3) for j in range(3))
        return quadratic - 2 * sum(weight * total for weight, total in zip(weights, right, strict=True))

    solved = solve_without_negatives(matrix, right)
    for _ in range(50):
        near = [max(0.0, weight + chance.uniform(-0.1, 0.1)) for weight in solved]
        assert miss(near) >= miss(solved) - 1e-6 * max(1.0, abs(miss(solved)))
