"""Which requests count as the same."""

import pytest
from easel_contract.server_config import (
    DType,
    EngineKind,
    ModelCacheConfig,
    ModelConfig,
    Quantization,
    SchedulerConfig,
    SourceConfig,
    StepCache,
)
from easel_server.generation.job import job_fingerprint
from easel_server.generation.models import (
    ModelIdentity,
    build_cache_key,
    build_flight_key,
    digest_parameters,
    find_requested_model,
    model_key,
)
from easel_server.generation.parameters import GenerationParameters

from tests.support.jobs import build_identity, build_job, build_parameters

MODEL = ModelConfig(name="sdxl", source="stabilityai/sdxl", revision="main")
IDENTITY = build_identity(MODEL)


def cache_key(parameters: GenerationParameters, identity: ModelIdentity = IDENTITY) -> str:
    return build_cache_key(digest_parameters(parameters.to_wire()), identity)


KEY = cache_key(build_parameters())


def test_the_same_request_has_the_same_key_whatever_the_order_of_versions() -> None:
    reordered = IDENTITY.model_copy(update={"versions": dict(reversed([*IDENTITY.versions.items()]))})
    assert cache_key(build_parameters(), reordered) == KEY
    assert cache_key(build_parameters(guidance_scale=7.5, image_format="png")) == KEY
    assert len(KEY) == 64


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a cat"},
        {"negative_prompt": "x"},
        {"width_pixels": 72},
        {"height_pixels": 72},
        {"steps": 5},
        {"guidance_scale": 7.6},
        {"seed": 8},
        {"images": 2},
        {"image_format": "webp"},
        {"quality_percent": 50},
        {"sampler": "Euler"},
        {"strength": 0.5},
        {"image_digest": "a"},
        {"mask_digest": "a"},
        {"task": "Inpaint"},
    ],
    ids=str,
)
def test_whatever_changes_the_pixels_changes_the_key(change: dict[str, object]) -> None:
    assert cache_key(build_parameters(**change)) != KEY


@pytest.mark.parametrize(
    "change",
    [
        {"source": "owner/other"},
        {"revision": "v2"},
        {"weights": "commit-2"},
        {"files": "fp16"},
        {"refiner": "commit-3"},
        {"vae": "sha256:5cd1"},
        {"scheduler": "prediction_type=VPrediction"},
        {"dtype": "bfloat16"},
        {"engine": "synthetic"},
        {"adapters": ("owner/lora",)},
        {"versions": {**IDENTITY.versions, "torch": "2.9.0"}},
    ],
    ids=str,
)
def test_whatever_else_a_worker_holds_changes_the_key(change: dict[str, object]) -> None:
    assert cache_key(build_parameters(), IDENTITY.model_copy(update=change)) != KEY


def test_a_models_name_and_how_its_number_format_was_chosen_change_no_pixels() -> None:
    assert cache_key(build_parameters(), IDENTITY.model_copy(update={"name": "other", "key": "other"})) == KEY


@pytest.mark.parametrize(
    "change",
    [
        {"source": "owner/other"},
        {"revision": None},
        {"dtype": DType.FLOAT16},
        {"quantization": Quantization.FLOAT8},
        {"step_cache": StepCache.DEEP_CACHE},
        {"variant": "fp16"},
        {"file": "model.safetensors"},
        {"config_repository": "owner/config"},
        {"refiner": SourceConfig(source="owner/refiner")},
        {"vae": SourceConfig(source="owner/vae")},
        {"scheduler": SchedulerConfig(sampler="Euler a")},
    ],
    ids=str,
)
def test_what_is_configured_otherwise_is_another_model(change: dict[str, object]) -> None:
    other = MODEL.model_copy(update=change)
    assert model_key(other, EngineKind.DIFFUSERS) != model_key(MODEL, EngineKind.DIFFUSERS)
    digest = digest_parameters(build_parameters().to_wire())
    flights = {build_flight_key(digest, find_requested_model(model, EngineKind.DIFFUSERS)) for model in (MODEL, other)}
    assert len(flights) == 2


def test_each_refiner_makes_another_model() -> None:
    refiners = (SourceConfig(source="owner/refiner", variant=variant) for variant in (None, "fp16"))
    models = [MODEL, *(MODEL.model_copy(update={"refiner": refiner}) for refiner in refiners)]
    assert len({model_key(model, EngineKind.DIFFUSERS) for model in models}) == 3


def test_what_a_model_may_be_loaded_from_changes_no_pixels() -> None:
    allowed = MODEL.model_copy(update={"allow_pickles": True})
    assert model_key(allowed, EngineKind.DIFFUSERS) == model_key(MODEL, EngineKind.DIFFUSERS)


def test_workers_with_a_cache_take_the_jobs_of_gateways_that_hear_of_none() -> None:
    cached = MODEL.model_copy(update={"cache": ModelCacheConfig(directory="/model-cache", record="0123456789")})
    assert model_key(cached, EngineKind.DIFFUSERS) == model_key(MODEL, EngineKind.DIFFUSERS)


def test_a_model_that_is_renamed_stays_the_same_and_another_engine_is_another() -> None:
    renamed = MODEL.model_copy(update={"name": "other"})
    assert model_key(renamed, EngineKind.DIFFUSERS) == model_key(MODEL, EngineKind.DIFFUSERS)
    assert model_key(MODEL, EngineKind.SYNTHETIC) != model_key(MODEL, EngineKind.DIFFUSERS)


def test_a_fingerprint_ignores_times_and_progress() -> None:
    job = build_job("a", deadline_seconds=5)
    later = build_job("a").model_copy(update={"steps_done": 3, "attempts": 2})
    assert job_fingerprint(job) == job_fingerprint(later)
    assert job_fingerprint(job) != job_fingerprint(build_job("a", owner="another"))
