"""What an engine's error says of the engine. Pure; known by names and texts, so that no torch is imported."""

from typing import Final

from easel_server.engine.interface import GenerationError, StopGenerationError

SHOWN_CHARACTERS: Final = 300
# After these every call of the CUDA context fails, until the process ends; HIP's messages are the same.
# https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html (cudaError: "the process must be terminated")
FATAL_SIGNS: Final = (
    "device-side assert",
    "illegal memory access",
    "misaligned address",
    "illegal instruction",
    "unspecified launch failure",
    "launch timed out",
    "hardware stack error",
    "ecc error",
    "nvlink error",
    "context is destroyed",
    "no cuda-capable device",
    "no hip gpus",
    "gpu is lost",
)


def is_engine_error(error: BaseException) -> bool:
    """Whether no request is to blame for it, as far as the error itself says."""
    return not isinstance(error, StopGenerationError | GenerationError) and not is_out_of_memory(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or the host."""
    return isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)


def is_fatal_error(error: BaseException) -> bool:
    """Whether a GPU says that nothing will work in this process any more."""
    message = str(error).lower()
    return is_engine_error(error) and any(sign in message for sign in FATAL_SIGNS)


def describe_error(error: BaseException) -> str:
    """Its type and first line, in one line that a client may read."""
    first_line = str(error).strip().partition("\n")[0]
    cut = first_line if len(first_line) <= SHOWN_CHARACTERS else f"{first_line[:SHOWN_CHARACTERS]}…"
    return f"{type(error).__name__}: {cut}"
