"""LoRAs for tiny models, and jobs that ask for them."""

from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from easel_contract.add_ons import AddOnConfig
from easel_server.engine.interface import Engine, Generation
from easel_server.generation.add_ons import AdapterUse
from easel_server.generation.parameters import GenerationParameters
from PIL import Image

from tests.inference_server.engine.stepping.running import NO_INPUTS, build_engine, go_on, images_of
from tests.support.tiny_engine import tiny_parameters

NEAR = 2  # of 255: how far images may be from those of a job alone, where jobs share calls


@cache
def build_tiny(name: str) -> Any:
    """A tiny model that everybody may use who leaves it as it is."""
    from tests.support.tiny_models import BUILDERS  # noqa: PLC0415  # loads torch

    pipeline = BUILDERS[name]()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@cache
def tiny_adapter_engine(name: str = "sd15") -> Engine:
    """Of a tiny model."""
    engine: Engine = build_engine(build_tiny(name))
    return engine


def write_adapter(directory: Path, name: str, *, model: str = "sd15", **options: Any) -> AddOnConfig:
    """An adapter on a volume, for a tiny model."""
    from tests.support.tiny_models.adapters import write_lora  # noqa: PLC0415  # loads torch

    file = write_lora(directory / f"{name}.safetensors", build_tiny(model), **options)
    return AddOnConfig(name=name, source=str(file))


def adapter_job(*used: tuple[AddOnConfig, float], **changes: Any) -> GenerationParameters:
    """A job with these adapters at these weights, in this order."""
    uses = tuple(AdapterUse(name=config.name, weight=weight, key=config.key) for config, weight in used)
    return tiny_parameters(**{"adapters": uses, **changes})


def begin(engine: Engine, job: GenerationParameters, add_ons: Sequence[AddOnConfig], **options: Any) -> Generation:
    """As a worker does it."""
    return engine.begin(job, NO_INPUTS, add_ons=add_ons, **options)


def run(engine: Engine, *jobs: GenerationParameters, add_ons: Sequence[AddOnConfig] = ()) -> list[bytes]:
    """The first image of each of the jobs, which take their steps together."""
    generations = [begin(engine, job, add_ons) for job in jobs]
    go_on(engine, generations)
    return [images_of(each)[0] for each in generations]


def pixels_of(image: bytes) -> Any:
    """[height, width, 3], whole numbers."""
    return np.asarray(Image.open(BytesIO(image)).convert("RGB")).astype(int)


def distance(one: bytes, other: bytes) -> int:
    """The largest of all differences, of 255."""
    return int(np.abs(pixels_of(one) - pixels_of(other)).max())
