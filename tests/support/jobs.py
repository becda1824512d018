"""Jobs for tests."""

from datetime import UTC, datetime, timedelta
from typing import Any

from easel_contract.server_config import EngineKind, ModelConfig, Priority
from easel_server.generation.job import Job
from easel_server.generation.models import ModelIdentity, RequestedModel, model_key
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.request import WebhookTarget
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.opening import Stores

from tests.support.eventually import TIMEOUT_SECONDS, eventually


def build_identity(
    model: ModelConfig | None = None, *, engine: EngineKind = EngineKind.DIFFUSERS, weights: str = "commit-1"
) -> ModelIdentity:
    """What a worker reports that holds the model."""
    model = model or ModelConfig(name="sdxl", source="owner/sdxl")
    return ModelIdentity(
        name=model.name,
        key=model_key(model, engine),
        source=model.source,
        engine=engine.lower(),
        dtype="float32",
        weights=weights,
        versions={"torch": "2.8.0", "diffusers": "0.36.0"},
    )


def build_parameters(**changes: Any) -> GenerationParameters:
    values: dict[str, Any] = {
        "prompt": "a lighthouse at dawn, Ölfarben 夜明け",
        "width_pixels": 64,
        "height_pixels": 64,
        "steps": 4,
        "guidance_scale": 7.5,
        "seed": 7,
    }
    return GenerationParameters(**values | changes)


def build_job(
    job_id: str,
    *,
    owner: str = "anonymous",
    deadline_seconds: float | None = None,
    webhook: WebhookTarget | None = None,
    priority: Priority = Priority.NORMAL,
    weight: int = 1,
    gpu_seconds: float = 1.0,
    model: str | None = None,
    **parameters: Any,
) -> Job:
    now = datetime.now(UTC)
    return Job(
        id=job_id,
        owner=owner,
        parameters=build_parameters(**parameters),
        submitted_at=now,
        deadline_at=now + timedelta(seconds=deadline_seconds) if deadline_seconds is not None else None,
        webhook=webhook,
        priority=priority,
        weight=weight,
        predicted_gpu_seconds=gpu_seconds,
        model=RequestedModel(name=f"Model {model}", key=model) if model is not None else None,
    )


async def submit_once_accepted(stores: Stores, job_id: str, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
    """Submits a job, again while the stores are unavailable, as they are for a moment after a fail-over."""

    async def is_accepted() -> bool:
        try:
            await stores.jobs.submit(build_job(job_id))
        except StoreUnavailableError:
            return False
        return True

    await eventually(is_accepted, timeout_seconds)
