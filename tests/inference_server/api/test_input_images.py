"""Pictures of clients: what is understood, what is refused and with which words, and that nothing large is decoded."""

import asyncio
import base64
import random
import threading
from contextlib import suppress
from typing import Any

import pytest
from easel_contract.gateway_config import LimitsConfig
from easel_server.api.openai.fields import EditFields
from easel_server.gateway.input_images import (
    DECODERS,
    Decoders,
    Fit,
    build_input_images,
    choose_size,
    decode_base64,
    decode_image,
    flatten,
)
from easel_server.gateway.refusals import RefusalError
from easel_server.generation.models import GenerationDefaults
from PIL import Image

from tests.support.client_images import decoded, decompression_bomb, encoded, halves, with_transparent_half
from tests.support.eventually import eventually

MAX_PIXELS = 1 << 20
ORIENTATION_TAG, CAMERA_TAG = 0x0112, 0x0110
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    return decode_image("image", data, max_pixels=max_pixels)


def is_close(one: object, other: tuple[int, ...]) -> bool:
    assert isinstance(one, tuple)
    return all(abs(a - b) <= 8 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        pytest.param(encoded(halves()), "RGB", id="PNG"),
        pytest.param(encoded(halves(), "JPEG", quality=95, subsampling=0), "RGB", id="JPEG"),
        pytest.param(encoded(halves(), "WEBP", lossless=True), "RGB", id="WebP"),
        pytest.param(encoded(halves().convert("CMYK"), "JPEG", quality=95, subsampling=0), "RGB", id="CMYK"),
        pytest.param(encoded(halves().convert("P")), "RGB", id="a palette"),
        pytest.param(encoded(halves().convert("RGBA")), "RGBA", id="with alpha"),
        pytest.param(encoded(halves().quantize(4), transparency=3), "RGBA", id="a palette with a transparent colour"),
    ],
)
def test_common_images_keep_their_colours(data, mode):
    image = decode(data)
    assert (image.mode, image.size) == (mode, (64, 64))
    assert is_close(flatten(image).getpixel((8, 8)), RED)
    assert is_close(flatten(image).getpixel((56, 8)), BLUE)


def test_sixteen_bits_of_grey_become_eight():
    grey = Image.new("I;16", (8, 8), 0x8000)
    assert decode(encoded(grey)).getpixel((0, 0)) == 128


def test_a_rotated_photograph_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    image = decode(encoded(halves((64, 32)), "JPEG", quality=95, exif=exif))
    assert image.size == (32, 64)
    assert is_close(image.getpixel((16, 8)), RED)
    assert is_close(image.getpixel((16, 56)), BLUE)


def test_what_is_transparent_shows_white():
    assert flatten(decode(encoded(with_transparent_half()))).getpixel((60, 8)) == WHITE


