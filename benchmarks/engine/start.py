"""From a process's start to its first image: the bare script beside the server's worker, in turns.

The script imports what it needs, loads the model and generates an image of one step. The worker is ready once
``/readyz`` says so: it has loaded the model and generated such an image too, and listens. Both read the same files,
which the page cache holds. Processor time is the process's own with its children.
"""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from easel_contract.server_config import ServerConfig
from easel_server.engine.loading import ENV_TORCH_THREADS

from benchmarks.engine.models import SD15_NARROW, build_model_config, written
from benchmarks.engine.turns import Times, compare
from benchmarks.server.processes import ROOT, cpu_seconds
from benchmarks.server.samples import summarize
from tests.support.server_process import ServerProcess

SCRIPT: Final = """
import sys
import torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1])
pipeline("a cat", num_inference_steps=1, width=64, height=64).images[0].save(sys.argv[2])
"""
SCRIPT_TIMEOUT_SECONDS: Final = 120.0


def measure(*, rounds: int) -> dict[str, Any]:
    """Seconds of each, and the worker's as a share of the script's."""
    with written(SD15_NARROW) as directory:
        sides: dict[str, Callable[[], Times]] = {
            "script": lambda: run_script(directory),
            "worker": lambda: start_worker(directory),
        }
        taken: dict[str, list[Times]] = {name: [] for name in sides}
        for number in range(rounds):
            for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
                taken[name].append(sides[name]())
    figures: dict[str, Any] = {
        name: {
            "cpu_seconds": summarize([each.cpu_seconds for each in times]).to_record(2),
            "wall_seconds": summarize([each.wall_seconds for each in times]).to_record(2),
        }
        for name, times in taken.items()
    }
    return {**figures, "ready_over_script": compare(taken, "worker", "script")}


def run_script(directory: Path) -> Times:
    """To its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get(ENV_TORCH_THREADS, "1")}
    before, began = _children_cpu_seconds(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(directory), str(directory / "first.png")],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
        timeout=SCRIPT_TIMEOUT_SECONDS,
    )
    return Times(_children_cpu_seconds() - before, time.perf_counter() - began)


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def start_worker(directory: Path) -> Times:
    """Until it is ready. Gateway and worker in one process, with the job store in memory, as Redis is nobody's time."""
    config = ServerConfig(service="bench", model=build_model_config(directory))
    began = time.perf_counter()
    with ServerProcess("--role", "all", config=config) as server:
        server.wait_until_ready()
        return Times(cpu_seconds(server.process.pid), time.perf_counter() - began)
