"""What an engine's error says of the engine. Pure."""

from typing import Final

from easel_server.engine.device_errors import is_device_lost, is_out_of_memory
from easel_server.engine.interface import GatheringError, GenerationError, StopGenerationError

SHOWN_CHARACTERS: Final = 300


def is_engine_error(error: BaseException) -> bool:
    """Whether no request is to blame for it, as far as the error itself says."""
    no_fault = StopGenerationError | GenerationError | GatheringError
    return not isinstance(error, no_fault) and not is_out_of_memory(error)


def is_fatal_error(error: BaseException) -> bool:
    """Whether a GPU says that nothing will work in this process any more."""
    return is_engine_error(error) and is_device_lost(error)


def describe_error(error: BaseException) -> str:
    """Its type and first line, in one line that a client may read."""
    first_line = str(error).strip().partition("\n")[0]
    cut = first_line if len(first_line) <= SHOWN_CHARACTERS else f"{first_line[:SHOWN_CHARACTERS]}…"
    return f"{type(error).__name__}: {cut}"
