"""An engine for load and scaling tests: it takes the time that a GPU would, and returns a labelled image. No torch.

Steps that jobs share take as long as they would one after the other: nothing is claimed about what that gains. Its
images are a label on a plain ground, which nobody takes for a model's work.
"""

import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Final

from easel_contract import names
from easel_contract.add_ons import AddOnConfig
from easel_contract.server_config import SyntheticConfig
from PIL import Image, ImageDraw, ImageFont

from easel_server.engine.interface import PREVIEW_SIDE_PIXELS, GatheredAddOn, Generation, StopGenerationError
from easel_server.generation.add_ons import Feature
from easel_server.generation.cost import work_units
from easel_server.generation.encoding import PNG_KEY, encode
from easel_server.generation.models import EngineDescription, GenerationDefaults
from easel_server.generation.parameters import GenerationParameters, ImageFormat
from easel_server.generation.recipes.infotext import build_metadata
from easel_server.generation.samplers import NO_SAMPLER, SAMPLERS
from easel_server.generation.tasks import Task

NAME: Final = "synthetic"
TITLE: Final = "SYNTHETIC"
MILLISECONDS: Final = 1000
SHOWN_CHARACTERS: Final = 60  # of the prompt
LINES_PER_IMAGE: Final = 12  # the letters' size follows from it
MIN_LETTER_PIXELS: Final = 8
PLAIN_IMAGES: Final = 32  # sizes that are kept
PNG_HEADER_BYTES: Final = 33  # signature and IHDR
BACKGROUND: Final = (38, 50, 72)
FOREGROUND: Final = (240, 240, 240)