MOVING: dict[str, Any] = {"save_all": True, "append_images": [halves(left="green")]}
REFUSED = {
    "nothing": (b"", "is no image that can be read (0 bytes); allowed is a still PNG, JPEG or WebP"),
    "text": (b"<svg></svg>", "is no image that can be read (11 bytes)"),
    "a GIF": (encoded(halves(), "GIF"), "is no image that can be read"),
    "a PNG's head alone": (encoded(halves())[:20], "is damaged"),
    "half a PNG": (encoded(Image.effect_noise((64, 64), 90))[:2000], "is damaged or cut off (image file is truncated"),
    "half a JPEG": (encoded(halves((512, 512)), "JPEG")[:700], "is damaged or cut off (image file is truncated"),
    "half a WebP": (encoded(halves(), "WEBP")[:40], "is damaged"),
    "an animated PNG": (encoded(halves(), **MOVING), "is animated (2 frames)"),
    "an animated WebP": (encoded(halves(), "WEBP", **MOVING), "is animated (2 frames)"),
    "a bomb": (decompression_bomb(), "has 30000x30000 = 900000000 pixels, at most 1048576 are allowed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_image_says_why(case):
    data, message = REFUSED[case]
    with pytest.raises(RefusalError) as caught:
        decode(data)
    assert message in caught.value.message
    assert caught.value.faults[0].field == "image"
    assert "object at 0x" not in caught.value.message


def test_pixels_up_to_the_bound_are_taken():
    assert decode(encoded(halves()), max_pixels=64 * 64).size == (64, 64)
    with pytest.raises(RefusalError):
        decode(encoded(halves()), max_pixels=64 * 64 - 1)


def test_damage_anywhere_is_refused_or_harmless():
    chance = random.Random(20261124)  # noqa: S311  # the seed replays a failure
    good = [encoded(halves()), encoded(halves(), "JPEG"), encoded(halves(), "WEBP")]
    for _ in range(300):
        data = bytearray(chance.choice(good))
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with suppress(RefusalError):
            decode(bytes(data))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("http://example.com/cat.png", "is a web address, and this service fetches none", id="http"),
        pytest.param("https://example.com/cat.png", "is a web address", id="https"),
        pytest.param("data:image/png;base64,@@@", "is not base64", id="no base64"),
        pytest.param("data:image/png,plain", "must be a data: URL", id="another encoding"),
        pytest.param("iVBORw0KGgo=", "must be a data: URL", id="bare base64"),
    ],
)
def test_a_data_url_that_is_none_is_refused(text, message):
    with pytest.raises(RefusalError, match=message):
        decode_base64("image", text, is_prefix_needed=True)


def test_base64_is_read_with_and_without_its_prefix():
    bare = base64.b64encode(b"image").decode()
    assert decode_base64("image", bare, is_prefix_needed=False) == b"image"
    assert decode_base64("image", f"data:image/png;base64,{bare}", is_prefix_needed=True) == b"image"


SIZES = {
    "both sides wanted": ((1000, 500), (256, 128), (256, 128)),
    "a small image keeps its size": ((320, 240), (None, None), (320, 240)),
    "sides are rounded to what a latent has": ((321, 243), (None, None), (320, 240)),
    "a large image gets the model's number of pixels": ((4000, 1000), (None, None), (1024, 256)),
    "a tiny image is generated as large as it must be": ((8, 8), (None, None), (64, 64)),
    "one side wanted": ((320, 240), (512, None), (512, 240)),
    "a panorama stays within the bounds": ((6000, 10), (None, None), (2048, 64)),
}


@pytest.mark.parametrize("case", SIZES)
def test_the_size_that_is_generated(case):
    image, requested, expected = SIZES[case]
    chosen = choose_size(
        image, requested, names=EditFields.field_names(), defaults=GenerationDefaults(), limits=LimitsConfig()
    )
    assert chosen == expected


@pytest.mark.parametrize("wanted", [(65, 64), (64, 4096), (0, 64), (2**62, 8), (-8, 64)])
def test_no_image_is_brought_to_a_size_that_is_not_allowed(wanted):
    with pytest.raises(RefusalError, match=r"size: is .* pixels, allowed is a multiple of 8 from 64 to 2048"):
        choose_size(
            (64, 64), wanted, names=EditFields.field_names(), defaults=GenerationDefaults(), limits=LimitsConfig()
        )


def textured(size: tuple[int, int] = (256, 256)) -> Image.Image:
    """As a photo is: no two pixels quite alike."""
    noise, gradient = Image.effect_noise(size, 60), Image.linear_gradient("L").resize(size)
    return Image.merge("RGB", (noise, noise.transpose(Image.Transpose.ROTATE_180), gradient))


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = value
    exif[CAMERA_TAG] = "the camera's name"
    return exif


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 92, "subsampling": 0}, {"exif": orientation(1)}]
)
def test_a_photo_travels_as_it_came_without_its_metadata(options):
    """A JPEG of 2048 pixels a side became a PNG of 13 MB, and 26 MB of uploads filled a Redis of 150 MB."""
    upload = encoded(textured(), "JPEG", **{"quality": 90, "comment": b"mine", **options})
    inputs = build_input_images({"image": decode(upload)}, (256, 256), Fit.CROP, original=upload)
    kept = inputs.images["image"]
    assert kept.startswith(b"\xff\xd8")
    assert len(kept) <= len(upload)
    assert b"camera" not in kept
    assert b"mine" not in kept
    assert decoded(kept).convert("RGB").tobytes() == flatten(decode(upload)).tobytes()


