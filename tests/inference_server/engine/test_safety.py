"""A safety checker's hit is said, and the image is what the service wants of such; a real checker, tiny."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from easel_contract.server_config import EngineKind, ModelConfig, SafetyPolicy
from easel_server.engine import loading
from easel_server.engine.interface import ContentRefusedError, Engine, Generation, GenerationError, ModelLoadError
from easel_server.generation.messages import CONTENT_REFUSED, find_flagged
from easel_server.generation.models import build_cache_key, identify_model, model_key
from easel_server.generation.parameters import GenerationParameters
from PIL import Image

from tests.inference_server.api.serving import RunningGateway
from tests.support.tiny_engine import tiny_engine, tiny_model_directory, tiny_parameters

pytestmark = pytest.mark.torch

Load = Callable[[float, SafetyPolicy | None], Engine]
EVERYTHING, NOTHING = -2.0, 2.0  # as tests/support/tiny_safety.py, which loads torch


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """A tiny model that is published with a checker of this threshold, loaded as a service is."""
    plain = tiny_model_directory()
    from diffusers import StableDiffusionPipeline  # noqa: PLC0415  # loads torch, which most tests don't need

    from tests.support.tiny_safety import build_feature_extractor, build_safety_checker  # noqa: PLC0415

    written: dict[float, Path] = {}

    def load(threshold: float, policy: SafetyPolicy | None) -> Engine:
        if threshold not in written:
            pipeline: Any = StableDiffusionPipeline.from_pretrained(
                plain,
                safety_checker=build_safety_checker(threshold),
                feature_extractor=build_feature_extractor(),
                requires_safety_checker=True,
            )
            written[threshold] = tmp_path_factory.mktemp("checked")
            pipeline.save_pretrained(written[threshold])
        config = ModelConfig(name="checked", source=str(written[threshold]), safety=policy)
        return loading.load_engine(config, hub_token=None)

    return load


def run(engine: Engine, parameters: GenerationParameters) -> Generation:
    generation = engine.begin(parameters, {})
    while not generation.is_done:
        engine.step([generation])
    return generation


def pixels(image: bytes) -> numpy.ndarray:
    with Image.open(io.BytesIO(image)) as opened:
        return numpy.asarray(opened.convert("RGB")).astype(int)


def detail(image: bytes) -> float:
    """How much neighbouring pixels differ."""
    return float(abs(numpy.diff(pixels(image), axis=0)).mean())


PARAMETERS = tiny_parameters(images=2)


@pytest.fixture(scope="module")
def unchecked() -> list[bytes]:
    return run(tiny_engine(), PARAMETERS).encode_images()


@pytest.mark.parametrize("policy", [None, *SafetyPolicy])
def test_an_image_that_passes_is_as_if_nobody_had_looked(
    load: Load, unchecked: list[bytes], policy: SafetyPolicy | None
) -> None:
    generation = run(load(NOTHING, policy), PARAMETERS)
    assert generation.error is None
    assert generation.warnings == ()
    for image, plain in zip(generation.encode_images(), unchecked, strict=True):
        assert (pixels(image) == pixels(plain)).all()


def test_a_flagged_image_is_given_as_it_is_and_said_to_be(load: Load, unchecked: list[bytes]) -> None:
    generation = run(load(EVERYTHING, SafetyPolicy.FLAG), PARAMETERS)
    assert find_flagged(generation.warnings) == {0, 1}
    assert "given as they are" in generation.warnings[0]
    assert (pixels(generation.encode_images()[1]) == pixels(unchecked[1])).all()


@pytest.mark.parametrize("policy", [None, SafetyPolicy.BLUR])
def test_a_flagged_image_is_blurred_where_nothing_else_is_said(
    load: Load, unchecked: list[bytes], policy: SafetyPolicy | None
) -> None:
    generation = run(load(EVERYTHING, policy), PARAMETERS)
    assert find_flagged(generation.warnings) == {0, 1}
    for image, plain in zip(generation.encode_images(), unchecked, strict=True):
        assert pixels(image).shape == pixels(plain).shape
        assert pixels(image).any(), "not black"
        assert detail(image) < detail(plain) / 3


def test_a_refused_job_says_why_and_how_many(load: Load) -> None:
    error = run(load(EVERYTHING, SafetyPolicy.REFUSE), PARAMETERS).error
    assert isinstance(error, ContentRefusedError)
    assert isinstance(error, GenerationError), "no fault of the worker's"
    assert str(error).startswith(CONTENT_REFUSED)
    assert "flagged 1, 2 of 2 images" in str(error)


def test_nothing_is_checked_where_that_is_asked_for(load: Load, unchecked: list[bytes]) -> None:
    generation = run(load(EVERYTHING, SafetyPolicy.OFF), PARAMETERS)
    assert generation.warnings == ()
    assert (pixels(generation.encode_images()[0]) == pixels(unchecked[0])).all()


def test_each_image_is_judged_by_itself_however_many_there_are() -> None:
    tiny_model_directory()  # prepares the libraries
    import torch  # noqa: PLC0415
    from easel_server.engine.images.safety import CHECKED_AT_ONCE, SafetyChecker  # noqa: PLC0415

    from tests.support.tiny_safety import build_feature_extractor, build_safety_checker  # noqa: PLC0415

    chance = numpy.random.default_rng(7)
    images = [
        Image.fromarray(chance.integers(0, 256, (64, 64, 3)).astype(numpy.uint8))
        for _ in range(2 * CHECKED_AT_ONCE + 1)
    ]
    extractor, module = build_feature_extractor(), build_safety_checker(NOTHING)
    with torch.no_grad():
        embedded = module.visual_projection(module.vision_model(extractor(images, return_tensors="pt").pixel_values)[1])
        concepts = torch.nn.functional.normalize(module.concept_embeds)
        highest = (torch.nn.functional.normalize(embedded) @ concepts.T).amax(dim=1)
        ordered = highest.sort().values
        # Between two images whose scores are far enough apart for the checker, which rounds to thousandths.
        gap = int((ordered[1:] - ordered[:-1]).argmax())
        module.concept_embeds_weights.fill_(float(ordered[gap : gap + 2].mean()))
    expected = tuple(index for index, score in enumerate(highest) if score > ordered[gap : gap + 2].mean())
    assert 0 < len(expected) < len(images)
    kept = [image.copy() for image in images]
    assert SafetyChecker(module, extractor).find_flagged(images) == expected
    assert images == kept


@pytest.mark.parametrize("policy", [SafetyPolicy.BLUR, SafetyPolicy.REFUSE, SafetyPolicy.FLAG])
def test_a_preview_is_not_shown_where_its_image_might_not_be(load: Load, policy: SafetyPolicy) -> None:
    def preview(engine: Engine) -> bytes:
        generation = engine.begin(tiny_parameters(width_pixels=256, height_pixels=256), {})
        while generation.steps_done < 2:
            engine.step([generation])
        shown = generation.build_preview()
        assert shown is not None
        generation.stop()
        return shown

    plain, shown = preview(tiny_engine()), preview(load(NOTHING, policy))
    assert pixels(shown).shape == pixels(plain).shape
    is_blurred = policy is not SafetyPolicy.FLAG
    assert (detail(shown) < detail(plain) / 3) is is_blurred


def test_a_client_reads_of_each_image_whether_it_was_flagged(load: Load) -> None:
    body = {"prompt": "a cat", "size": "64x64", "num_inference_steps": 4, "n": 2}
    for policy, flagged in ((SafetyPolicy.BLUR, True), (SafetyPolicy.OFF, None)):
        with RunningGateway(engine=load(EVERYTHING, policy)) as gateway, gateway.client() as client:
            images = client.post("/v1/images/generations", json=body).json()["data"]
            assert [image.get("flagged") for image in images] == [flagged, flagged]
    with RunningGateway(engine=load(EVERYTHING, SafetyPolicy.REFUSE)) as gateway, gateway.client() as client:
        refused = client.post("/v1/images/generations", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "content_policy_violation")


@pytest.mark.parametrize("policy", [SafetyPolicy.FLAG, SafetyPolicy.BLUR, SafetyPolicy.REFUSE])
def test_a_model_without_a_checker_does_not_pretend_to_be_checked(policy: SafetyPolicy) -> None:
    config = ModelConfig(name="plain", source=str(tiny_model_directory()), safety=policy)
    with pytest.raises(ModelLoadError, match=f"safety is {policy}.*without a safety checker; leave safety out"):
        loading.load_engine(config, hub_token=None)


def test_what_becomes_of_flagged_images_is_part_of_what_a_worker_holds(load: Load) -> None:
    keys, cached = set(), set()
    for policy in (None, SafetyPolicy.FLAG, SafetyPolicy.OFF):
        config = ModelConfig(name="checked", source="/m", safety=policy)
        identity = identify_model(load(NOTHING, policy).description, config, EngineKind.DIFFUSERS)
        keys.add(model_key(config, EngineKind.DIFFUSERS))
        cached.add(build_cache_key("digest", identity))
    assert len(keys) == len(cached) == 3