class SyntheticEngine:
    """Generates for any job. Without any time configured it doesn't sleep, and its label names the size only."""

    def __init__(
        self,
        model: str,
        config: SyntheticConfig,
        *,
        defaults: GenerationDefaults | None = None,
        load_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """``pause`` sleeps for seconds of ``clock``; both are the real ones but in tests."""
        self._config = config
        self._clock = clock
        self._pause = pause
        easel = version(names.DISTRIBUTION)
        self.description = EngineDescription(
            engine=NAME,
            pipeline=type(self).__name__,
            device="none",
            dtype="none",
            model=model,
            load_seconds=load_seconds,
            tasks=tuple(Task),
            samplers=tuple(SAMPLERS),
            features=tuple(Feature),
            defaults=defaults or GenerationDefaults(),
            is_instant=config.milliseconds_per_step == 0 and config.milliseconds_per_image == 0,
            versions={"easel": easel},
        )
        self._stepped: set[SyntheticGeneration] = set()  # who took the last step,
        self._steps_end_at = 0.0  # and when that is over
        self._facts = {"Model": model, "Version": f"easel {easel}", "Engine": "synthetic, no model"}

    def max_images(self, width_pixels: int, height_pixels: int) -> int:
        """One: nothing is gained by more."""
        del width_pixels, height_pixels
        return 1

    def bring(self, add_on: AddOnConfig) -> GatheredAddOn:
        """Nothing is brought: add-ons make no difference here, so that each is the same whatever it holds."""
        return GatheredAddOn(add_on.name, add_on.key, "synthetic")

    def gather(self, parameters: GenerationParameters, add_ons: Sequence[AddOnConfig]) -> tuple[GatheredAddOn, ...]:
        """Nothing is read either."""
        del parameters
        return tuple(self.bring(each) for each in add_ons)

    def begin(
        self,
        parameters: GenerationParameters,
        inputs: Mapping[str, bytes],
        *,
        checkpoint: bytes | None = None,
        add_ons: Sequence[AddOnConfig] = (),
    ) -> "SyntheticGeneration":
        """As Engine says. Input images make no difference but to the number of steps; each job begins at its first."""
        del inputs, checkpoint, add_ons
        return SyntheticGeneration(parameters, build_preview, self._build_images)

    def step(self, generations: Sequence[Generation]) -> None:
        """As Engine says. Takes as long as the steps would one after the other."""
        live = [each for each in generations if isinstance(each, SyntheticGeneration) and not each.is_done]
        took_seconds = 0.0
        for each in live:
            each.take_step(to_the_end=self.description.is_instant)
            took_seconds += self._spend(each)
        if took_seconds:
            # A job's steps end at their own times since its beginning, so that late wake-ups don't add up.
            goes_on = not self._stepped.isdisjoint(live)
            self._steps_end_at = (self._steps_end_at if goes_on else self._clock()) + took_seconds
            self._stepped = set(live)
            self._pause_until(self._steps_end_at)

    def _spend(self, generation: "SyntheticGeneration") -> float:
        parameters = generation.parameters
        if generation.is_done:
            generation.own_seconds = parameters.images * self._config.milliseconds_per_image / MILLISECONDS
        steps_milliseconds = work_units(parameters) * self._config.milliseconds_per_step
        return steps_milliseconds / parameters.denoising_steps / MILLISECONDS + generation.own_seconds

    def _build_images(self, parameters: GenerationParameters) -> list[bytes]:
        build = look_up_plain if self.description.is_instant else build_labelled
        return [build(parameters, parameters.seed + index, self._facts) for index in range(parameters.images)]

    def list_warnings(self, parameters: GenerationParameters) -> tuple[str, ...]:
        """None: nothing here follows a prompt."""
        del parameters
        return ()

    def _pause_until(self, time_seconds: float) -> None:
        left_seconds = time_seconds - self._clock()
        if left_seconds > 0:
            self._pause(left_seconds)


class SyntheticGeneration:
    """A job under way in a synthetic engine."""

    def __init__(
        self,
        parameters: GenerationParameters,
        build_preview: Callable[[GenerationParameters, int], bytes],
        build_images: Callable[[GenerationParameters], list[bytes]],
    ) -> None:
        self.parameters = parameters
        self.error: Exception | None = None
        self.own_seconds = 0.0
        self._denoising_steps_done = 0
        self._build_preview = build_preview
        self._build_images = build_images

    @property
    def is_done(self) -> bool:
        """As Generation says."""
        return self.error is not None or self._denoising_steps_done == self.parameters.denoising_steps

    @property
    def steps_done(self) -> int:
        """As Generation says."""
        return self._denoising_steps_done * self.parameters.steps // self.parameters.denoising_steps

    def take_step(self, *, to_the_end: bool) -> None:
        """Count one more, or all that are left."""
        self._denoising_steps_done += 1
        if to_the_end:
            self._denoising_steps_done = self.parameters.denoising_steps

    def build_preview(self) -> bytes | None:
        """As Generation says."""
        return self._build_preview(self.parameters, self.steps_done)

    @property
    def warnings(self) -> tuple[str, ...]:
        """None."""
        return ()

    def checkpoint(self) -> bytes | None:
        """None: what a step has cost is only time."""
        return None

    def stop(self) -> None:
        """As Generation says."""
        if not self.is_done:
            self.error = StopGenerationError()

    def encode_images(self) -> list[bytes]:
        """As Generation says."""
        return self._build_images(self.parameters)


def build_labelled(parameters: GenerationParameters, seed: int, facts: Mapping[str, str]) -> bytes:
    """An image that names prompt, seed and size, in the format asked for. Takes milliseconds."""
    width, height = parameters.image_size
    lines = [TITLE, parameters.prompt[:SHOWN_CHARACTERS], f"seed {seed}", f"{width}x{height}", facts["Model"]]
    text = build_metadata(parameters, {"Sampler": parameters.sampler or NO_SAMPLER, "Seed": seed, **facts})
    image = _write(width, height, lines)
    return encode(image, parameters.image_format, text, quality_percent=parameters.quality_percent)


def look_up_plain(parameters: GenerationParameters, seed: int, facts: Mapping[str, str]) -> bytes:
    """An image that was made before and names its size only, with prompt and seed in its text all the same.

    A PNG was encoded before too; others are encoded anew, as their text goes by more than one place.
    """
    width, height = parameters.image_size
    text = build_metadata(parameters, {"Sampler": parameters.sampler or NO_SAMPLER, "Seed": seed, **facts})
    if parameters.image_format is not ImageFormat.PNG:
        plain, quality = _write_plain(width, height), parameters.quality_percent
        return encode(plain, parameters.image_format, text, quality_percent=quality)
    data = _build_plain(width, height)
    # An uncompressed iTXt chunk: https://www.w3.org/TR/png-3/#11iTXt.
    body = b"iTXt" + PNG_KEY.encode() + b"\0\0\0\0\0" + text.encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:PNG_HEADER_BYTES] + chunk + data[PNG_HEADER_BYTES:]


def build_preview(parameters: GenerationParameters, steps_done: int) -> bytes:
    """A PNG that says how far a job is."""
    shrink = min(1.0, PREVIEW_SIDE_PIXELS / max(parameters.width_pixels, parameters.height_pixels))
    width, height = round(parameters.width_pixels * shrink), round(parameters.height_pixels * shrink)
    lines = [TITLE, f"step {steps_done} of {parameters.steps}", parameters.prompt[:SHOWN_CHARACTERS]]
    return encode(_write(max(1, width), max(1, height), lines), ImageFormat.PNG)


@lru_cache(maxsize=PLAIN_IMAGES)
def _build_plain(width: int, height: int) -> bytes:
    return encode(_write_plain(width, height), ImageFormat.PNG)


def _write_plain(width: int, height: int) -> Image.Image:
    return _write(width, height, [TITLE, f"{width}x{height}"])


def _write(width: int, height: int, lines: list[str]) -> Image.Image:
    image = Image.new("RGB", (width, height), BACKGROUND)
    letter_pixels = max(MIN_LETTER_PIXELS, min(width, height) // LINES_PER_IMAGE)
    font = ImageFont.load_default(letter_pixels)
    canvas = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        position = (letter_pixels // 2, letter_pixels // 2 + number * letter_pixels * 3 // 2)
        canvas.text(position, line.replace("\n", " "), fill=FOREGROUND, font=font)
    return image
