"""What a client should know was done otherwise than asked, as a header of the answer. Pure; bodies are the APIs'."""

import re
from collections.abc import Sequence
from typing import Final

WARNING_HEADER: Final = "Warning"
# https://www.rfc-editor.org/rfc/rfc7234#section-5.5: "miscellaneous persistent warning", by an agent without a name.
MISCELLANEOUS: Final = "299 -"
_QUOTED: Final = re.compile(r'(["\\])')
_UNPRINTABLE: Final = re.compile(r"[^ -~]+")  # of ASCII: what a header can carry whatever its reader takes it for


def build_warning_headers(warnings: Sequence[str]) -> dict[str, str]:
    """``Warning: 299 - "…", 299 - "…"``; empty if there are none. What isn't printable ASCII is left out."""
    if not warnings:
        return {}
    return {WARNING_HEADER: ", ".join(f'{MISCELLANEOUS} "{_quote(warning)}"' for warning in warnings)}


def _quote(warning: str) -> str:
    return _QUOTED.sub(r"\\\1", _UNPRINTABLE.sub("?", warning))
