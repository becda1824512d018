"""A safety checker that a service names, of real classes at a tiny width, on a model that has none or its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from easel_contract.server_config import EngineKind, ModelConfig, SafetyCheckerConfig, SafetyPolicy
from easel_server.engine import loading
from easel_server.engine.interface import ContentRefusedError, Engine, Generation, ModelLoadError
from easel_server.generation.messages import count_flagged, find_flagged
from easel_server.generation.models import build_cache_key, identify_model, model_key

from tests.support.tiny_engine import tiny_model_directory, tiny_parameters

pytestmark = pytest.mark.torch

PARAMETERS = tiny_parameters(images=2)
EVERYTHING, NOTHING = -2.0, 2.0  # of diffusers' kind, as tests/support/tiny_safety.py
Save = Callable[..., str]


@pytest.fixture(scope="module")
def save(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """A classifier (ViT) that is sure of its first label, saved as transformers does."""

    def save(*labels: str, **config: Any) -> str:
        import torch  # noqa: PLC0415
        from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor  # noqa: PLC0415

        torch.manual_seed(1)
        model: Any = ViTForImageClassification(
            ViTConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=4,
                image_size=32,
                patch_size=8,
                id2label=dict(enumerate(labels)),
                label2id={label: index for index, label in enumerate(labels)},
                **config,
            )
        )
        classifier: Any = model.classifier
        with torch.no_grad():
            classifier.weight.zero_()
            classifier.bias.copy_(torch.tensor([2.0] + [0.0] * (len(labels) - 1)))
        directory = tmp_path_factory.mktemp("classifier")
        model.save_pretrained(directory)
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(directory)
        return str(directory)

    return save


def load(source: str, policy: SafetyPolicy | None = None, **checker: Any) -> Engine:
    named = SafetyCheckerConfig(source=source, **checker)
    config = ModelConfig(name="checked", source=str(tiny_model_directory()), safety=policy, safety_checker=named)
    return loading.load_engine(config, hub_token=None)


def run(engine: Engine) -> Generation:
    generation = engine.begin(PARAMETERS, {})
    while not generation.is_done:
        engine.step([generation])
    return generation


def test_a_classifier_judges_images_of_a_model_without_a_checker(save: Save) -> None:
    generation = run(load(save("nsfw", "normal")))
    assert find_flagged(generation.warnings) == {0, 1}
    assert count_flagged(generation.warnings) == {SafetyPolicy.BLUR: 2}


@pytest.mark.parametrize(("labels", "threshold", "is_flagged"), [((), 0.85, True), ((), 0.95, False)])
def test_an_image_is_flagged_from_the_threshold_on(
    save: Save, labels: tuple[str, ...], threshold: float, *, is_flagged: bool
) -> None:
    """Of two labels whose logits differ by 2 the first has 0.88."""
    generation = run(load(save("NSFW", "normal"), SafetyPolicy.FLAG, labels=labels, threshold=threshold))
    assert bool(find_flagged(generation.warnings)) is is_flagged


def test_labels_that_are_wanted_go_before_names_that_say_so_and_count_together(save: Save) -> None:
    source = save("dog", "cat", "nsfw")
    assert not find_flagged(run(load(source)).warnings)
    assert find_flagged(run(load(source, labels=("Dog", "cat"), threshold=0.8)).warnings) == {0, 1}


def test_labels_that_do_not_exclude_each_other_count_by_the_likeliest(save: Save) -> None:
    source = save("nsfw", "hentai", problem_type="multi_label_classification")
    assert find_flagged(run(load(source, threshold=0.85)).warnings) == {0, 1}
    assert not find_flagged(run(load(source, threshold=0.9)).warnings)


def test_a_service_may_refuse_what_a_classifier_flags(save: Save) -> None:
    error = run(load(save("unsafe", "safe"), SafetyPolicy.REFUSE)).error
    assert isinstance(error, ContentRefusedError)
    assert count_flagged([str(error)]) == {SafetyPolicy.REFUSE: 2}


def test_a_classifier_with_no_label_that_is_known_fails_the_load_with_the_list(save: Save) -> None:
    with pytest.raises(ModelLoadError, match=r"dog, cat; list some in model\.safetyChecker\.labels"):
        load(save("dog", "cat"))
    with pytest.raises(ModelLoadError, match=r"no label 'nsfw', its labels are dog, cat"):
        load(save("dog", "cat"), labels=("nsfw",))


def test_what_is_no_checker_fails_the_load_with_what_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="image classifier of transformers, in safetensors"):
        load(str(tmp_path))


@pytest.mark.parametrize(("threshold", "flagged"), [(EVERYTHING, {0, 1}), (NOTHING, set())])
def test_diffusers_checker_serves_a_model_that_has_none(tmp_path: Path, threshold: float, flagged: set[int]) -> None:
    from tests.support.tiny_safety import build_feature_extractor, build_safety_checker  # noqa: PLC0415

    build_safety_checker(threshold).save_pretrained(tmp_path)
    build_feature_extractor().save_pretrained(tmp_path)
    assert find_flagged(run(load(str(tmp_path), SafetyPolicy.FLAG)).warnings) == flagged


def test_nothing_is_cached_under_another_checkers_judgement(save: Save) -> None:
    """Other weights, labels or thresholds are another identity; the same checker at another place is the same."""
    one, other = save("nsfw", "normal"), save("nsfw", "hentai", "normal")

    def key(source: str, **checker: Any) -> str:
        engine = load(source, **checker)
        config = ModelConfig(name="m", source="s")  # the same, so that only what was loaded makes a difference
        return build_cache_key("digest", identify_model(engine.description, config, EngineKind.DIFFUSERS))

    keys = [key(one), key(other), key(one, threshold=0.9), key(one, labels=("normal",))]
    assert len(set(keys)) == 4
    assert key(save("nsfw", "normal")) == keys[0]


def test_a_worker_with_another_checker_takes_none_of_the_jobs() -> None:
    plain = ModelConfig(name="m", source="s")
    checked = plain.model_copy(update={"safety_checker": SafetyCheckerConfig(source="c")})
    strict = plain.model_copy(update={"safety_checker": SafetyCheckerConfig(source="c", threshold=0.1)})
    assert len({model_key(each, EngineKind.DIFFUSERS) for each in (plain, checked, strict)}) == 3
