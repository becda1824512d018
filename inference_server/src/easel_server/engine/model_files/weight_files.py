"""What a file of weights holds, read from its head without loading it, and whether all of it is there.

The format of safetensors: eight bytes with the length of a JSON object, which names each tensor's type, shape and place
in the bytes that follow it (https://huggingface.co/docs/safetensors).
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from easel_server.engine.model_files.selection import ModelFileError, format_gib

LENGTH_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 100_000_000  # safetensors' own bound
LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"
WIDTHS_BYTES: Final = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}  # 1 for the others
FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
PICKLE_SUFFIXES: Final = frozenset({".ckpt", ".pt", ".pth", ".bin"})
SAFETENSORS_SUFFIXES: Final = frozenset({".safetensors", ".sft"})
WEIGHT_SUFFIXES: Final = PICKLE_SUFFIXES | SAFETENSORS_SUFFIXES


@dataclass(frozen=True)
class TensorFacts:
    """One tensor of a file."""

    dtype: str  # as safetensors names it: "F16"
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Its numbers."""
        return math.prod(self.shape)


def read_header(file: Path) -> dict[str, TensorFacts]:
    """The tensors of a .safetensors file that is whole. Raises ModelFileError for one that isn't."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(LENGTH_BYTES)
            if head and LFS_POINTER.startswith(head):
                raise ModelFileError(_explain_pointer(file, head + stream.read(512)))
            length = int.from_bytes(head, "little")
            if len(head) < LENGTH_BYTES or not 2 <= length <= MAX_HEADER_BYTES:
                raise ModelFileError(_explain_foreign(file, size, head))
            text = stream.read(length)
    except OSError as error:
        raise ModelFileError(explain_unreadable(file, error)) from error
    if len(text) < length:
        raise ModelFileError(_explain_truncated(file, size, LENGTH_BYTES + length))
    try:
        header: dict[str, Any] = json.loads(text)
        tensors = {key: value for key, value in header.items() if key != "__metadata__"}
        end = max((value["data_offsets"][1] for value in tensors.values()), default=0)
        facts = {key: TensorFacts(value["dtype"], tuple(value["shape"])) for key, value in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ModelFileError(_explain_foreign(file, size, head)) from error
    if LENGTH_BYTES + length + end > size:
        raise ModelFileError(_explain_truncated(file, size, LENGTH_BYTES + length + end))
    return facts


def check_pickle(file: Path) -> None:
    """Whether a .ckpt or .bin is what it seems to be. Raises ModelFileError."""
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        raise ModelFileError(explain_unreadable(file, error)) from error
    if head.startswith(LFS_POINTER):
        raise ModelFileError(_explain_pointer(file, head))
    if not head.startswith((b"PK\x03\x04", b"\x80")):  # torch's archive, or the older bare pickle
        raise ModelFileError(_explain_foreign(file, file.stat().st_size, head))


def is_pickle(file: Path | str) -> bool:
    """By its name."""
    return Path(file).suffix.lower() in PICKLE_SUFFIXES


def count_loaded_bytes(tensors: Mapping[str, TensorFacts], width_bytes: int) -> int:
    """Memory that a file's tensors take with numbers of a width; integers keep theirs."""
    return sum(
        facts.numel * (width_bytes if facts.dtype in FLOATS else WIDTHS_BYTES.get(facts.dtype, 1))
        for facts in tensors.values()
    )


def explain_unreadable(file: Path, error: OSError) -> str:
    """For a file that the system doesn't give."""
    if isinstance(error, PermissionError):
        return (
            f"{file} may not be read by user {_user()} ({error.strerror}); make it readable for that user or its group "
            "(`chmod -R g+rX`, or fsGroup of the volume)"
        )
    return f"{file} can't be read: {error.strerror or error}; check the volume, and download the file again"


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else -1


def _explain_pointer(file: Path, head: bytes) -> str:
    lines = head.decode("utf-8", "replace").splitlines()
    size = next((line.removeprefix("size ") for line in lines if line.startswith("size ")), "")
    stands_for = f" for {format_gib(int(size))}" if size.isdecimal() else ""
    return (
        f"{file} is a pointer of git-lfs{stands_for}, not the weights themselves; run `git lfs pull` in the clone, or "
        "fetch the repository with `hf download`"
    )


def _explain_truncated(file: Path, size: int, expected: int) -> str:
    return (
        f"{file} is truncated: {format_gib(size)} ({size} bytes) of the {format_gib(expected)} ({expected} bytes) that "
        "its header names; download it again"
    )


def _explain_foreign(file: Path, size: int, head: bytes) -> str:
    if not size:
        return f"{file} is empty; download it again"
    if head.lstrip()[:1] == b"<":
        return f"{file} is a web page, not weights (a download that needed a login?); download it again"
    return f"{file} ({format_gib(size)}) is no file of the kind that its name says; download it again"
