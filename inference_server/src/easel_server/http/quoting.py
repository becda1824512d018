"""Values of requests as they may be quoted in messages. Pure."""

from typing import Any

SHOWN_CHARACTERS = 80  # of a value that is refused


def show(value: Any) -> str:
    """A value as it may be quoted in a message: short."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python writes
        return "a number with thousands of digits"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}… ({len(text)} characters)"
