"""One set of tiny models and loaded engines for the whole test run: loading torch takes longer than the tests."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from easel_contract.server_config import ModelConfig
from easel_server.engine import loading as lazy_loader
from easel_server.engine.interface import Engine, Generation
from easel_server.generation.parameters import GenerationParameters

# Other tests and other people's processes share the CPUs; see lazy_loader for what more threads would do then.
os.environ.setdefault("EASEL_TORCH_THREADS", "1")


@cache
def tiny_model_directory(name: str = "sd15") -> Path:
    """Directory of a tiny model (a name of ``tiny_models.BUILDERS``), written on first use and removed at exit."""
    lazy_loader.prepare_libraries()
    from tests.support.tiny_models import write_tiny_model  # noqa: PLC0415  # loads torch, which most tests don't need

    directory = _all_models() / name
    write_tiny_model(directory, name)
    return directory


@cache
def _all_models() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="easel-tiny-models-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


@cache
def tiny_engine(name: str = "sd15") -> Engine:
    """A loaded tiny model."""
    config = ModelConfig(name=name, source=str(tiny_model_directory(name)))
    return lazy_loader.load_engine(config, hub_token=None, max_batch_images=1)  # nothing is measured


def tiny_parameters(**changes: object) -> GenerationParameters:
    """Parameters that a tiny model serves in a few hundredths of a second."""
    defaults = {
        "prompt": "a cat",
        "width_pixels": 64,
        "height_pixels": 64,
        "steps": 4,
        "guidance_scale": 7.5,
        "seed": 7,
    }
    return GenerationParameters.model_validate({**defaults, **changes})


@dataclass(frozen=True)
class Step:
    """One that is done by all jobs of a call of ``generate_together``."""

    done: int
    steps: int
    build_previews: Callable[[], list[bytes]]


def ignore_step(_step: Step) -> None:
    """For generations whose progress doesn't matter."""


def generate_together(
    engine: Engine,
    batch: Sequence[GenerationParameters],
    inputs: Mapping[str, bytes],
    on_step: Callable[[Step], None] = ignore_step,
) -> list[list[bytes]]:
    """Images of jobs that take all their steps together. Raises what one of them fails with, or ``on_step`` raises."""
    generations = [engine.begin(parameters, inputs) for parameters in batch]
    done = 0
    try:
        while not all(each.is_done for each in generations):
            engine.step(generations)
            _raise_first(generations)
            if (now := min(each.steps_done for each in generations)) > done:
                done = now
                on_step(Step(done, batch[0].steps, partial(_build_previews, generations)))
        _raise_first(generations)
    finally:
        for each in generations:
            each.stop()
    return [each.encode_images() for each in generations]


def _build_previews(generations: Sequence[Generation]) -> list[bytes]:
    return [each.build_preview() or b"" for each in generations]


def _raise_first(generations: Sequence[Generation]) -> None:
    for each in generations:
        if each.error is not None:
            raise each.error


def generate(engine: Engine, *batch: GenerationParameters) -> list[list[bytes]]:
    """The images of jobs that take their steps together."""
    return generate_together(engine, batch, {})
