"""What a process keeps after many jobs of all kinds: resident memory, and tensors that are alive."""

import gc
import os
import random
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Final

import torch
from easel_server.engine.interface import Engine, Generation
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import Task
from PIL import Image

from benchmarks.engine.jobs import load
from benchmarks.engine.models import TINY, written
from benchmarks.server.processes import resident_mib

SEED: Final = 50
WARM_UP_JOBS: Final = 50
TOGETHER: Final = 8
SIDES_PIXELS: Final = (64, 96, 128)
TASKS: Final = (Task.TEXT_TO_IMAGE, Task.IMAGE_TO_IMAGE, Task.INPAINT)  # those that denoise
SAMPLERS: Final = ("Euler", "Euler a", "DPM++ 2M Karras", "DDIM", "UniPC")
CANCELED_SHARE: Final = 0.1
PREVIEW_SHARE: Final = 0.2


def measure(*, jobs: int) -> dict[str, Any]:
    """After ``jobs`` mixed jobs beside after WARM_UP_JOBS."""
    with written(TINY) as directory:
        engine = load(directory, max_batch_images=TOGETHER)
        course = build_course(random.Random(SEED), jobs)  # noqa: S311
        looks: list[dict[str, Any]] = []
        for count in (WARM_UP_JOBS, jobs - WARM_UP_JOBS):
            run_mixed(engine, course, count, random.Random(SEED + len(looks)))  # noqa: S311
            looks.append(look())
    first, last = looks
    return {
        "seed": SEED,
        "jobs": [WARM_UP_JOBS, jobs],
        "resident_mib": [round(each["resident_mib"], 1) for each in looks],
        "live_tensors": [each["live_tensors"] for each in looks],
        "live_tensors_mib": [round(each["live_tensors_mib"], 2) for each in looks],
        "resident_last_over_first": round(last["resident_mib"] / first["resident_mib"], 4),
        "live_tensors_last_over_first": round(last["live_tensors"] / first["live_tensors"], 4),
    }


def build_course(chance: random.Random, jobs: int) -> Iterator[tuple[GenerationParameters, dict[str, bytes]]]:
    """Jobs with their input images: each of TASKS, sampler, count of steps and of images, with guidance and without."""
    images = {(side, mode): _build_image(side, mode) for side in SIDES_PIXELS for mode in ("RGB", "L")}
    for seed in range(jobs):
        side, task = chance.choice(SIDES_PIXELS), chance.choice(TASKS)
        inputs, named = {}, {}
        if task is not Task.TEXT_TO_IMAGE:
            inputs["image"] = images[side, "RGB"]
            named = {"image_digest": "image", "strength": 0.6}
        if task is Task.INPAINT:
            inputs["mask"] = images[side, "L"]
            named["mask_digest"] = "mask"
        parameters = TINY.parameters(
            seed=seed,
            steps=chance.randint(2, 4),
            task=task,
            width_pixels=side,
            height_pixels=side,
            images=chance.choice((1, 1, 1, 2)),
            guidance_scale=chance.choice((1.0, 5.0, 7.5)),
            sampler=chance.choice(SAMPLERS),
            **named,
        )
        yield parameters, inputs


def _build_image(side: int, mode: str) -> bytes:
    buffer = BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def run_mixed(
    engine: Engine,
    course: Iterator[tuple[GenerationParameters, dict[str, bytes]]],
    count: int,
    chance: random.Random,
) -> None:
    """So many jobs, TOGETHER at a time, each joining when another has left; some are stopped midway, some looked at."""
    running: list[Generation] = []
    left = count
    while left or running:
        while left and len(running) < TOGETHER:
            running.append(engine.begin(*next(course)))
            left -= 1
        engine.step(running)
        for each in running:
            if chance.random() < PREVIEW_SHARE and not each.is_done:
                each.build_preview()
            if each.is_done and each.error is None:
                each.encode_images()
            elif each.is_done:
                raise AssertionError(f"a job failed: {each.error}")
        if chance.random() < CANCELED_SHARE:
            running.pop().stop()
        running = [each for each in running if not each.is_done]


def look() -> dict[str, Any]:
    """What there is now."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    return {
        "resident_mib": resident_mib(os.getpid()),
        "live_tensors": len(tensors),
        "live_tensors_mib": sum(storages.values()) / 2**20,
    }
