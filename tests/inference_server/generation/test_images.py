import io

import numpy
import pytest
from easel_server.generation.encoding import MAX_RECIPE_BYTES, encode, read_description
from easel_server.generation.images import max_result_bytes
from easel_server.generation.parameters import GenerationParameters, ImageFormat
from easel_server.generation.recipes.recipe import write_recipe
from PIL import Image

from tests.support.jobs import build_parameters

CHANCE = numpy.random.default_rng(7)


def noise(width: int, height: int, *, is_binary: bool) -> Image.Image:
    """What no encoder can shrink; of two values only, what discrete cosines are worst at."""
    pixels = CHANCE.integers(0, 2 if is_binary else 256, (height, width, 3))
    return Image.fromarray((pixels * (255 if is_binary else 1)).astype(numpy.uint8))


def write_longest_recipe(parameters: GenerationParameters) -> str:
    """With more of a scheduler and of libraries than any has."""
    settings = {f"a_setting_of_a_scheduler_{number}": 0.123456789 for number in range(40)}
    maker = {"name": "n" * 100, "weights": "w" * 80, "versions": {f"library {number}": "1.2.3" for number in range(20)}}
    most = MAX_RECIPE_BYTES.get(parameters.image_format)
    return write_recipe(parameters, 0, maker=maker, scheduler=settings, max_bytes=most)


@pytest.mark.parametrize("image_format", ImageFormat)
@pytest.mark.parametrize("size", [(8, 8), (64, 512), (512, 512), (1024, 1024)])
@pytest.mark.parametrize("is_binary", [False, True], ids=["noise", "noise of two values"])
def test_no_image_is_larger_than_what_is_reserved_for_it(
    image_format: ImageFormat, size: tuple[int, int], is_binary: bool
) -> None:
    prompt = "夜" * 4000
    parameters = build_parameters(
        prompt=prompt, width_pixels=size[0], height_pixels=size[1], image_format=image_format, images=3
    )
    text, recipe = prompt + "\nSteps: 4, Sampler: Euler a, Seed: 7", write_longest_recipe(parameters)
    encoded = encode(noise(*size, is_binary=is_binary), image_format, text, recipe)
    assert 3 * len(encoded) <= max_result_bytes(parameters)


def test_the_reservation_is_not_much_more_than_noise_takes() -> None:
    parameters = build_parameters(width_pixels=1024, height_pixels=1024)
    buffer = io.BytesIO()
    noise(1024, 1024, is_binary=False).save(buffer, "PNG", compress_level=1)
    assert max_result_bytes(parameters) < 1.05 * len(buffer.getvalue())


@pytest.mark.parametrize("image_format", [ImageFormat.JPEG, ImageFormat.WEBP])
def test_no_image_of_the_best_quality_is_larger_than_what_is_reserved_for_it(image_format: ImageFormat) -> None:
    prompt = "a cat" * 4000
    parameters = build_parameters(
        prompt=prompt, width_pixels=512, height_pixels=512, image_format=image_format, quality_percent=100
    )
    recipe = write_longest_recipe(parameters)
    encoded = encode(noise(512, 512, is_binary=True), image_format, prompt, recipe, quality_percent=100)
    assert len(encoded) <= max_result_bytes(parameters)


@pytest.mark.parametrize("image_format", ImageFormat)
def test_an_image_of_any_format_says_how_it_was_made(image_format: ImageFormat) -> None:
    text = "a cat 夜 🐈\nNegative prompt: a dog\nSteps: 4, Sampler: Euler a, Seed: 7"
    with Image.open(io.BytesIO(encode(Image.new("RGB", (64, 64)), image_format, text))) as image:
        assert read_description(image) == text


@pytest.mark.parametrize("image_format", ImageFormat)
def test_a_text_of_any_length_leaves_the_image_readable(image_format: ImageFormat) -> None:
    with Image.open(io.BytesIO(encode(Image.new("RGB", (64, 64)), image_format, "夜" * 70_000))) as image:
        image.load()
        assert read_description(image).startswith("夜" * 20_000)


@pytest.mark.parametrize("image_format", [ImageFormat.JPEG, ImageFormat.WEBP])
def test_a_lower_quality_makes_a_smaller_image(image_format: ImageFormat) -> None:
    image = noise(64, 64, is_binary=False)
    sizes = [len(encode(image, image_format, quality_percent=percent)) for percent in (0, 10, 50, 95, 100)]
    assert sizes == sorted(set(sizes))
    assert len(encode(image, image_format)) == sizes[3]
