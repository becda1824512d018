"""How many images of a size one call of the denoiser is to have at most: measured, not guessed.

The rule (``choose_cap``, pure): the smallest number that comes within RATE_TOLERANCE of the best rate; but one, where
the best saves less than MIN_SAVING of an image's step. A larger batch holds up each of its jobs, and where it is hardly
faster than one after another, all of them wait longer: of jobs that take turns everyone ends late.

Another size than the one that was measured gets as many as have the same number of pixels: what fills a device is an
amount of work. Measuring it when it is first asked for would hold up the very job that asks.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from easel_server.generation.models import EngineDescription

RATE_TOLERANCE: Final = 0.05
MIN_SAVING: Final = 0.1
MAX_IMAGES: Final = 16
MEASURED_IMAGES: Final = (1, 2, 4, 8, 16)
MEASURING_SECONDS: Final = 10.0  # no larger batch is begun that would probably end later
RUNS: Final = 2  # of a step with a number of images: the first one warms up
FORMAT: Final = 1

logger = logging.getLogger(__name__)


class Size(NamedTuple):
    """Of an image."""

    width_pixels: int
    height_pixels: int

    @property
    def pixels(self) -> int:
        """All of them."""
        return self.width_pixels * self.height_pixels


def choose_cap(step_seconds: Mapping[int, float]) -> int:
    """The best number of images, of how long a step takes by numbers of images. 1 if nothing is known."""
    usable = {images: seconds for images, seconds in step_seconds.items() if images >= 1 and seconds > 0}
    if 1 not in usable:
        return 1
    rates = {images: images / seconds for images, seconds in usable.items()}
    best = max(rates.values())
    saving = 1 - rates[1] / best
    if saving < MIN_SAVING:
        return 1
    return min(images for images, rate in rates.items() if rate >= best * (1 - RATE_TOLERANCE))


def measure(time_step: Callable[[int], float], *, seconds: float = MEASURING_SECONDS) -> dict[int, float]:
    """How long a step takes by numbers of images.

    ``time_step`` takes a number, runs RUNS steps and returns one's seconds, infinity if so many don't fit. Ends where
    twice as many images are no faster, and before a batch that would probably overrun the time.
    """
    measured: dict[int, float] = {}
    spent_seconds = 0.0
    for images in MEASURED_IMAGES:
        before = measured.get(images // 2, 0.0)
        if spent_seconds + RUNS * 2 * before > seconds:
            break
        taken = time_step(images)
        if not math.isfinite(taken):
            break
        measured[images] = taken
        spent_seconds += RUNS * taken
        if taken >= 2 * before * (1 - RATE_TOLERANCE) > 0:
            break
    return measured


@dataclass(frozen=True)
class BatchCap:
    """What was measured at one size; caps for all others follow from it."""

    size: Size
    images: int

    def choose(self, size: Size) -> int:
        """For images of a size."""
        return max(1, min(MAX_IMAGES, self.images * self.size.pixels // max(1, size.pixels)))


def name_profile(description: EngineDescription, device_name: str, size: Size) -> str:
    """The file's name for what was measured with this model, device and these libraries."""
    held = {
        "format": FORMAT,
        "weights": (description.resolved_revision, description.files, description.refiner, description.quantization),
        "pipeline": description.pipeline,
        "dtype": description.dtype,
        "device": device_name,
        "versions": dict(description.versions),
        "size": size,
    }
    return f"{sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()}.json"


def read_profile(file: Path) -> dict[int, float]:
    """How long a step takes by numbers of images; empty if there is none, or a damaged one."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))["step_seconds"]
        measured = {int(images): float(seconds) for images, seconds in read.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    is_whole = 1 in measured and all(
        1 <= images <= MAX_IMAGES and math.isfinite(seconds) and seconds > 0 for images, seconds in measured.items()
    )
    return measured if is_whole else {}


def write_profile(file: Path, measured: Mapping[int, float]) -> None:
    """Keep it for later starts. Says so on the log if that fails: the next start measures anew."""
    unfinished = file.with_suffix(".unfinished")
    try:
        unfinished.write_text(json.dumps({"step_seconds": measured}), encoding="utf-8")
        unfinished.replace(file)
    except OSError as error:
        logger.warning("what batches gain isn't kept in %s: %s", file.parent, error.strerror)
