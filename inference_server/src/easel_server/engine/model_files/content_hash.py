"""Which weights were loaded from a directory: a digest of what is in memory, not of the files that it came from.

A directory has no commit, and its name, its files' sizes and their times can stay the same while the weights change
(images built reproducibly have no times at all), or differ between copies of the same weights. Once they are loaded,
adding up all of their bytes takes a fraction of a second for gigabytes.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from easel_server.generation.models import MODEL_INDEX

CONFIGURATION_SUFFIXES: Final = frozenset({".json", ".txt", ".model"})  # of components, their vocabularies included
WORD_BYTES: Final = 8


def hash_content(pipeline: Any, directory: Path, *, without: frozenset[str] = frozenset()) -> str:
    """``sha256:`` and the digest of a pipeline's weights, as they are in memory, and of its configuration files.

    Equal for copies of a model, whatever their files' format and times; different as soon as one weight differs, up to
    chance: a tensor counts with its name, its type, its shape and the sum of its bytes as 64-bit words. The order of a
    tensor's words doesn't count. ``without``: components that come from elsewhere.
    """
    digest = hashlib.sha256()
    components = {name: each for name, each in sorted(pipeline.components.items()) if name not in without}
    for file in _list_configuration(directory, list(components)):
        digest.update(f"{file.relative_to(directory)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    for name, component in components.items():
        if isinstance(component, torch.nn.Module):
            for key, tensor in component.state_dict().items():
                digest.update(f"{name}.{key} {tensor.dtype} {tuple(tensor.shape)} {_add_up(tensor)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _list_configuration(directory: Path, components: list[str]) -> Iterator[Path]:
    yield directory / MODEL_INDEX
    for name in components:
        yield from sorted(file for file in (directory / name).glob("*") if file.suffix in CONFIGURATION_SUFFIXES)


def _add_up(tensor: torch.Tensor) -> str:
    data = tensor.detach().reshape(-1).view(torch.uint8)
    if data.storage_offset() % WORD_BYTES:
        data = data.clone()  # words can only be read where they begin
    words = data.numel() // WORD_BYTES * WORD_BYTES
    total = data[:words].view(torch.int64).sum()  # wraps around, which loses nothing that counts here
    return f"{total.item()} {bytes(data[words:].tolist()).hex()}"
