"""Predicts how many GPU-seconds a job takes. Pure.

What a job consists of is known before: passes over megapixels, those of ControlNets, adapters, megapixels that a
network enlarges to. How long each takes on this service's GPUs is learned from finished jobs, in which older ones count
less and less, by least squares without negative coefficients.

Plain jobs and those with add-ons are summed apart, and added where a fit is made. So a service that never uses add-ons
is predicted as by a line through (work units, seconds); seldom ones aren't forgotten beside many plain ones; and the
sums of plain jobs mean what they meant to processes of a version before, which know no others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

from easel_server.generation.add_ons import ControlMode, ControlUse
from easel_server.generation.parameters import GenerationParameters
from easel_server.generation.tasks import TASKS

PIXELS_PER_UNIT: Final = 1 << 20
MIN_GPU_SECONDS: Final = 0.001
DECAY: Final = 0.99  # of all earlier jobs' weight at each new one of their kind: about the last hundred count
MIN_JOBS: Final = 3.0  # before that, the prior line is used
MIN_SPREAD: Final = 1e-6  # of units, relative to their square; below it jobs are alike: only a ratio is known
PRIOR_JOBS: Final = 0.01  # how much a guess counts beside what was measured, in jobs
MIN_PIVOT: Final = 1e-12  # of equations in units of their diagonal; below it they don't tell apart what they ask


@dataclass(frozen=True)
class AddOnWork:
    """What add-ons have to do in a job."""

    control_units: float = 0.0  # passes of ControlNets over megapixels
    adapters: float = 0.0  # loaded, or looked up where they are loaded already
    adapter_units: float = 0.0  # passes over megapixels, times adapters
    upscaled_megapixels: float = 0.0  # that a network enlarges to

    @property
    def values(self) -> tuple[float, ...]:
        """As the sums have them."""
        return (self.control_units, self.adapters, self.adapter_units, self.upscaled_megapixels)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return any(self.values)


# Of a data-centre GPU, in seconds; what is passes, as a share of a denoiser's.
CONTROL_SHARE: Final = 0.35
ADAPTER_SECONDS: Final = 0.05
ADAPTER_SHARE: Final = 0.05
UPSCALED_MEGAPIXEL_SECONDS: Final = 0.3
PREPROCESSED_PIXELS: Final = 518 * 518  # as published networks for depth see an image
FEATURES: Final = 2 + len(AddOnWork().values)  # and the overhead, and work units
# Sums of products of two features, and of a feature and the seconds; the names that Redis has them by.
PRODUCTS: Final = tuple((one, other) for one in range(FEATURES) for other in range(one, FEATURES))
ADD_ON_SUMS: Final = (*(f"p{one}_{other}" for one, other in PRODUCTS), *(f"s{one}" for one in range(FEATURES)))


def work_units(parameters: GenerationParameters) -> float:
    """Work of a job's denoiser: one unit is one pass over one megapixel of one image. 0 for what only enlarges."""
    if not TASKS[parameters.task].is_denoised:
        return 0.0
    megapixels = parameters.width_pixels * parameters.height_pixels / PIXELS_PER_UNIT
    work = parameters.denoising_steps * megapixels
    if (hires := parameters.hires) is not None:
        work += parameters.hires_steps * hires.width_pixels * hires.height_pixels / PIXELS_PER_UNIT
    return work * parameters.images * parameters.passes


def upscale_units(parameters: GenerationParameters) -> float:
    """Megapixels that networks enlarge images to: of a second pass, or of an image that is only enlarged."""
    networks = sum(len(each.keys) for each in (parameters.hires, parameters.upscale) if each is not None)
    width, height = parameters.image_size
    return networks * parameters.images * width * height / PIXELS_PER_UNIT


def count_add_on_work(parameters: GenerationParameters) -> AddOnWork:
    """What a job's add-ons have to do."""
    if not (parameters.adapters or parameters.controls or parameters.hires or parameters.upscale):
        return AddOnWork()
    units = work_units(parameters)
    return AddOnWork(
        control_units=control_units(parameters),
        adapters=float(len(parameters.adapters)),
        adapter_units=units * len(parameters.adapters),
        upscaled_megapixels=upscale_units(parameters),
    )


def control_units(parameters: GenerationParameters) -> float:
    """Passes of ControlNets, in megapixels: each is called at every step, also where it has no say."""

    def count(controls: Sequence[ControlUse]) -> int:
        return sum(1 if control.mode is ControlMode.CONTROL else parameters.passes for control in controls)

    work = parameters.denoising_steps * parameters.width_pixels * parameters.height_pixels
    work *= count(parameters.first_controls)
    width, height = parameters.image_size
    work += parameters.hires_steps * width * height * count(parameters.second_controls)
    # A preprocessor's network has about the work of a ControlNet's pass over what it is shown, once.
    made = sum(PREPROCESSED_PIXELS for control in parameters.controls if control.preprocessor)
    return (work * parameters.images + made) / PIXELS_PER_UNIT


@dataclass(frozen=True)
class Measurement:
    """What a finished job took: its share, if it was generated in a batch with others."""

    work_units: float
    gpu_seconds: float
    add_ons: AddOnWork = AddOnWork()


