"""What becomes of a job whose generation has ended."""

import pytest
from easel_server.engine.interface import GenerationError, NonFiniteError, StopGenerationError
from easel_server.stores.jobs.interface import Canceled, Failed, Outcome
from easel_server.worker.job_run import StopReason
from easel_server.worker.reporting import DEADLINE_PASSED, UNHEARD, Generated, Retry, decide_outcome

from tests.support.jobs import build_parameters

IMAGES = (b"image",)
PARAMETERS = build_parameters(width_pixels=1024, height_pixels=768, images=4, steps=30)

Decision = Generated | Retry | Outcome | None

CASES: dict[str, tuple[StopReason | None, tuple[bytes, ...] | None, BaseException | None, Decision]] = {
    "images came out": (None, IMAGES, None, Generated(IMAGES)),
    "images came out just before the drain's end": (StopReason.DRAIN, IMAGES, None, Generated(IMAGES)),
    "images came out although cancel was asked for": (StopReason.CANCEL, IMAGES, None, Canceled()),
    "images came out of a lost claim": (StopReason.LOST, IMAGES, None, None),
    "stopped by cancel": (StopReason.CANCEL, None, StopGenerationError(), Canceled()),
    "stopped by the deadline": (StopReason.DEADLINE_PASSED, None, StopGenerationError(), DEADLINE_PASSED),
    "stopped by the drain": (StopReason.DRAIN, None, StopGenerationError(), None),
    "its engine broke under it by no fault of its own": (StopReason.ENGINE_FAILED, None, None, None),
    "its engine broke, and it may be what broke it": (
        StopReason.ENGINE_FAILED,
        None,
        RuntimeError("no"),
        Retry("the engine failed with RuntimeError: no; no further attempt is made, the worker's log has more"),
    ),
    "stopped since its heartbeats failed": (StopReason.UNHEARD, None, StopGenerationError(), UNHEARD),
    "images came out though its heartbeats failed": (StopReason.UNHEARD, IMAGES, None, Generated(IMAGES)),
    "failed while being drained": (StopReason.DRAIN, None, GenerationError("no"), Failed("no")),
    "its image would be black": (None, None, NonFiniteError("not finite"), Failed("not finite")),
    "the model can't serve it": (None, None, GenerationError("77 tokens at most"), Failed("77 tokens at most")),
}


@pytest.mark.parametrize(("stop_reason", "images", "error", "expected"), CASES.values(), ids=CASES.keys())
def test_outcome(
    stop_reason: StopReason | None,
    images: tuple[bytes, ...] | None,
    error: BaseException | None,
    expected: Decision,
) -> None:
    assert decide_outcome(stop_reason, images, error, PARAMETERS) == expected


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


@pytest.mark.parametrize("error", [OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_names_the_size_and_what_to_lower(error: BaseException) -> None:
    outcome = decide_outcome(None, None, error, PARAMETERS)
    assert isinstance(outcome, Failed)
    for part in ("1024x768", "4 image(s)", "30 steps", "fewer images or a smaller size"):
        assert part in outcome.error


def test_an_unexpected_error_is_reported_by_its_type_and_first_line_only() -> None:
    outcome = decide_outcome(None, None, ValueError("x" * 500 + "\nsecond line"), PARAMETERS)
    assert isinstance(outcome, Retry)
    assert outcome.error.startswith("the engine failed with ValueError: xxx")
    assert "second line" not in outcome.error
    assert len(outcome.error) < 400
