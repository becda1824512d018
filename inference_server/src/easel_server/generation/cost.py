"""Predicts how many GPU-seconds a job takes. Pure.

The denoiser's work is known before: steps, pixels, images and passes. How long a unit of it takes on this service's
GPUs is learned from finished jobs, by a least-squares line through (work units, measured seconds) in which older jobs
count less and less.
"""

from dataclasses import dataclass
from typing import Final

from easel_server.generation.add_ons import ControlMode
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import TASKS

PIXELS_PER_UNIT: Final = 1 << 20
MIN_GPU_SECONDS: Final = 0.001
DECAY: Final = 0.99  # of all earlier jobs' weight at each new one: about the last hundred count
MIN_JOBS: Final = 3.0  # before that, the prior line is used
MIN_SPREAD: Final = 1e-6  # of units, relative to their square; below it jobs are alike: only a ratio is known


def work_units(parameters: GenerationParameters) -> float:
    """Work of a job's denoiser: one unit is one pass over one megapixel of one image. 0 for what only enlarges."""
    if not TASKS[parameters.task].is_denoised:
        return 0.0
    megapixels = parameters.width_pixels * parameters.height_pixels / PIXELS_PER_UNIT
    first = parameters.denoising_steps * megapixels * parameters.images * parameters.passes
    return first + hires_units(parameters)


def hires_units(parameters: GenerationParameters) -> float:
    """Of ``work_units``, those of the second pass."""
    hires = parameters.hires
    if hires is None:
        return 0.0
    megapixels = hires.width_pixels * hires.height_pixels / PIXELS_PER_UNIT
    return parameters.hires_steps * megapixels * parameters.images * parameters.passes


def upscale_units(parameters: GenerationParameters) -> float:
    """Megapixels that networks enlarge images to: of a second pass, or of an image that is only enlarged."""
    hires, upscale = parameters.hires, parameters.upscale
    networks = (int(bool(hires.key)) if hires is not None else 0) + (len(upscale.keys) if upscale is not None else 0)
    width, height = parameters.image_size
    return networks * parameters.images * width * height / PIXELS_PER_UNIT


def control_units(parameters: GenerationParameters) -> float:
    """Passes of ControlNets, in megapixels: each is called at every step, also where it has no say."""
    megapixels = parameters.width_pixels * parameters.height_pixels / PIXELS_PER_UNIT
    passes = sum(1 if control.mode is ControlMode.CONTROL else parameters.passes for control in parameters.controls)
    return parameters.denoising_steps * megapixels * parameters.images * passes


@dataclass(frozen=True)
class Measurement:
    """What a finished job took: its share, if it was generated in a batch with others."""

    work_units: float
    gpu_seconds: float


@dataclass(frozen=True)
class CostModel:
    """A line: seconds = overhead + units * seconds per unit. The default is a guess at a data-centre GPU."""

    overhead_seconds: float = 0.2
    seconds_per_unit: float = 0.05

    def predict(self, parameters: GenerationParameters) -> float:
        """GPU-seconds of a job."""
        seconds = self.overhead_seconds + work_units(parameters) * self.seconds_per_unit
        return max(MIN_GPU_SECONDS, seconds)


@dataclass(frozen=True)
class CostSums:
    """Decayed sums over finished jobs, from which the line follows; x are units, y are seconds."""

    count: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0

    def add(self, measurement: Measurement) -> "CostSums":
        """The sums with one more job."""
        x, y = measurement.work_units, measurement.gpu_seconds
        return CostSums(
            self.count * DECAY + 1,
            self.x * DECAY + x,
            self.y * DECAY + y,
            self.xx * DECAY + x * x,
            self.xy * DECAY + x * y,
        )

    def fit(self) -> CostModel:
        """The line through what was measured. Both its parts are at least 0, as times are."""
        if self.count < MIN_JOBS or self.xx <= 0:
            return CostModel()
        spread = self.count * self.xx - self.x * self.x
        if spread <= MIN_SPREAD * self.count * self.xx:
            return CostModel(0.0, self.y / self.x)
        slope = (self.count * self.xy - self.x * self.y) / spread
        overhead = (self.y - slope * self.x) / self.count
        if overhead < 0:
            return CostModel(0.0, self.xy / self.xx)
        if slope < 0:
            return CostModel(self.y / self.count, 0.0)
        return CostModel(overhead, slope)
