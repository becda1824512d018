"""The GPU's benchmark, run on the CPU at tiny width, so that it works when a GPU is at hand."""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as bench
from benchmarks.gpu.packages import choose

PARTS = ["model", "stock", "engine", "steps", "mixed", "previews", "adapters", "compiled"]


def measure(name: str, **options: Any) -> dict[str, Any]:
    import torch  # noqa: PLC0415  # most tests don't need it

    from benchmarks.gpu.measure import Bench  # noqa: PLC0415  # loads torch
    from benchmarks.gpu.models import TINY  # noqa: PLC0415  # loads torch

    told: dict[str, Any] = {}
    Bench(TINY[name], torch.device("cpu"), torch.float32, compile_backend="eager", **options).run(told.__setitem__)
    return told


@pytest.mark.torch
@pytest.mark.parametrize("name", ["sdxl"])
def test_each_part_of_each_kind_of_model_gives_figures_on_any_machine(name: str) -> None:
    told = measure(name)
    assert list(told) == PARTS
    assert not [part for part, figures in told.items() if {"failed", "out_of_memory"} & figures.keys()], told
    assert told["stock"]["images=2"]["images_per_second"] > 0
    assert told["steps"]["jobs=2"]["step_milliseconds"] > 0
    assert told["adapters"]["images"]["adapters=2_over_none"]["by_wall"]["median"] > 0


@pytest.mark.torch
def test_a_part_that_runs_out_of_memory_loses_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch  # noqa: PLC0415  # most tests don't need it

    from benchmarks.gpu.measure import Bench  # noqa: PLC0415  # loads torch

    def run_out(_: Bench) -> dict[str, Any]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    for part in ("stock", "engine", "mixed", "compiled"):
        monkeypatch.setattr(Bench, f"_measure_{part}", run_out)
    told = measure("sd15")
    assert list(told) == PARTS
    assert told["stock"] == {"out_of_memory": "CUDA out of memory"}
    assert told["steps"]["jobs=1"]["step_milliseconds"] > 0


def test_a_model_whose_time_is_over_keeps_what_it_has_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run_really = subprocess.run

    def run(command: list[str], **options: Any) -> Any:
        if "--into" not in command:
            return run_really(command, **options)
        into = Path(command[command.index("--into") + 1])
        into.write_text(json.dumps(["stock", {"images=1": {"seconds": 1.0}}]) + "\n")
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", run)
    arguments = argparse.Namespace(names=["sdxl"], seconds=90.0, results=tmp_path, tiny=True, compile_backend="eager")
    assert bench.measure_all(arguments) == 0
    (file,) = tmp_path.glob("gpu-*-tiny.json")
    figures = json.loads(file.read_text())["sdxl"]
    assert figures["stock"] == {"images=1": {"seconds": 1.0}}
    assert figures["ended"] == "its 90 s were over"


def test_the_anchors_stand_beside_stable_diffusion_xl() -> None:
    lines = list(bench.build_table("NVIDIA H100", {"sdxl": {"stock": {"images=1": {"images_per_second": 0.5}}}}))
    assert lines[0] == "NVIDIA H100"
    assert [line.split()[-2:] for line in lines if "MLPerf" in line] == [["2.26", "images/s"], ["2.4", "images/s"]]


# Billions of numbers in the published files, positions that aren't learnt among them.
@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "billions"), [("sd15", 0.86), ("sdxl", 2.57), ("sd35-medium", 2.47), ("flux-dev", 11.9)]
)
def test_denoisers_at_full_width_have_as_many_parameters_as_the_published_ones(name: str, billions: float) -> None:
    import torch  # noqa: PLC0415  # most tests don't need it

    from benchmarks.gpu.models import MODELS, build_on  # noqa: PLC0415  # loads torch

    pipeline = build_on(MODELS[name], torch.device("meta"), torch.bfloat16)
    denoiser = getattr(pipeline, "unet", None) or pipeline.transformer
    assert sum(each.numel() for each in denoiser.state_dict().values()) / 1e9 == pytest.approx(billions, rel=0.01)


def test_packages_are_those_of_the_lock_without_what_comes_with_torch() -> None:
    lock = [
        "diffusers==0.42.1 \\\n",
        "    --hash=sha256:01\n",
        "    # via easel-serving (pyproject.toml)\n",
        "nvidia-cublas==13.2 ; sys_platform == 'linux' \\\n",
        "    --hash=sha256:02\n",
        "torch==2.15.0 \\\n",
        "    --hash=sha256:03\n",
        "numpy==2.3 \\\n",
        "    --hash=sha256:04\n",
    ]
    assert list(choose(lock)) == lock[:3]
    assert list(choose(lock, ["numpy"])) == [*lock[:3], *lock[7:]]
