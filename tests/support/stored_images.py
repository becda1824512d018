"""What a worker and a gateway do with a job's images, for tests that have neither."""

from collections.abc import Sequence
from typing import Any

from easel_server.generation.cost import Measurement
from easel_server.generation.models import ModelIdentity
from easel_server.stores.images.interface import ImageStore
from easel_server.stores.jobs.interface import Claim, JobQueue, JobStore, Succeeded


async def succeed(
    jobs: JobQueue,
    claimed: Claim,
    images: Sequence[bytes],
    measured: Measurement | None = None,
    generated_by: ModelIdentity | None = None,
    warnings: tuple[str, ...] = (),
    *,
    gpu_seconds: float = 0.0,
) -> bool:
    """Put the images where the jobs were opened to have them, and finish."""
    stored = await image_store_of(jobs).put(claimed.job.id, images, "image/png")
    return await jobs.finish(claimed, Succeeded(stored, warnings), measured, generated_by, gpu_seconds=gpu_seconds)


async def read_images(jobs: JobStore, job_id: str) -> tuple[bytes, ...]:
    """The images of a job that has some; none of any other."""
    job = await jobs.get(job_id)
    return await image_store_of(jobs).get(job.images) if job is not None else ()


def image_store_of(jobs: Any) -> ImageStore:
    """What a job store, or one behind it, was opened with."""
    store: ImageStore = jobs._images
    return store
