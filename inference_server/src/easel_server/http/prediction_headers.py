"""Headers that say how a prediction is to be served. Pure."""

import re
from datetime import timedelta

from easel_server.http.quoting import show
from easel_server.http.refusals import refuse_field

MAXIMUM_WAIT_SECONDS = 60
MINIMUM_CANCEL_AFTER = timedelta(seconds=1)
MAXIMUM_CANCEL_AFTER = timedelta(days=1)

PREFER_PATTERN = re.compile(r"wait(?:\s*=\s*([0-9]{1,6}))?", re.IGNORECASE)
DURATION_PATTERN = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s?)?")


def parse_wait_seconds(prefer: str) -> int:
    """Seconds of ``Prefer: wait=n``; plain ``wait`` is the maximum; 0 without. Raises RefusalError.

    https://www.rfc-editor.org/rfc/rfc7240
    """
    for preference in prefer.split(","):
        match = PREFER_PATTERN.fullmatch(preference.strip())
        if match is None:
            continue
        seconds = int(match[1]) if match[1] else MAXIMUM_WAIT_SECONDS
        if not 1 <= seconds <= MAXIMUM_WAIT_SECONDS:
            raise refuse_field("Prefer", f"waits {seconds} s, allowed are 1 to {MAXIMUM_WAIT_SECONDS}")
        return seconds
    return 0


def parse_cancel_after(text: str | None) -> timedelta | None:
    """The time of ``Cancel-After: 90``, ``90s``, ``2m`` or ``1h30m``; None without. Raises RefusalError.

    https://replicate.com/docs/topics/predictions/lifecycle
    """
    if text is None:
        return None
    match = DURATION_PATTERN.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise refuse_field(
            "Cancel-After", f'is {show(text)}, allowed are seconds, or a duration such as "30s" or "1h30m"'
        )
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    duration = timedelta(hours=hours, minutes=minutes, seconds=seconds)
    if not MINIMUM_CANCEL_AFTER <= duration <= MAXIMUM_CANCEL_AFTER:
        allowed = f"{MINIMUM_CANCEL_AFTER.total_seconds():.0f} s to {MAXIMUM_CANCEL_AFTER.total_seconds() / 3600:.0f} h"
        raise refuse_field("Cancel-After", f"is {show(text)}, allowed are {allowed}")
    return duration
