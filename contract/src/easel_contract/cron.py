"""Cron expressions of five fields, as crontab(5) has them: minute, hour, day of the month, month, day of the week.

A field is ``*`` or a list of numbers and ranges, each with an optional step: ``*/15``, ``8-18``, ``1,15``, ``8-18/2``.
Months and days of the week may be named (``jan``, ``mon``), in any case; Sunday is 0 or 7. Where both days are other
than ``*``, either one is enough, as in crontab(5) and in Kubernetes' CronJobs. Pure; a moment is a naive datetime of
whole minutes on the wall clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final, Self

MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
LONGEST_GAP_DAYS: Final = 8 * 366 + 2  # between two 29ths of February, across a century that has none


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    lowest: int
    highest: int
    names: Mapping[str, int]


_FIELDS: Final = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of the month", 1, 31, {}),
    _Field("month", 1, 12, {name: number for number, name in enumerate(MONTHS, 1)}),
    _Field("day of the week", 0, 7, {name: number for number, name in enumerate(WEEKDAYS)}),
)


@dataclass(frozen=True, slots=True)
class CronExpression:
    """When it fires, as the sets of values that its fields allow."""

    minutes: tuple[int, ...]  # ascending
    hours: tuple[int, ...]  # ascending
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    is_either_day_enough: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError that names the field, the text seen and what is allowed."""
        parts = text.split()
        if len(parts) != len(_FIELDS):
            raise ValueError(
                f"{text!r} has {len(parts)} fields, expected 5: minute, hour, day of the month, month, day of the week"
            )
        minutes, hours, days, months, weekdays = (
            _parse_field(field, part) for field, part in zip(_FIELDS, parts, strict=True)
        )
        return cls(
            minutes=tuple(sorted(minutes)),
            hours=tuple(sorted(hours)),
            days=days,
            months=months,
            weekdays=frozenset(day % 7 for day in weekdays),
            is_either_day_enough="*" not in (parts[2], parts[4]),
        )

    def is_on(self, day: date) -> bool:
        """Whether it fires at some time of this day."""
        if day.month not in self.months:
            return False
        by_date, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_date or by_weekday if self.is_either_day_enough else by_date and by_weekday

    def find_last(self, until: datetime, *, days: int = LONGEST_GAP_DAYS) -> datetime | None:
        """The last moment at or before ``until`` at which it fires; None if there is none on that day or the ``days``
        before."""
        for back in range(days + 1):
            day = until.date() - timedelta(days=back)
            if not self.is_on(day):
                continue
            latest = until.time() if back == 0 else time.max
            found = self._find_last_time(latest)
            if found is not None:
                return datetime.combine(day, found)
        return None

    def _find_last_time(self, latest: time) -> time | None:
        for hour in reversed(self.hours):
            if hour > latest.hour:
                continue
            if hour < latest.hour:
                return time(hour, self.minutes[-1])
            for minute in reversed(self.minutes):
                if minute <= latest.minute:
                    return time(hour, minute)
        return None


def _parse_field(field: _Field, text: str) -> frozenset[int]:
    values: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        step = _parse_number(field, step_text, text, {}) if slash else 1
        if step < 1:
            raise ValueError(_describe(field, text, "a step is at least 1"))
        if span == "*":
            first, last = field.lowest, field.highest
        else:
            first_text, dash, last_text = span.partition("-")
            first = _parse_number(field, first_text, text, field.names)
            last = _parse_number(field, last_text, text, field.names) if dash else first
            if slash and not dash:
                raise ValueError(_describe(field, text, "a step needs a range, such as */15 or 8-18/2"))
        if not field.lowest <= first <= last <= field.highest:
            raise ValueError(_describe(field, text, f"{field.lowest} to {field.highest} are allowed, in rising order"))
        values.update(range(first, last + 1, step))
    return frozenset(values)


def _parse_number(field: _Field, text: str, whole: str, names: Mapping[str, int]) -> int:
    if text.lower() in names:
        return names[text.lower()]
    if not (text.isascii() and text.isdigit() and len(text) <= 2):
        raise ValueError(_describe(field, whole, f"{text!r} is no number"))
    return int(text)


def _describe(field: _Field, text: str, problem: str) -> str:
    return f"the {field.name} is {text!r}: {problem}"
