"""Which requests count as the same."""

import pytest
from easel_contract.server_config import ModelConfig
from easel_server.generation.job import job_fingerprint
from easel_server.generation.models import result_cache_key

from tests.support.jobs import build_job, build_parameters

MODEL = ModelConfig(name="sdxl", source="stabilityai/sdxl", revision="main")
VERSIONS = {"torch": "2.8.0", "diffusers": "0.36.0"}
KEY = result_cache_key(build_parameters().cache_values, MODEL, VERSIONS)


def test_the_same_request_has_the_same_key_whatever_the_order_of_versions() -> None:
    assert result_cache_key(build_parameters().cache_values, MODEL, dict(reversed(VERSIONS.items()))) == KEY
    assert (
        result_cache_key(build_parameters(guidance_scale=7.5, image_format="png").cache_values, MODEL, VERSIONS) == KEY
    )
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
        {"sampler": "Euler"},
        {"strength": 0.5},
        {"image_digest": "a"},
        {"mask_digest": "a"},
        {"task": "Inpaint"},
    ],
    ids=str,
)
def test_whatever_changes_the_pixels_changes_the_key(change: dict[str, object]) -> None:
    assert result_cache_key(build_parameters(**change).cache_values, MODEL, VERSIONS) != KEY


def test_another_model_or_library_changes_the_key() -> None:
    assert (
        result_cache_key(build_parameters().cache_values, MODEL.model_copy(update={"revision": "v2"}), VERSIONS) != KEY
    )
    assert result_cache_key(build_parameters().cache_values, MODEL, VERSIONS | {"torch": "2.9.0"}) != KEY


def test_a_fingerprint_ignores_times_and_progress() -> None:
    job = build_job("a", deadline_seconds=5)
    later = build_job("a").model_copy(update={"steps_done": 3, "attempts": 2})
    assert job_fingerprint(job) == job_fingerprint(later)
    assert job_fingerprint(job) != job_fingerprint(build_job("a", owner="another"))
