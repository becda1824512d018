"""Times as users write them: how long ago, and days."""

import re
from datetime import date
from typing import Final

from easel_cli.errors import UsageError

UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION: Final = re.compile(r"(\d{1,6})([smhd])", re.ASCII)


def parse_duration(text: str, option: str, *, max_seconds: int) -> int:
    """``90s``, ``15m``, ``3h`` or ``2d`` in seconds. Raises UsageError."""
    found = DURATION.fullmatch(text.strip())
    seconds = int(found[1]) * UNIT_SECONDS[found[2]] if found else 0
    if not 0 < seconds <= max_seconds:
        most = max_seconds // UNIT_SECONDS["d"]
        raise UsageError(f"{option} is {text!r}; a time such as 90s, 15m, 3h or 2d, at most {most}d, is expected")
    return seconds


def parse_days(since: str | None, until: str | None, today: date) -> tuple[date, date]:
    """Both included; the month so far if unset. Raises UsageError."""
    last = _parse_day(until, "--until") if until is not None else today
    first = _parse_day(since, "--since") if since is not None else last.replace(day=1)
    if first > last:
        raise UsageError(f"--since {first} --until {last}: the end must not come before the beginning")
    return first, last


def _parse_day(text: str, option: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option} is {text!r}; a day such as 2026-11-01 is expected") from None
