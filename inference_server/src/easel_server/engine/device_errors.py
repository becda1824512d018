"""What an error says of the device. Pure; known by names and texts, so that no torch is imported."""

from typing import Final

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
# Where memory runs out without a class of its own: of torch's CPU allocator, of MPS, of cuBLAS and cuDNN.
MEMORY_SIGNS: Final = ("out of memory", "can't allocate memory", "status_alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or the host."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and _says(error, MEMORY_SIGNS)


def is_device_lost(error: BaseException) -> bool:
    """Whether a GPU says that nothing will work in this process any more."""
    return not is_out_of_memory(error) and _says(error, FATAL_SIGNS)


def _says(error: BaseException, signs: tuple[str, ...]) -> bool:
    message = str(error).lower()
    return any(sign in message for sign in signs)
