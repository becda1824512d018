"""What an image says of itself, and whether that is read back as it was."""

import io
import json

import pytest
from easel_contract.gateway_config import Reproducibility
from easel_server.generation.add_ons import AdapterUse
from easel_server.generation.encoding import MAX_RECIPE_BYTES, encode, read_description, read_recipe_text
from easel_server.generation.models import ModelIdentity
from easel_server.generation.parameters import GenerationParameters, ImageFormat
from easel_server.generation.recipes.infotext import build_metadata, read_infotext
from easel_server.generation.recipes.recipe import (
    RecipeError,
    find_missing,
    list_differences,
    read_recipe,
    write_recipe,
)
from easel_server.generation.request import Recipe
from easel_server.generation.tasks import Task
from PIL import Image

from tests.support.jobs import build_identity, build_parameters

IDENTITY = build_identity()
MAKER = {
    "name": "sdxl",
    "weights": IDENTITY.weights,
    "dtype": IDENTITY.dtype,
    "versions": dict(IDENTITY.versions),
}
SCHEDULER = {"class": "PNDMScheduler", "beta_start": 0.00085}
HOSTILE = (
    'a cat, "quoted": \\ <b> & ]]>\nNegative prompt: no\nSteps: 9, Sampler: DDIM, Seed: 1, Size: 8x8\x00\x7f\u2028 🐈'
)


def write(parameters: GenerationParameters, index: int = 0, max_bytes: int | None = None) -> str:
    return write_recipe(parameters, index, maker=MAKER, scheduler=SCHEDULER, max_bytes=max_bytes)


def encode_and_read(image_format: ImageFormat, description: str, recipe: str) -> tuple[str, str]:
    encoded = encode(Image.new("RGB", (64, 64), "red"), image_format, description, recipe)
    with Image.open(io.BytesIO(encoded)) as image:
        return read_description(image), read_recipe_text(image)


@pytest.mark.parametrize("image_format", ImageFormat)
def test_an_image_of_any_format_carries_text_and_recipe_apart(image_format: ImageFormat) -> None:
    recipe = write(build_parameters(prompt=HOSTILE, image_format=image_format))
    assert encode_and_read(image_format, "a cat\nSteps: 4", recipe) == ("a cat\nSteps: 4", recipe)


@pytest.mark.parametrize("image_format", ImageFormat)
@pytest.mark.parametrize(
    "changes",
    [
        {"sampler": "DPM++ 2M Karras", "negative_prompt": HOSTILE},
        {"reproducibility": Reproducibility.EXACT, "seed": 2**63 - 1, "guidance_scale": 0.1 + 0.2},
        {"task": Task.INPAINT, "image_digest": "a" * 64, "mask_digest": "b" * 64, "strength": 0.3},
        {"quality_percent": 40},
    ],
)
def test_every_parameter_comes_back_as_it_was(image_format: ImageFormat, changes: dict[str, object]) -> None:
    parameters = build_parameters(prompt=HOSTILE, image_format=image_format, **changes)
    _, text = encode_and_read(image_format, "", write(parameters))
    recipe = read_recipe(text)
    digests = {f"{name}_digest": digest for name, digest in recipe.digests.items()}
    assert GenerationParameters(**recipe.given, **digests, task=parameters.task) == parameters


def test_an_image_of_several_has_a_recipe_of_its_own() -> None:
    parameters = build_parameters(seed=7, images=4)
    given = read_recipe(write(parameters, 2)).given
    assert (given["seed"], given["images"]) == (9, 1)


def test_a_new_parameter_is_in_the_recipe_without_a_word_about_it() -> None:
    written = json.loads(write(build_parameters(negative_prompt="x", sampler="DDIM", strength=0.5)))["parameters"]
    left_out = {"qualityPercent", "imageDigest", "maskDigest", "family"}  # not given here, and not of the request
    left_out |= {"adapters", "controls", "hires", "upscale", "clipSkip", "eta"}  # likewise
    names = {field.alias or name for name, field in GenerationParameters.model_fields.items()}
    assert names - set(written) == left_out


