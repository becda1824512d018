"""Names of the files that images are saved as, and what a size says."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Final

from easel_cli.errors import UsageError

SUFFIXES: Final = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
SIZE: Final = re.compile(r"(\d{1,5})[xX](\d{1,5})")
SHOWN_ID: Final = 12  # characters of a job's id that are enough to tell it from others


def choose_files(output: PurePath | None, job_id: str, media_types: Sequence[str], *, is_directory: bool) -> list[Path]:
    """A file for each image, numbered from 1 where there are several. ``is_directory``: ``output`` is one."""
    own = f"easel-{job_id[:SHOWN_ID]}"
    base = Path(own) if output is None else Path(output, own) if is_directory else Path(output)
    stem = base if output is None or is_directory else base.with_suffix("")
    files = []
    for number, media_type in enumerate(media_types, start=1):
        asked = "" if output is None or is_directory else base.suffix
        suffix = asked or SUFFIXES.get(media_type.partition(";")[0], ".png")
        mark = f"-{number}" if len(media_types) > 1 else ""
        files.append(stem.with_name(f"{stem.name}{mark}{suffix}"))
    return files


def parse_size(text: str | None) -> tuple[int | None, int | None]:
    """``WIDTHxHEIGHT`` in pixels. Raises UsageError."""
    if text is None:
        return None, None
    found = SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--size is {text!r}; WIDTHxHEIGHT in pixels, such as 1024x1024, is expected")
    return int(found[1]), int(found[2])
