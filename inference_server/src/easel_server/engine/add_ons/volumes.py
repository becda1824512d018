"""Add-ons that lie on a mounted volume: where, and whether they are there. No torch: workers look before a job does."""

import os
from pathlib import Path
from typing import Final

from easel_contract.add_ons import AddOnConfig

from easel_server.engine.interface import GenerationError

SHOWN_FILES: Final = 8


def is_on_volume(add_on: AddOnConfig) -> bool:
    """Whether it is a path of this machine, which nothing has to be fetched for."""
    return Path(add_on.source).is_absolute()


def find_on_volume(add_on: AddOnConfig) -> Path:
    """A path below the volume's root, wherever links lead. Raises GenerationError."""
    root = Path(add_on.source)
    path = root / add_on.file if add_on.file else root
    if not root.exists():
        raise GenerationError(
            f"{describe_source(add_on)}: {root} doesn't exist; check that the volume is mounted there"
        )
    if not path.exists():
        shown = sorted(each.name for each in path.parent.glob("*"))[:SHOWN_FILES]
        beside = f", beside it are: {', '.join(shown)}" if shown else ""
        raise GenerationError(f"{describe_source(add_on)} has no {add_on.file}; correct its path{beside}")
    if add_on.file and not path.resolve().is_relative_to(root.resolve()):
        raise GenerationError(f"{describe_source(add_on)}: {add_on.file} leads out of the volume; copy the file there")
    if not os.access(path, os.R_OK):
        raise GenerationError(
            f"{describe_source(add_on)}: {path} can't be read by user {os.getuid()}, as whom workers run; change its "
            "permissions"
        )
    return path


def describe_source(add_on: AddOnConfig) -> str:
    """Such as ``ink (someone/ink)``."""
    return f"{add_on.name} ({add_on.source})"