def test_a_recipe_cannot_say_that_the_served_model_is_of_another_family() -> None:
    """It would say what the request costs, and so whose turn comes before whose."""
    document = json.loads(write(build_parameters()))
    document["parameters"]["family"] = "Flux"
    assert "family" not in read_recipe(document).given


def test_the_scheduler_and_the_model_are_named_also_where_nobody_asked_for_one() -> None:
    document = json.loads(write(build_parameters(sampler=None)))
    assert document["scheduler"] == SCHEDULER
    assert document["model"] == MAKER


def test_prompts_that_have_no_room_are_left_out_and_said_to_be() -> None:
    most = MAX_RECIPE_BYTES[ImageFormat.JPEG]
    for prompt, negative, cut in (("a", "夜" * 32_000, ["negative_prompt"]), ("夜" * 32_000, "b", None)):
        parameters = build_parameters(prompt=prompt, negative_prompt=negative, image_format=ImageFormat.JPEG)
        text = write(parameters, max_bytes=most)
        assert len(text.encode()) <= most
        assert encode_and_read(ImageFormat.JPEG, "", text)[1] == text
        recipe = read_recipe(text)
        assert list(recipe.cut) == (cut or ["negative_prompt", "prompt"])
        missing = dict(find_missing(recipe, {}, {}))
        assert set(missing) == set(recipe.cut)
        assert "no room" in missing["negative_prompt"]
    assert not list(find_missing(recipe, {"prompt": "a", "negative_prompt": "b"}, {}))


def test_a_long_prompt_fits_where_the_usual_limits_hold() -> None:
    parameters = build_parameters(prompt="夜" * 4000, negative_prompt="\x7f" * 4000, image_format=ImageFormat.JPEG)
    assert not read_recipe(write(parameters, max_bytes=MAX_RECIPE_BYTES[ImageFormat.JPEG])).cut


@pytest.mark.parametrize(
    ("text", "sampler"),
    [
        ("DPM++ 2M, Schedule type: Karras", "DPM++ 2M Karras"),
        ("DPM++ 2M Karras", "DPM++ 2M Karras"),
        ("DPM++ 2M, Schedule type: Uniform", "DPM++ 2M"),
        ("DPM++ 2M, Schedule type: Exponential", "DPM++ 2M Exponential"),
        ("Euler a, Schedule type: Automatic", "Euler a"),
        ("PNDMScheduler", None),
        ("none", None),
    ],
)
def test_a_sampler_of_a_text_is_the_one_that_is_meant(text: str, sampler: str | None) -> None:
    read = read_infotext(f"a cat\nSteps: 4, Sampler: {text}, Seed: 7, Size: 64x72")
    assert read.given.get("sampler") == sampler
    assert read.given["height_pixels"] == "72"


@pytest.mark.parametrize("sampler", [None, "DPM++ 2M", "DPM++ 2M Karras", "Euler a"])
def test_what_is_written_as_text_is_read_as_it_was(sampler: str | None) -> None:
    parameters = build_parameters(prompt="a cat\non a mat", negative_prompt="a dog\na cow", sampler=sampler)
    facts = {"Model": 'a, "b": c', "Sampler": sampler or "PNDMScheduler"}
    recipe = read_recipe(build_metadata(parameters, facts))
    assert GenerationParameters(**recipe.given) == parameters
    assert read_infotext(build_metadata(parameters, facts)).pairs["Model"] == 'a, "b": c'
    assert recipe.unknown == ()


def test_a_text_of_another_program_gives_what_is_known_and_names_the_rest() -> None:
    text = 'a cat\nSteps: 4, Seed: 7, Size: 64x64, Clip skip: 2, Lora hashes: "a: 1, b: 2", Model: x, ENSD: 31337'
    recipe = read_recipe(text)
    size = {"width_pixels": 64, "height_pixels": 64}
    assert recipe.given == {"prompt": "a cat", "steps": 4, "seed": 7, "clip_skip": 2, **size}
    assert recipe.unknown == ("ENSD",)
    (warning,) = list_differences(recipe, {}, IDENTITY)
    assert "'ENSD'" in warning


