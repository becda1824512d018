"""The server-side scripts, put together from ``lua/``."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

NEEDS_PATTERN: Final = re.compile(r"-- needs: ([a-z ]+)\n")  # a script's second line


@dataclass(frozen=True)
class Script:
    """A server-side script; it runs atomically."""

    source: str
    sha: str


@cache
def load_script(name: str) -> Script:
    """``lua/<name>.lua`` with what it needs of others behind its first line, which Redis requires to hold the flags."""
    flags, _, body = _read_lua(name).partition("\n")
    needs = NEEDS_PATTERN.match(body)
    shared = [_read_lua(part) for part in ("shared", *(needs[1].split() if needs else ()))]
    source = "\n".join([flags, *shared, body])
    # Redis names scripts by their SHA-1; nothing secret depends on it.
    return Script(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _read_lua(name: str) -> str:
    return (resources.files("easel_server.stores") / "lua" / f"{name}.lua").read_text(encoding="utf-8")
