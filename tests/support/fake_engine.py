"""A fake engine: no model, no torch; it does step by step what a test lets it do."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence

from easel_contract.add_ons import AddOnConfig
from easel_server.engine.interface import GatheredAddOn, Generation, GenerationError, StopGenerationError
from easel_server.generation.models import EngineDescription
from easel_server.generation.parameters import GenerationParameters

STEP_TIMEOUT_SECONDS = 20.0

DESCRIPTION = EngineDescription(
    engine="fake", pipeline="FakePipeline", device="cpu", dtype="float32", model="fake", load_seconds=1.5
)


def images_of(parameters: GenerationParameters) -> list[bytes]:
    """The images of a job: different for each seed."""
    return [f"image of seed {parameters.seed + index}".encode() for index in range(parameters.images)]


def previews_of(seeds: Sequence[int], step: int) -> list[bytes]:
    """The previews of jobs after a step."""
    return [f"{seed} at {step}".encode() for seed in seeds]


class FakeGeneration:
    """A job under way; counts its steps."""

    own_seconds = 0.0
    warnings: tuple[str, ...] = ()

    def __init__(self, parameters: GenerationParameters, engine: "FakeEngine", steps_done: int = 0) -> None:
        self.parameters = parameters
        self.error: Exception | None = None
        self.steps_done = steps_done
        self._engine = engine

    @property
    def is_done(self) -> bool:
        return self.error is not None or self.steps_done == self.parameters.steps

    def fail(self, error: Exception) -> None:
        self.error = error
        self._engine.stopped.append(self.parameters.seed)

    def build_preview(self) -> bytes | None:
        return previews_of([self.parameters.seed], self.steps_done)[0]

    def checkpoint(self) -> bytes | None:
        return json.dumps({"seed": self.parameters.seed, "steps_done": self.steps_done}).encode()

    def stop(self) -> None:
        if not self.is_done:
            self.fail(StopGenerationError())

    def encode_images(self) -> list[bytes]:
        if (event := self._engine.encoding_waits_for.get(self.parameters.seed)) is not None:
            event.wait(STEP_TIMEOUT_SECONDS)
        return images_of(self.parameters)


class FakeEngine:
    """Runs freely, unless made with ``gated=True``: then each step waits for ``allow``."""

    def __init__(
        self,
        *,
        gated: bool = False,
        error: Callable[[], Exception] | None = None,
        description: EngineDescription = DESCRIPTION,
        most_images: int = 1,
    ) -> None:
        self._description = description
        self._permits = threading.Semaphore(0)
        self._gated = gated
        self._error = error
        self._most_images = most_images
        self.started: list[int] = []  # seeds, in the order in which generations began
        self.resumed: dict[int, int] = {}  # seeds of those that began from a checkpoint, and their steps by then
        self.stopped: list[int] = []  # seeds of those that ended by an exception
        self.batches: list[list[int]] = []  # seeds of those that took a step together, where they changed
        self.refused_seeds: set[int] = set()  # each fails by its own fault
        self.breaks_after: int | None = None  # jobs; with each further one it raises a RuntimeError
        self.breaking_seeds: dict[int, str] = {}  # from a step with one of them on, each step raises this
        self.broken = ""
        self.unlucky_seeds: dict[int, int] = {}  # in so many steps each fails with a KeyError
        self.failing_seeds: dict[int, Exception] = {}  # what each fails with
        self.encoding_waits_for: dict[int, threading.Event] = {}  # by seed
        self.step_errors: list[Exception] = []  # each is raised by one step, for no job in particular
        self.gathered: list[tuple[int, tuple[str, ...]]] = []  # seeds, and the names of their add-ons
        self.gathering_waits_for: dict[int, threading.Event] = {}  # by seed
        self.brought: list[str] = []  # names of add-ons
        self.bringing_waits_for: dict[str, threading.Event] = {}  # by name
        self.digests: dict[str, str] = {}  # of add-ons, by name
        self.missing_add_ons: dict[int, Exception] = {}  # by seed: what gathering fails with
        self.steps = 0

    @property
    def description(self) -> EngineDescription:
        return self._description

    def allow(self, steps: int) -> None:
        for _ in range(steps):
            self._permits.release()

    def max_images(self, width_pixels: int, height_pixels: int) -> int:
        del width_pixels, height_pixels
        return self._most_images

    def bring(self, add_on: AddOnConfig) -> GatheredAddOn:
        self.brought.append(add_on.name)
        if (event := self.bringing_waits_for.get(add_on.name)) is not None:
            assert event.wait(STEP_TIMEOUT_SECONDS), "the test never let this add-on come"
        return GatheredAddOn(add_on.name, add_on.key, self.digests.get(add_on.name, "sha256:1"))

    def gather(self, parameters: GenerationParameters, add_ons: Sequence[AddOnConfig]) -> tuple[GatheredAddOn, ...]:
        self.gathered.append((parameters.seed, tuple(each.name for each in add_ons)))
        if (event := self.gathering_waits_for.get(parameters.seed)) is not None:
            assert event.wait(STEP_TIMEOUT_SECONDS), "the test never let these add-ons come"
        if (error := self.missing_add_ons.get(parameters.seed)) is not None:
            raise error
        return tuple(GatheredAddOn(each.name, each.key, self.digests.get(each.name, "sha256:1")) for each in add_ons)

    def begin(
        self,
        parameters: GenerationParameters,
        inputs: Mapping[str, bytes],
        *,
        checkpoint: bytes | None = None,
        add_ons: Sequence[AddOnConfig] = (),
    ) -> FakeGeneration:
        del inputs, add_ons
        self.started.append(parameters.seed)
        steps_done = json.loads(checkpoint)["steps_done"] if checkpoint else 0
        if checkpoint:
            self.resumed[parameters.seed] = steps_done
        return FakeGeneration(parameters, self, steps_done)

    def step(self, generations: Sequence[Generation]) -> None:
        live = [each for each in generations if isinstance(each, FakeGeneration) and not each.is_done]
        seeds = [each.parameters.seed for each in live]
        if self.batches[-1:] != [seeds]:
            self.batches.append(seeds)
        if self._gated:
            assert self._permits.acquire(timeout=STEP_TIMEOUT_SECONDS), "the test never allowed this step"
        self._break(seeds)
        self.steps += 1
        for each in live:
            error = self._error_of(each.parameters.seed)
            if error is not None:
                each.fail(error)
            else:
                each.steps_done += 1

    def list_warnings(self, parameters: GenerationParameters) -> tuple[str, ...]:
        return (f"seed {parameters.seed} is unlucky",) if parameters.seed == 13 else ()

    def _break(self, seeds: Sequence[int]) -> None:
        for seed in self.breaking_seeds.keys() & set(seeds):
            self.broken = self.breaking_seeds[seed]
        if self.breaks_after is not None and len(self.started) > self.breaks_after:
            self.broken = "the engine is broken"
        if self.broken:
            raise RuntimeError(self.broken)
        if self.step_errors:
            raise self.step_errors.pop()

    def _error_of(self, seed: int) -> Exception | None:
        if self._error is not None:
            return self._error()
        if seed in self.refused_seeds:
            return GenerationError(f"seed {seed} is refused")
        if seed in self.failing_seeds:
            return self.failing_seeds[seed]
        if self.unlucky_seeds.get(seed, 0) > 0:
            self.unlucky_seeds[seed] -= 1
            return KeyError("scheduler")
        return None
