"""Jobs taken through the engine as a worker does, and through the stock call of the same pipeline."""

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from easel_server.engine.diffusers_engine import DiffusersEngine
from easel_server.engine.interface import Engine, Generation
from easel_server.engine.loading import load_engine
from easel_server.generation.models import EngineDescription
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.samplers import SAMPLERS
from PIL import Image

from benchmarks.engine.models import build_model_config


def load(directory: Path, **options: Any) -> Engine:
    """As a worker loads it."""
    return load_engine(build_model_config(directory), hub_token=None, **options)


def build_engine(pipeline: Any, name: str, **options: Any) -> DiffusersEngine:
    """Around a pipeline that is in memory already."""
    description = EngineDescription(
        engine="diffusers",
        pipeline=type(pipeline).__name__,
        device=str(pipeline.device),
        dtype=str(pipeline.dtype).removeprefix("torch."),
        model=name,
        load_seconds=0.0,
        versions={"easel": "this tree", "diffusers": diffusers.__version__, "torch": torch.__version__},
    )
    return DiffusersEngine(pipeline, description, **options)


def load_stock(directory: Path, sampler: str) -> Any:
    """As a script loads it, which sets its scheduler once."""
    pipeline = DiffusionPipeline.from_pretrained(directory, local_files_only=True)  # type: ignore[no-untyped-call]
    pipeline.set_progress_bar_config(disable=True)
    chosen = SAMPLERS[sampler]
    pipeline.scheduler = getattr(diffusers, chosen.scheduler).from_config(pipeline.scheduler.config, **chosen.changes)
    return pipeline


def call_stock(pipeline: Any, job: GenerationParameters) -> Any:
    """The images of the pipeline's own call."""
    with torch.inference_mode():
        return pipeline(
            prompt=job.prompt,
            width=job.width_pixels,
            height=job.height_pixels,
            num_inference_steps=job.steps,
            guidance_scale=job.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(job.seed)],
        ).images


def run_jobs(
    engine: Engine, jobs: Sequence[GenerationParameters], on_step: Callable[[list[Generation]], object] = lambda _: None
) -> list[Generation]:
    """All from their beginning to their end, together. Raises what one failed with."""
    generations = [engine.begin(job, {}) for job in jobs]
    while not all(each.is_done for each in generations):
        engine.step(generations)
        on_step(generations)
    for each in generations:
        if each.error is not None:
            raise each.error
    return generations


def decode_only_image(generations: Sequence[Generation]) -> bytes:
    """The pixels of the only image of the only job."""
    ((image,),) = [each.encode_images() for each in generations]
    return Image.open(BytesIO(image)).convert("RGB").tobytes()
