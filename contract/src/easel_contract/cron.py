"""Cron expressions of five fields, read by cronsim, and held to the rules of Kubernetes' CronJobs.

Moments are naive datetimes on the wall clock: what a clock change does to a schedule is for the caller to decide. Pure.
"""

from datetime import datetime, timedelta
from typing import Final

from cronsim import CronSim, CronSimError

FIELD_NAMES: Final = ("minute", "hour", "day of the month", "month", "day of the week")
RANGES: Final = ("0-59", "0-23", "1-31", "1-12", "0-7")
ANY_MOMENT: Final = datetime.fromisoformat("2026-01-01")  # to parse by
ALLOWED: Final = (
    "minute (0 to 59), hour (0 to 23), day of the month (1 to 31), month (1 to 12, or jan to dec), day of the week "
    "(0 to 7, or sun to sat)"
)


def check_cron(text: str) -> None:
    """Raises ValueError that names what is wrong, the text seen and what is allowed."""
    fields = text.split()
    if len(fields) != len(FIELD_NAMES):  # cronsim would take a sixth for seconds
        raise ValueError(f"{text!r} has {len(fields)} fields, expected 5: {ALLOWED}")
    for index, (name, field) in enumerate(zip(FIELD_NAMES, fields, strict=True)):
        alone = ["*"] * len(FIELD_NAMES)
        alone[index] = field
        try:
            _read(" ".join(alone), ANY_MOMENT)
        except CronSimError as error:
            raise ValueError(
                f"the {name} is {field!r}: a list of values and ranges in rising order is allowed, such as 1,15 or "
                f"8-18/2, of {ALLOWED}"
            ) from error
    try:
        _read(text, ANY_MOMENT)
    except CronSimError as error:
        raise ValueError(f"{text!r} never begins: no month that it names has such a day") from error


def find_last(text: str, until: datetime) -> datetime | None:
    """The last moment at or before ``until`` at which it fires; None if there was none within 50 years.

    ``text`` has passed check_cron.
    """
    return next(_read(text, until + timedelta(seconds=1)), None)


def _read(text: str, until: datetime) -> CronSim:
    return CronSim(" ".join(map(_spell_steps, text.split(), RANGES)), until, reverse=True)


def _spell_steps(field: str, whole: str) -> str:
    """``*/2`` as ``1-31/2``: for Kubernetes' CronJobs such a day is a restriction, so either day is enough; for
    cronsim, as for Debian's cron, a field that begins with a star is none."""
    return field if field == "*" else field.replace("*", whole)