@dataclass(frozen=True)
class CostModel:
    """Seconds are a weighted sum of what a job consists of. The default is a guess at a data-centre GPU."""

    overhead_seconds: float = 0.2
    seconds_per_unit: float = 0.05
    add_on_seconds: tuple[float, ...] | None = None  # of each of AddOnWork's values; None: a guess by the line

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Of the overhead, work units, and each of AddOnWork's values."""
        unit = self.seconds_per_unit
        guess = (CONTROL_SHARE * unit, ADAPTER_SECONDS, ADAPTER_SHARE * unit, UPSCALED_MEGAPIXEL_SECONDS)
        return (self.overhead_seconds, unit, *(self.add_on_seconds or guess))

    def predict(self, parameters: GenerationParameters) -> float:
        """GPU-seconds of a job."""
        values = (1.0, work_units(parameters), *count_add_on_work(parameters).values)
        seconds = sum(each * value for each, value in zip(self.coefficients, values, strict=True))
        return max(MIN_GPU_SECONDS, seconds)


@dataclass(frozen=True)
class CostSums:
    """Decayed sums over finished jobs, from which the model follows; x are units, y are seconds, of plain jobs."""

    count: float = 0.0
    x: float = 0.0
    y: float = 0.0
    xx: float = 0.0
    xy: float = 0.0
    add_ons: tuple[float, ...] = (0.0,) * len(ADD_ON_SUMS)  # of jobs with add-ons, by these names

    def add(self, measurement: Measurement) -> "CostSums":
        """The sums with one more job."""
        x, y = measurement.work_units, measurement.gpu_seconds
        if measurement.add_ons:
            values = (1.0, x, *measurement.add_ons.values)
            products = (*(values[one] * values[other] for one, other in PRODUCTS), *(value * y for value in values))
            sums = tuple(each * DECAY + more for each, more in zip(self.add_ons, products, strict=True))
            return replace(self, add_ons=sums)
        return CostSums(
            self.count * DECAY + 1,
            self.x * DECAY + x,
            self.y * DECAY + y,
            self.xx * DECAY + x * x,
            self.xy * DECAY + x * y,
            self.add_ons,
        )

    def fit(self) -> CostModel:
        """The model of what was measured. All its parts are at least 0, as times are."""
        line = self._fit_line()
        jobs = self.add_ons[0]
        if jobs <= 0:
            return line
        matrix, right = self._build_equations()
        for index, guess in enumerate(line.coefficients):
            # Without the guess nothing tells apart what no two jobs had in different shares.
            weight = PRIOR_JOBS * (matrix[index][index] / (jobs + self.count)) or 1.0
            matrix[index][index] += weight
            right[index] += weight * guess
        overhead, unit, *add_ons = solve_without_negatives(matrix, right)
        return CostModel(overhead, unit, tuple(add_ons))

    def _fit_line(self) -> CostModel:
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

    def _build_equations(self) -> tuple[list[list[float]], list[float]]:
        """The normal equations of all jobs."""
        matrix = [[0.0] * FEATURES for _ in range(FEATURES)]
        for (one, other), total in zip(PRODUCTS, self.add_ons, strict=False):
            matrix[one][other] = matrix[other][one] = total
        right = list(self.add_ons[len(PRODUCTS) :])
        matrix[0][0] += self.count
        matrix[0][1] = matrix[1][0] = matrix[0][1] + self.x
        matrix[1][1] += self.xx
        right[0] += self.y
        right[1] += self.xy
        return matrix, right


def solve_without_negatives(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """The least-squares solution of normal equations (symmetric, positive definite) whose parts are at least 0.

    A handful of unknowns: every choice of those that are above 0 is tried, which is exact.
    """
    best, best_value = [0.0] * len(right), 0.0
    for chosen in _choices(len(right)):
        solved = _solve([[matrix[row][column] for column in chosen] for row in chosen], [right[row] for row in chosen])
        if solved is None or min(solved) < 0:
            continue
        # Of a solution on its own unknowns, the squares' sum is a constant less this.
        value = sum(part * right[row] for part, row in zip(solved, chosen, strict=True))
        if value > best_value:
            best_value, best = value, [0.0] * len(right)
            for part, row in zip(solved, chosen, strict=True):
                best[row] = part
    return best


def _choices(count: int) -> Iterator[tuple[int, ...]]:
    for size in range(1, count + 1):
        yield from combinations(range(count), size)


def _solve(matrix: list[list[float]], right: list[float]) -> list[float] | None:
    """By elimination, in units of the diagonal; None if the equations don't fix it."""
    scales = [matrix[index][index] ** -0.5 if matrix[index][index] > 0 else 1.0 for index in range(len(right))]
    rows = [
        [*(value * scales[row] * scales[column] for column, value in enumerate(matrix[row])), right[row] * scales[row]]
        for row in range(len(right))
    ]
    for index, row in enumerate(rows):  # symmetric and positive definite: the diagonal is the pivot
        if row[index] < MIN_PIVOT:
            return None
        for lower in rows[index + 1 :]:
            factor = lower[index] / row[index]
            for column in range(index, len(row)):
                lower[column] -= factor * row[column]
    solved = [0.0] * len(right)
    for index in reversed(range(len(right))):
        known = sum(rows[index][column] * solved[column] for column in range(index + 1, len(right)))
        solved[index] = (rows[index][-1] - known) / rows[index][index]
    return [value * scale for value, scale in zip(solved, scales, strict=True)]
