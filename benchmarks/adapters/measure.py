"""What adapters (LoRAs) cost: a switch, images a second with many in rotation, and memory after many switches.

Files are real ones, read by what a worker reads them with; their weights are random. Nothing here is a fake.
"""

import gc
import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import torch
from easel_contract.add_ons import AddOnConfig
from easel_contract.server_config import AddOnMemory
from easel_server.engine.add_ons.adapters import Adapters
from easel_server.engine.add_ons.files import AddOnFiles
from easel_server.engine.add_ons.residency import Residency, choose_budgets
from easel_server.engine.interface import Engine, Generation
from easel_server.engine.model_files.hub import Hub
from easel_server.generation.add_ons import AdapterUse
from easel_server.generation.parameters import GenerationParameters

from benchmarks.engine.turns import compare, take_rounds
from benchmarks.server.processes import resident_mib
from benchmarks.server.samples import summarize
from tests.support.tiny_models.adapters import write_lora

RANK: Final = 16
STRENGTH: Final = 0.1
WEIGHT: Final = 0.8
MIXED: Final = 10  # in rotation, while every other job has none
NONE: Final = "none"
NO_INPUTS: Final[Mapping[str, bytes]] = {}
MIB: Final = 2**20

BuildJob = Callable[[int, Mapping[str, Any]], GenerationParameters]  # by its number, with these fields


def write_adapters(directory: Path, pipeline: Any, count: int) -> list[AddOnConfig]:
    """So many files, all different: rank 16, the attention layers of the denoiser and the text encoders."""
    directory.mkdir()
    configs = []
    for number in range(count):
        file = directory / f"style-{number}.safetensors"
        write_lora(file, pipeline, rank=RANK, strength=STRENGTH, seed=number, attention_only=True)
        configs.append(AddOnConfig(name=f"style-{number}", source=str(file)))
    return configs


def _build_files() -> AddOnFiles:
    """Of adapters that are on this machine: nothing is downloaded."""
    return AddOnFiles(None, Hub(None))


def describe_adapters(pipeline: Any, configs: Sequence[AddOnConfig]) -> dict[str, Any]:
    """Size of one, and how many layers it adds to."""
    with ExitStack() as holds:
        residency = Residency(torch.device("cpu"), *choose_budgets(torch.device("cpu"), AddOnMemory()))
        job = Adapters(pipeline, residency, _build_files().find).take(_uses(configs[:1]), configs[:1], holds)
        layers = {part: len(some) for each in job.adapters for part, some in each.weights.parts.items()}
        size_bytes = residency.count_bytes()[0]
        return {"rank": RANK, "bytes": size_bytes, "mib": round(size_bytes / MIB, 2), "layers": layers}


def measure_switches(pipeline: Any, configs: Sequence[AddOnConfig], rounds: int) -> dict[str, Any]:
    """Milliseconds of the wall until a job has an adapter, by where that is before.

    ``from_file``: nowhere but in its file, which the page cache holds. ``from_ram``: gathered, which is what a worker
    does while other jobs step. ``resident``: another job had it before.
    """
    device = torch.device(getattr(pipeline, "_execution_device", pipeline.device))
    residency = Residency(device, *choose_budgets(device, AddOnMemory()))
    adapters = Adapters(pipeline, residency, _build_files().find)
    taken: dict[str, list[float]] = {"from_file": [], "from_ram": [], "resident": []}

    def take(config: AddOnConfig) -> float:
        _synchronize(device)
        began = time.perf_counter()
        with ExitStack() as holds:
            adapters.take(_uses([config]), [config], holds)
            _synchronize(device)
            return (time.perf_counter() - began) * 1000

    take(configs[0])  # one that isn't counted
    for config, _ in zip(itertools.cycle(configs), range(rounds), strict=False):
        residency.clear()
        taken["from_file"].append(take(config))
        taken["resident"].append(take(config))
        residency.clear()
        adapters.prefetch(_uses([config]), [config])
        taken["from_ram"].append(take(config))
    return {
        "host_and_device_are_one_place": device.type == "cpu",
        **{f"{place}_milliseconds": summarize(samples).to_record() for place, samples in taken.items()},
    }


