"""The server-side scripts, put together from the folders ``lua/`` beside the stores whose transitions they are."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

NEEDS_PATTERN: Final = re.compile(r"^-- needs: ([a-z_/ ]+)$", re.MULTILINE)
SHARED_PART: Final = "redis/shared"


@dataclass(frozen=True)
class Script:
    """A server-side script; it runs atomically."""

    source: str
    sha: str


@cache
def load_script(name: str) -> Script:
    """``<subject>/lua/<script>.lua`` for the name ``<subject>/<script>``, behind the parts that it needs.

    Parts are named likewise in a line "-- needs: jobs/queue outbox/enqueue", and may need others themselves. The first
    line of a script holds its flags, and Redis requires it to stay the first.
    """
    flags, _, body = _read_lua(name).partition("\n")
    parts = dict.fromkeys([SHARED_PART, *_gather_needs(body)])
    source = "\n".join([flags, *map(_read_lua, parts), body])
    # Redis names scripts by their SHA-1; nothing secret depends on it.
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _gather_needs(source: str) -> Iterator[str]:
    """Names of the parts that a source needs, each behind those that it needs itself."""
    for names in NEEDS_PATTERN.findall(source):
        for name in names.split():
            yield from _gather_needs(_read_lua(name))
            yield name


def _read_lua(name: str) -> str:
    subject, _, file = name.partition("/")
    return (resources.files("easel_server.stores") / subject / "lua" / f"{file}.lua").read_text(encoding="utf-8")
