"""How many images go into a batch: the rule, how it is measured, and what is kept of it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from easel_server.engine.stepping.batch_cap import (
    MEASURED_IMAGES,
    BatchCap,
    Size,
    choose_cap,
    measure,
    name_profile,
    read_profile,
    write_profile,
)
from easel_server.generation.models import EngineDescription

SQUARE = Size(512, 512)
DESCRIPTION = EngineDescription("diffusers", "StableDiffusionPipeline", "cuda:0", "float16", "sd", 1.0)

CAPS: dict[str, tuple[dict[int, float], int]] = {
    "nothing known": ({}, 1),
    "one alone": ({1: 0.1}, 1),
    "no step of one image known": ({2: 0.1, 4: 0.1}, 1),
    "batches save nothing": ({1: 1.0, 2: 2.0, 4: 4.0}, 1),
    "a tenth of an image's step is saved: too little": ({1: 1.0, 2: 1.9, 4: 3.7}, 1),
    "a half is saved by two, no more by four": ({1: 1.0, 2: 1.0, 4: 2.0}, 2),
    "four come near enough to the best rate": ({1: 1.0, 2: 1.2, 4: 1.6, 8: 3.1}, 4),
    "the more the better": ({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0, 16: 1.0}, 16),
    "a number between is slow": ({1: 1.0, 2: 2.1, 4: 1.5, 8: 4.0}, 4),
    "nonsense is left out": ({1: 1.0, 2: 0.0, 4: -1.0}, 1),
}


@pytest.mark.parametrize("case", CAPS)
def test_the_cap_is_the_smallest_number_that_comes_near_the_best_rate(case: str) -> None:
    step_seconds, expected = CAPS[case]
    assert choose_cap(step_seconds) == expected


def test_measuring_ends_where_twice_as_many_are_no_faster() -> None:
    seconds = {1: 0.1, 2: 0.12, 4: 0.2, 8: 0.4, 16: 0.8}
    assert measure(seconds.__getitem__) == {1: 0.1, 2: 0.12, 4: 0.2, 8: 0.4}


def test_measuring_ends_where_memory_does() -> None:
    assert measure(lambda images: 0.1 if images <= 2 else math.inf) == {1: 0.1, 2: 0.1}


@pytest.mark.parametrize("seconds", [0.01, 0.3, 5.0, 1000.0])
def test_measuring_takes_no_longer_than_it_may_but_for_the_first_step(seconds: float) -> None:
    taken: list[float] = []

    def time_step(images: int) -> float:
        taken.append(seconds * images**0.5)
        return taken[-1]

    assert list(measure(time_step, seconds=10.0)) == list(MEASURED_IMAGES[: len(taken)])
    assert sum(2 * each for each in taken[1:]) <= 10.0


def test_another_size_gets_as_many_as_have_the_same_number_of_pixels() -> None:
    cap = BatchCap(SQUARE, 4)
    assert cap.choose(SQUARE) == 4
    assert cap.choose(Size(1024, 512)) == 2
    assert cap.choose(Size(1024, 1024)) == 1
    assert cap.choose(Size(2048, 2048)) == 1
    assert cap.choose(Size(256, 512)) == 8
    assert cap.choose(Size(64, 64)) == 16


def test_a_profile_is_read_back(tmp_path: Path) -> None:
    write_profile(tmp_path / "profile.json", {1: 0.25, 2: 0.3})
    assert read_profile(tmp_path / "profile.json") == {1: 0.25, 2: 0.3}
    assert [file.name for file in tmp_path.iterdir()] == ["profile.json"]


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"step_seconds": 3}', *(json.dumps({"step_seconds": each}) for each in ({"2": 1.0}, {"1": "x"}))]
    + [json.dumps({"step_seconds": {"1": seconds}}) for seconds in (0, -1, math.nan, math.inf)],
)
def test_a_damaged_profile_is_ignored(tmp_path: Path, content: str) -> None:
    file = tmp_path / "profile.json"
    file.write_text(content)
    assert read_profile(file) == {}
    assert read_profile(tmp_path / "missing.json") == {}


def test_a_profile_that_cannot_be_written_costs_nothing_but_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_profile(tmp_path / "missing" / "profile.json", {1: 0.25})
    assert "what batches gain isn't kept" in caplog.text


def test_each_model_device_library_and_size_has_a_profile_of_its_own() -> None:
    names = {
        name_profile(DESCRIPTION, "H100", SQUARE),
        name_profile(DESCRIPTION, "L4", SQUARE),
        name_profile(DESCRIPTION, "H100", Size(512, 256)),
        name_profile(replace(DESCRIPTION, dtype="bfloat16"), "H100", SQUARE),
        name_profile(replace(DESCRIPTION, resolved_revision="abc"), "H100", SQUARE),
        name_profile(replace(DESCRIPTION, versions={"torch": "3"}), "H100", SQUARE),
    }
    assert len(names) == 6
    assert name_profile(replace(DESCRIPTION, model="renamed", load_seconds=9.0), "H100", SQUARE) in names


@pytest.mark.torch
def test_an_engine_measures_once_and_reads_what_it_measured_and_a_configured_number_wins(tmp_path: Path) -> None:
    from tests.inference_server.engine.stepping.running import build_engine  # noqa: PLC0415  # most need no engine
    from tests.support.tiny_models import build_sd15  # noqa: PLC0415  # loads torch

    build_engine(build_sd15(), max_batch_images=3).measure_batch_cap(tmp_path)
    assert list(tmp_path.iterdir()) == []
    engine = build_engine(build_sd15())
    assert engine.max_images(512, 512) == 1
    engine.measure_batch_cap(tmp_path)
    [file] = tmp_path.iterdir()
    assert 1 in read_profile(file)
    write_profile(file, {1: 1.0, 2: 1.0, 4: 1.0, 8: 8.0})
    another = build_engine(build_sd15())
    another.measure_batch_cap(tmp_path)
    assert another.max_images(512, 512) == 4
    assert another.max_images(1024, 512) == 2
