"""What becomes of a job whose generation has ended. Pure.

The first line that applies decides:

    the claim was lost            nothing is reported: another worker has the job
    cancel was asked for          Canceled
    the deadline passed           Failed
    images came out               Succeeded
    the drain stopped it          nothing is reported: the worker releases the job
    GenerationError               Failed with its message
    memory ran out                Failed with the request's size
    any other error               Failed with the error's type
"""

from enum import StrEnum
from typing import Final

from easel_server.engine.interface import GenerationError, StopGenerationError
from easel_server.generation.parameters import GenerationParameters
from easel_server.stores.jobs.interface import Canceled, Failed, Outcome, Succeeded

MAX_MESSAGE_CHARACTERS: Final = 300

DEADLINE_PASSED: Final = Failed(
    "the deadline passed while the job was running; allow it more time, or ask for fewer steps, images or pixels"
)


class StopReason(StrEnum):
    """Why a job is to end early."""

    CANCEL = "Cancel"
    DEADLINE_PASSED = "DeadlinePassed"
    LOST = "Lost"  # another worker has the job
    DRAIN = "Drain"


def decide_outcome(
    stop_reason: StopReason | None,
    images: tuple[bytes, ...] | None,
    error: BaseException | None,
    parameters: GenerationParameters,
) -> Outcome | None:
    """What to report, given either the images or what the engine raised; None if there is nothing to report."""
    if stop_reason == StopReason.LOST:
        return None
    if stop_reason == StopReason.CANCEL:
        return Canceled()
    if stop_reason == StopReason.DEADLINE_PASSED:
        return DEADLINE_PASSED
    if images is not None:
        return Succeeded(images)
    if error is None or isinstance(error, StopGenerationError):
        return None
    return build_failure(error, parameters)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or the host; told by the class's name, so that no torch is imported."""
    return isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)


def build_failure(error: BaseException, parameters: GenerationParameters) -> Failed:
    """The failure to report for what ``Engine.generate`` raised."""
    if isinstance(error, GenerationError):
        return Failed(str(error))
    if is_out_of_memory(error):
        return Failed(
            f"the worker ran out of memory at {parameters.width_pixels}x{parameters.height_pixels} pixels, "
            f"{parameters.images} image(s), {parameters.steps} steps; ask for fewer images or a smaller size "
            "(the number of steps makes no difference), or give workers a larger GPU"
        )
    return Failed(f"the engine failed with {type(error).__name__}: {_shorten(str(error))}; the worker's log has more")


def _shorten(message: str) -> str:
    first_line = message.strip().partition("\n")[0]
    if len(first_line) <= MAX_MESSAGE_CHARACTERS:
        return first_line
    return first_line[:MAX_MESSAGE_CHARACTERS] + "…"
