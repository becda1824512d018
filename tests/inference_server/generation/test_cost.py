"""Learning how long work takes from jobs that were done."""

import pytest
from easel_server.generation.cost import DECAY, MIN_GPU_SECONDS, CostModel, CostSums, Measurement, work_units
from easel_server.generation.tasks import Task
from hypothesis import given
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
