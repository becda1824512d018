"""The seeded trace: bursts of requests, quiet stretches between them, work that takes a known time. Pure."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from easel_operator.simulation.trace import Trace, build_trace

SIZE_PIXELS: Final = 1024
PASSES: Final = 2  # a step, with guidance
GUIDANCE_SCALE: Final = 7.0
STEPS: Final = (10, 50)  # of a job, evenly spread
QUIET_AT_START_SECONDS: Final = 20.0
QUIET_SECONDS: Final = (20.0, 80.0)
BURST_SECONDS: Final = (10.0, 45.0)
BURST_PER_SECOND: Final = (0.5, 2.0)
TRICKLE_PER_SECOND: Final = 0.03  # in quiet stretches
LAST_QUIET_SECONDS: Final = 60.0  # in which what came before is worked off and pods are removed


@dataclass(frozen=True, slots=True)
class EngineTimes:
    """What the synthetic engine takes, from the service's manifest."""

    step_seconds: float  # of a megapixel, one pass
    image_seconds: float
    load_seconds: float


@dataclass(frozen=True, slots=True)
class Request:
    """One prediction to ask for."""

    at_seconds: float
    steps: int

    def to_body(self) -> dict[str, Any]:
        """The body of POST /v1/predictions. No seed: nothing comes from the cache."""
        return {
            "input": {
                "prompt": f"sent at {self.at_seconds:.3f} s",
                "width": SIZE_PIXELS,
                "height": SIZE_PIXELS,
                "num_inference_steps": self.steps,
                "guidance_scale": GUIDANCE_SCALE,
            }
        }

    def measure_work_seconds(self, times: EngineTimes) -> float:
        """What it keeps one worker busy, by the engine's configuration."""
        return self.steps * PASSES * times.step_seconds + times.image_seconds


def draw_requests(duration_seconds: float, seed: int) -> list[Request]:
    """Requests in the order of their arrival; the last LAST_QUIET_SECONDS are quiet."""
    source = random.Random(seed)  # noqa: S311 - a load that its seed replays
    return [Request(at, source.randint(*STEPS)) for at in _draw_arrivals(duration_seconds - LAST_QUIET_SECONDS, source)]


def to_trace(requests: list[Request], times: EngineTimes, duration_seconds: float) -> Trace:
    """The same requests as `easel simulate` reads them."""
    return build_trace(
        ((request.at_seconds, request.measure_work_seconds(times)) for request in requests), duration_seconds
    )


def _draw_arrivals(end_seconds: float, source: random.Random) -> Iterator[float]:
    stretch_seconds, is_burst = QUIET_AT_START_SECONDS, False
    begin = 0.0
    while begin < end_seconds:
        until = min(begin + stretch_seconds, end_seconds)
        rate = source.uniform(*BURST_PER_SECOND) if is_burst else TRICKLE_PER_SECOND
        at = begin + source.expovariate(rate)
        while at < until:
            yield at
            at += source.expovariate(rate)
        begin, is_burst = until, not is_burst
        stretch_seconds = source.uniform(*(BURST_SECONDS if is_burst else QUIET_SECONDS))