def measure_rotation(
    engine: Engine,
    build: BuildJob,
    configs: Sequence[AddOnConfig],
    *,
    counts: Sequence[int],
    width: int,
    rounds: int,
    synchronize: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Images a second of ``width`` jobs that share each step, with so many adapters in rotation over with none.

    All are resident. The sides take turns; each job has a prompt of its own, so that all are encoded.
    """
    numbers = itertools.count()

    def load_next(rotation: Iterator[AddOnConfig | None]) -> None:
        jobs = [(next(rotation), next(numbers)) for _ in range(width)]
        run_jobs(engine, [(build(number, _ask_for(config)), config) for config, number in jobs])
        synchronize()

    def side(rotation: Iterator[AddOnConfig | None]) -> Callable[[], None]:
        return lambda: load_next(rotation)

    for config in configs:  # each read once, before anything counts
        engine.gather(build(next(numbers), _ask_for(config)), [config])
        engine.begin(build(next(numbers), _ask_for(config)), NO_INPUTS, add_ons=[config]).stop()
    sides = {NONE: side(rotate(()))}
    sides |= {f"adapters={count}": side(rotate(configs[:count])) for count in counts}
    sides["every_other_job"] = side(rotate(configs[: min(MIXED, max(counts))], plain_between=True))
    taken = take_rounds(sides, rounds)
    return {
        "jobs_at_once": width,
        "images_per_second": {
            name: summarize([width / each.wall_seconds for each in times]).to_record() for name, times in taken.items()
        },
        # The time of none over the time with adapters is the images a second with adapters over those of none.
        **{f"{name}_over_none": compare(taken, NONE, name) for name in taken if name != NONE},
    }


def measure_memory(
    engine: Engine, residency: Residency, build: BuildJob, configs: Sequence[AddOnConfig], switches: int
) -> dict[str, Any]:
    """After so many switches beside after one round through all; each reads a file where there isn't room for all."""
    rotation = rotate(configs)
    looks = []
    for count in (len(configs), switches):
        began = time.perf_counter()
        for _ in range(count):
            config = next(rotation)
            assert config is not None
            generation = engine.begin(build(0, _ask_for(config)), NO_INPUTS, add_ons=[config])
            engine.step([generation])
            if generation.error is not None:
                raise generation.error
            generation.stop()
        gc.collect()
        looks.append(
            {
                "resident_mib": round(resident_mib(os.getpid()), 1),
                "adapters_bytes": residency.count_bytes()[0],
                "live_tensors": sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects()),
                "milliseconds_a_switch_and_step": round((time.perf_counter() - began) / count * 1000, 1),
            }
        )
    before, after = looks
    return {
        "adapters": len(configs),
        "switches": switches,
        "before": before,
        "after": after,
        "resident_after_over_before": round(after["resident_mib"] / before["resident_mib"], 4),
        "adapters_after_over_before": round(after["adapters_bytes"] / before["adapters_bytes"], 4),
    }


def run_jobs(engine: Engine, jobs: Sequence[tuple[GenerationParameters, AddOnConfig | None]]) -> list[Generation]:
    """All from their beginning to their end, together. Raises what one failed with."""
    generations = [engine.begin(job, NO_INPUTS, add_ons=[config] if config else []) for job, config in jobs]
    while not all(each.is_done for each in generations):
        engine.step(generations)
    for each in generations:
        if each.error is not None:
            raise each.error
    return generations


def rotate(configs: Sequence[AddOnConfig], *, plain_between: bool = False) -> Iterator[AddOnConfig | None]:
    """One after the other, again and again; None is a job without any."""
    for config in itertools.cycle(configs or (None,)):
        yield config
        if plain_between:
            yield None


def _ask_for(config: AddOnConfig | None) -> dict[str, Any]:
    return {} if config is None else {"adapters": _uses([config])}


def _uses(configs: Sequence[AddOnConfig]) -> tuple[AdapterUse, ...]:
    return tuple(AdapterUse(name=each.name, weight=WEIGHT, key=each.key) for each in configs)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
