"""What is simulated: traces under loads, shapes, cold starts and targets; each under both orders of the queue."""

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from easel_contract.resource import QueueOrder, StableDiffusionServiceSpec
from easel_operator.simulation.settings import ColdStart, Settings
from easel_operator.simulation.trace import Trace, cut, parse_trace, upscale

from benchmarks.autoscaler.shapes import SHAPES

SEED: Final = 1
MAX_REPLICAS: Final = 200
COLD_STARTS_SECONDS: Final = (90, 30, 300)  # in the order in which they are measured
TARGETS_SECONDS: Final = (30, 15, 60)
LONG_TRACE_SECONDS: Final = 86_400.0
BURSTY: Final = "x20 bursty"
SMOOTH: Final = "x20 smooth"
SHAPE: Final = "shape"
LOADS: Final[Mapping[str, tuple[int, float]]] = {"x1": (1, 0.0), BURSTY: (20, 60.0), SMOOTH: (20, 600.0)}


@dataclass(frozen=True, slots=True)
class Case:
    """One trace, load, cold start and target. Of a shape ``trace`` is its name, and the load is SHAPE."""

    trace: str  # a file's path
    load: str
    cold_start_seconds: int
    target_seconds: int

    @property
    def name(self) -> str:
        """As it is selected and printed."""
        return f"{Path(self.trace).stem} {self.load} {self.cold_start_seconds}/{self.target_seconds}"

    @property
    def is_shape(self) -> bool:
        """Whether it is simulated as a whole, with nobody tuned."""
        return self.load == SHAPE

    @property
    def key(self) -> Mapping[str, Any]:
        """What tells its record from others'; without the place of the file."""
        return {
            "trace": Path(self.trace).name,
            "load": self.load,
            "cold_start_seconds": self.cold_start_seconds,
            "target_seconds": self.target_seconds,
        }


def list_cases(traces: Sequence[Path], only: Sequence[str]) -> list[Case]:
    """All combinations and shapes, those of the goals first. ``only``: of these, whose name has all words of one of
    the selections, such as ``"bursty 90/30"``."""
    of_shapes = [Case(name, SHAPE, 90, 30) for name in SHAPES]
    of_traces = [
        Case(str(path), load, cold_start, target)
        for target in TARGETS_SECONDS
        for cold_start in COLD_STARTS_SECONDS
        for path in traces
        for load in (LOADS if load_file(str(path)).duration_seconds >= LONG_TRACE_SECONDS else ("x1",))
    ]
    first = len(of_traces) // len(TARGETS_SECONDS)  # the goals' target
    ordered = [*of_traces[:first], *of_shapes, *of_traces[first:]]
    return [case for case in ordered if not only or any(_is_selected(case, selection) for selection in only)]


def _is_selected(case: Case, selection: str) -> bool:
    return all(word in case.name for word in selection.split())


@functools.cache
def load_file(path: str) -> Trace:
    """A trace as it was recorded."""
    with Path(path).open(encoding="utf-8", newline="") as lines:
        return parse_trace(lines, path)


@functools.lru_cache(maxsize=4)
def load_part(path: str, load: str, *, is_first: bool) -> Trace:
    """Half of a trace under a load; all of a shape, in either half."""
    if load == SHAPE:
        return SHAPES[path].build()
    trace = load_file(path)
    copies, jitter_seconds = LOADS[load]
    scaled = upscale(trace, copies, jitter_seconds, random.Random(SEED))  # noqa: S311
    middle = trace.duration_seconds / 2
    return cut(scaled, 0.0, middle) if is_first else cut(scaled, middle, trace.duration_seconds)


def build_settings(case: Case, order: QueueOrder) -> Settings:
    """The defaults, scaling to zero; nothing of a user's but target and maximum."""
    scaling = {
        "minReplicas": 0,
        "maxReplicas": SHAPES[case.trace].max_replicas if case.is_shape else MAX_REPLICAS,
        "targetLatencySeconds": case.target_seconds,
        "queueOrder": order,
    }
    spec = {"model": {"source": {"huggingFace": {"repository": "any/model"}}}, "scaling": scaling}
    return Settings(StableDiffusionServiceSpec.model_validate(spec), ColdStart(case.cold_start_seconds), SEED)