@pytest.mark.parametrize(
    "upload",
    [
        pytest.param(encoded(textured()), id="a PNG"),
        pytest.param(encoded(textured(), "WEBP", quality=80), id="a WebP"),
        pytest.param(encoded(textured(), "JPEG", exif=orientation(6)), id="a JPEG that lies on its side"),
        pytest.param(encoded(textured((320, 256)), "JPEG"), id="a JPEG of another size"),
    ],
)
def test_what_is_changed_on_its_way_travels_without_loss_and_never_larger_than_as_a_png(upload):
    inputs = build_input_images({"image": decode(upload)}, (256, 256), Fit.STRETCH, original=upload)
    kept = decoded(inputs.images["image"])
    expected = flatten(decode(upload)).resize((256, 256), Image.Resampling.LANCZOS)
    assert kept.tobytes() == expected.tobytes()
    assert len(inputs.images["image"]) <= len(encoded(expected, compress_level=1))


def test_an_upload_is_not_sent_in_place_of_what_was_made_of_it():
    upload = encoded(textured(), "JPEG")
    painted = flatten(decode(upload))
    painted.putpixel((7, 7), (255, 0, 255))
    inputs = build_input_images({"image": painted}, (256, 256), Fit.CROP, original=upload)
    assert decoded(inputs.images["image"]).tobytes() == painted.tobytes()


def test_a_worker_gets_images_of_the_generated_size_and_the_same_bytes_for_the_same_image():
    mask = Image.new("L", (64, 64), 255)
    inputs = build_input_images({"image": halves(), "mask": mask}, (128, 64), Fit.CROP)
    copy = decode(encoded(halves(), "WEBP", lossless=True))
    again = build_input_images({"image": copy, "mask": mask}, (128, 64), Fit.CROP)
    image, redrawn = decoded(inputs.images["image"]), decoded(inputs.images["mask"])
    assert (image.format, image.mode, image.size) == ("WEBP", "RGB", (128, 64))
    assert (redrawn.format, redrawn.mode, redrawn.size) == ("PNG", "L", (128, 64))
    assert again == inputs
    assert set(inputs.by_digest().values()) == set(inputs.images.values())


async def test_a_customer_with_many_images_does_not_keep_another_waiting_for_all_of_them():
    decoders, going_on = Decoders(), threading.Event()
    ended: list[str] = []

    async def decode(customer: str, name: str) -> None:
        await decoders.run(customer, going_on.wait)
        ended.append(name)

    flood = [asyncio.create_task(decode("a", f"a{number}")) for number in range(DECODERS + 20)]
    await asyncio.sleep(0)
    left = asyncio.create_task(decode("b", "left"))
    other = asyncio.create_task(decode("b", "b"))
    await asyncio.sleep(0)
    left.cancel()
    going_on.set()
    await asyncio.gather(other, *flood)
    assert ended.index("b") <= 2 * DECODERS, "it was next but one"
    all_places = threading.Barrier(DECODERS, timeout=10)
    await asyncio.gather(*(decoders.run("c", all_places.wait) for _ in range(DECODERS)))
    assert "left" not in ended


async def test_no_more_images_are_decoded_at_once_than_is_allowed():
    decoders = Decoders()
    going_on = threading.Semaphore(0)
    begun: list[int] = []

    def work() -> None:
        begun.append(1)
        assert going_on.acquire(timeout=20)

    tasks = [asyncio.create_task(decoders.run("a", work)) for _ in range(3 * DECODERS)]
    for number in range(DECODERS, 3 * DECODERS + 1):

        async def have_begun(number: int = number) -> bool:
            return len(begun) == number

        await eventually(have_begun)
        going_on.release()  # one ends, so one more begins
    for _ in range(DECODERS - 1):
        going_on.release()
    await asyncio.gather(*tasks)
