"""Jobs taken through an engine, step by step; imports no torch before it is used."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from easel_server.engine import loading
from easel_server.engine.interface import Engine, Generation
from easel_server.generation.models import EngineDescription
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import Task

from tests.support.images import build_image, build_mask, digest
from tests.support.tiny_engine import tiny_parameters

loading.prepare_libraries()  # before torch is imported: see there

SIDE_PIXELS = 64
IMAGE = build_image(SIDE_PIXELS, SIDE_PIXELS)
MASK = build_mask(SIDE_PIXELS, SIDE_PIXELS)
INPUTS = {digest(data): data for data in (IMAGE, MASK)}
NO_INPUTS: Mapping[str, bytes] = {}


def image_parameters(task: Task, **changes: object) -> GenerationParameters:
    """Of a job that begins with IMAGE."""
    mask = digest(MASK) if task is Task.INPAINT else None
    return tiny_parameters(
        **{"task": task, "image_digest": digest(IMAGE), "mask_digest": mask, "strength": 0.6, "steps": 10} | changes
    )


def go_on(engine: Engine, generations: Sequence[Generation], *, until: Callable[[], bool] = lambda: False) -> int:
    """Step all of them until they are done, or ``until``; and how many steps that took."""
    steps = 0
    while not until() and not all(each.is_done for each in generations):
        engine.step(generations)
        steps += 1
    return steps


def images_of(generation: Generation) -> list[bytes]:
    """Of one that is done; raises what it failed with."""
    assert generation.is_done
    if generation.error is not None:
        raise generation.error
    return generation.encode_images()


def run_alone(
    engine: Engine,
    parameters: GenerationParameters,
    inputs: Mapping[str, bytes] = INPUTS,
    *,
    checkpoint: bytes | None = None,
) -> list[bytes]:
    """The images of a job that nobody is beside."""
    generation = engine.begin(parameters, inputs, checkpoint=checkpoint)
    go_on(engine, [generation])
    return images_of(generation)


def take_checkpoint(engine: Engine, parameters: GenerationParameters, *, steps: int) -> bytes:
    """As a worker does that ends after so many calls of ``step``."""
    generation = engine.begin(parameters, INPUTS)
    for _ in range(steps):
        engine.step([generation])
    data = generation.checkpoint()
    generation.stop()
    assert data is not None
    return data


def build_engine(pipeline: Any, **options: Any) -> Any:
    """An engine around a pipeline that a test has made."""
    import torch  # noqa: PLC0415  # most tests don't need it
    from easel_server.engine.diffusers_engine import DiffusersEngine  # noqa: PLC0415  # loads torch

    torch.set_num_threads(1)  # others share the processors
    description = EngineDescription(
        engine="diffusers",
        pipeline=type(pipeline).__name__,
        device="cpu",
        dtype="float32",
        model="tiny",
        load_seconds=0.0,
        versions={"easel": "0", "diffusers": "0", "torch": "0"},
    )
    return DiffusersEngine(pipeline, description, **options)
