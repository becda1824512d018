"""The adapters' benchmark: what it compares, on a tiny model with real files."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from easel_contract.add_ons import AddOnConfig

from benchmarks.adapters.__main__ import GOALS, build_table


@pytest.fixture(scope="module")
def tiny() -> Any:
    from benchmarks.engine.models import TINY  # noqa: PLC0415  # loads torch

    pipeline = TINY.build()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def job(number: int, fields: Any) -> Any:
    from benchmarks.engine.models import TINY  # noqa: PLC0415  # loads torch

    return TINY.parameters(seed=number, steps=1, **fields)


def build_tiny_engine(pipeline: Any, **options: Any) -> Any:
    from benchmarks.engine.jobs import build_engine  # noqa: PLC0415  # loads torch

    return build_engine(pipeline, "tiny", **options)


def test_a_table_says_whether_the_goal_is_met_and_by_how_much_it_is_not() -> None:
    [goal] = GOALS
    assert goal == "images.adapters=10_over_none.by_cpu.median"
    for value, verdict in ((0.9, "at least 0.9: met"), (0.85, "at least 0.9: missed by 0.050")):
        [line, other] = build_table(
            "sd15", {"images": {"adapters=10_over_none": {"by_cpu": {"median": value}}, "x": 1}}
        )
        assert line.endswith(verdict)
        assert line.startswith(f"sd15.{goal} ")
        assert "goal" not in other
        assert other.split() == ["sd15.images.x", "1"]


@pytest.mark.torch
def test_adapters_take_turns_and_every_other_job_may_have_none() -> None:
    from benchmarks.adapters.measure import rotate  # noqa: PLC0415  # loads torch

    one, other = (AddOnConfig(name=name, source=f"/styles/{name}") for name in ("one", "other"))
    assert list(islice(rotate([one, other]), 5)) == [one, other, one, other, one]
    assert list(islice(rotate([one, other], plain_between=True), 5)) == [one, None, other, None, one]
    assert list(islice(rotate([]), 2)) == [None, None]


@pytest.mark.torch
def test_jobs_of_a_turn_share_their_steps_with_as_many_adapters_as_are_in_rotation(tiny: Any, tmp_path: Path) -> None:
    from benchmarks.adapters.measure import measure_rotation, write_adapters  # noqa: PLC0415  # loads torch

    engine = build_tiny_engine(tiny)
    configs = write_adapters(tmp_path / "adapters", tiny, 3)
    names: dict[Any, set[str]] = {}
    seen: list[tuple[int, int, int]] = []
    begin, step = engine.begin, engine.step

    def begin_and_note(parameters: Any, *arguments: Any, **options: Any) -> Any:
        generation = begin(parameters, *arguments, **options)
        names[generation] = {use.name for use in parameters.adapters}
        return generation

    def step_and_see(generations: Any) -> None:
        used = [names[each] for each in generations]
        seen.append((len(generations), len(set().union(*used)), sum(bool(each) for each in used)))
        step(generations)

    engine.begin, engine.step = begin_and_note, step_and_see
    figures = measure_rotation(engine, job, configs, counts=(1, 3), width=4, rounds=1)
    # None, one for all four, three for four, and two of the three for every other job.
    assert set(seen) == {(4, 0, 0), (4, 1, 4), (4, 3, 4), (4, 2, 2)}
    assert figures["images_per_second"].keys() == {"none", "adapters=1", "adapters=3", "every_other_job"}
    shares = {name for name in figures if name.endswith("_over_none")}
    assert shares == {"adapters=1_over_none", "adapters=3_over_none", "every_other_job_over_none"}


def test_a_share_is_of_images_a_second_so_what_takes_twice_as_long_is_a_half() -> None:
    from benchmarks.engine.turns import Times, compare  # noqa: PLC0415

    taken = {"none": [Times(1.0, 2.0)] * 3, "adapters=10": [Times(2.0, 4.0)] * 3}
    assert compare(taken, "none", "adapters=10")["by_cpu"]["median"] == pytest.approx(0.5)


@pytest.mark.torch
def test_a_switch_from_a_file_reads_it_and_one_from_memory_does_not(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from easel_server.engine.add_ons import adapters, lora_formats  # noqa: PLC0415  # loads torch

    from benchmarks.adapters.measure import measure_switches, write_adapters  # noqa: PLC0415  # loads torch

    read: list[Path] = []
    read_lora = lora_formats.read_lora

    def count_and_read(file: Path, pipeline: Any) -> Any:
        read.append(file)
        return read_lora(file, pipeline)

    monkeypatch.setattr(adapters, "read_lora", count_and_read)
    configs = write_adapters(tmp_path / "adapters", tiny, 2)
    figures = measure_switches(tiny, configs, 2)
    # The first isn't counted; then each round reads once from the file and once to have it in memory.
    assert len(read) == 1 + 2 * 2
    for place in ("from_file", "from_ram", "resident"):
        assert figures[f"{place}_milliseconds"]["rounds"] == 2
    assert figures["host_and_device_are_one_place"]


@pytest.mark.torch
def test_memory_is_that_of_the_room_before_and_after_switches(tiny: Any, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.add_ons.residency import Residency  # noqa: PLC0415  # loads torch

    from benchmarks.adapters.measure import (  # noqa: PLC0415  # loads torch
        describe_adapters,
        measure_memory,
        write_adapters,
    )

    configs = write_adapters(tmp_path / "adapters", tiny, 4)
    size_bytes = describe_adapters(tiny, configs)["bytes"]
    residency = Residency(torch.device("cpu"), int(2.5 * size_bytes), 0)
    figures = measure_memory(build_tiny_engine(tiny, residency=residency), residency, job, configs, 8)
    assert figures["before"]["adapters_bytes"] == figures["after"]["adapters_bytes"] == 2 * size_bytes
    assert figures["adapters_after_over_before"] == 1
    assert figures["resident_after_over_before"] == pytest.approx(1, abs=0.2)