def test_a_second_pass_is_not_taken_for_an_image_to_begin_with() -> None:
    recipe = read_recipe("a cat\nSteps: 4, Seed: 7, Size: 64x64, Denoising strength: 0.7, Hires upscale: 2")
    assert "strength" not in recipe.given


def test_a_prompt_alone_is_a_text_too() -> None:
    assert read_recipe("a cat: in a hat, sitting").given == {"prompt": "a cat: in a hat, sitting"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "can't be read as JSON"),
        ("{}", "is no recipe"),
        ('{"easel": 2, "parameters": {}}', "is no recipe"),
        ('{"easel": 1}', "has no parameters"),
        ('{"easel": 1, "parameters": {"steps": "many"}}', "has steps 'many'"),
        ('{"easel": 1, "parameters": {"seed": 1' + "0" * 400 + "}}", "has seed"),
        ('{"easel": 1, "parameters": {"reproducibility": "Maybe"}}', "has reproducibility 'Maybe'"),
        ("[" * 100_000, None),
        ("a cat\nSteps: x, Seed: 7, Size: 64x64", "has steps 'x'"),
    ],
)
def test_what_is_no_recipe_is_refused_in_a_sentence(text: str, fault: str | None) -> None:
    if fault is None:
        assert read_recipe(text).given == {"prompt": text}
        return
    with pytest.raises(RecipeError, match=fault) as caught:
        read_recipe(text)
    assert len(str(caught.value)) < 400


def differences(recipe: Recipe, identity: ModelIdentity | None = IDENTITY, **digests: str) -> list[str]:
    return list(list_differences(recipe, digests, identity))


def test_what_makes_the_image_another_one_is_said() -> None:
    recipe = read_recipe(write(build_parameters(image_digest="a" * 64)))
    assert differences(recipe, image="a" * 64) == []
    assert differences(recipe, None) == []
    (other_input,) = differences(recipe, image="c" * 64)
    assert "another input image" in other_input
    (other_weights,) = differences(recipe, build_identity(weights="commit-2"))
    assert "'commit-1'" in other_weights
    assert "'commit-2'" in other_weights
    newer = IDENTITY.model_copy(update={"dtype": "float16", "versions": {"torch": "3.0", "diffusers": "0.36.0"}})
    (other_version,) = differences(recipe, newer)
    assert "dtype float32 instead of float16, torch 2.8.0 instead of 3.0" in other_version
    (smaller,) = differences(recipe, IDENTITY.model_copy(update={"quantization": "Float8"}), image="a" * 64)
    assert "quantization none instead of Float8" in smaller
    assert dict(find_missing(recipe, recipe.given, {})).keys() == {"image_digest"}


def test_an_adapter_whose_file_has_changed_since_is_said_by_its_name() -> None:
    ink = AdapterUse(name="ink", weight=0.8, key="k1")
    made_by = {**MAKER, "adapters": [{"name": "ink", "digest": f"sha256:{'a' * 64}"}, "nonsense", {"name": 1}]}
    recipe = read_recipe(write_recipe(build_parameters(adapters=(ink,)), 0, maker=made_by, scheduler=SCHEDULER))
    unchanged, changed = (IDENTITY.with_add_ons({"ink": f"sha256:{letter * 64}"}) for letter in "ab")
    assert list(list_differences(recipe, {}, unchanged, [ink])) == []
    assert list(list_differences(recipe, {}, IDENTITY, [ink])) == []  # no worker has said what it holds
    assert list(list_differences(recipe, {}, changed, [])) == []  # the request leaves it out
    (warning,) = list_differences(recipe, {}, changed, [ink])
    assert "the file of adapter 'ink' has changed since" in warning
    assert "sha256:" + 16 * "a" in warning
    assert "sha256:" + 16 * "b" in warning
