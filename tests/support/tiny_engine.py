"""One set of tiny models and loaded engines for the whole test run: loading torch takes longer than the tests."""

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from easel_contract.server_config import ModelConfig
from easel_server.engine import loading as lazy_loader
from easel_server.engine.interface import Engine, Step
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


def ignore_step(_step: Step) -> None:
    """For generations whose progress doesn't matter."""


def generate(engine: Engine, *batch: GenerationParameters) -> list[list[bytes]]:
    """The images of a batch."""
    return engine.generate(batch, {}, ignore_step)
