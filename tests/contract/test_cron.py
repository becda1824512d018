"""Cron expressions, against croniter, and what is wrong with those that are none."""

from datetime import datetime, timedelta

import pytest
from croniter import CroniterBadDateError, croniter  # type: ignore[import-untyped]
from easel_contract.cron import CronExpression
from easel_contract.resource import ScheduleSpec
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

MINUTES = st.sampled_from(["*", "0", "*/15", "5-10", "3,30", "10-40/7", "59"])
HOURS = st.sampled_from(["*", "0", "8-18", "*/6", "23", "8-18/2,22"])
DAYS = st.sampled_from(["*", "1", "15-20", "31", "1,28", "*/10"])
MONTHS = st.sampled_from(["*", "1", "feb", "6-8", "*/3", "Jan,DEC"])
WEEKDAYS = st.sampled_from(["*", "0", "7", "mon-fri", "sat,sun", "3"])
MOMENTS = st.datetimes(datetime.fromisoformat("2024-01-01"), datetime.fromisoformat("2030-01-01")).map(
    lambda moment: moment.replace(microsecond=0)
)


@given(st.tuples(MINUTES, HOURS, DAYS, MONTHS, WEEKDAYS).map(" ".join), MOMENTS)
def test_the_last_moment_is_the_one_that_croniter_finds(text: str, moment: datetime) -> None:
    try:
        expected = croniter(text, moment + timedelta(seconds=1)).get_prev(datetime)
    except CroniterBadDateError:  # such as the 31st of February
        expected = None
    assert CronExpression.parse(text).find_last(moment) == expected


def test_a_leap_day_is_found_and_a_day_that_never_comes_is_not() -> None:
    now = datetime.fromisoformat("2027-06-01")
    assert CronExpression.parse("0 0 29 2 *").find_last(now) == datetime.fromisoformat("2024-02-29")
    assert CronExpression.parse("0 0 31 2 *").find_last(now) is None


FAULTS = {
    "too few fields": ("0 8 * *", "has 4 fields, expected 5"),
    "out of range": ("60 8 * * *", "the minute is '60': 0 to 59 are allowed"),
    "no number": ("0 eight * * *", "the hour is 'eight': 'eight' is no number"),
    "backwards": ("0 18-8 * * *", "the hour is '18-8': 0 to 23 are allowed, in rising order"),
    "no step": ("*/0 * * * *", "a step is at least 1"),
    "a step of one value": ("5/10 * * * *", "a step needs a range"),
    "an empty part": ("0,, * * * *", "'' is no number"),
    "another month's name": ("0 0 * foo *", "the month is 'foo'"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        CronExpression.parse(text)


def test_a_schedule_with_a_fault_is_refused_with_its_field() -> None:
    good = {"name": "noon", "cron": "0 12 * * *", "durationMinutes": 60, "minReplicas": 2}
    assert ScheduleSpec.model_validate(good).time_zone == "UTC"
    for change, message in (({"cron": "0 25 * * *"}, "the hour is '25'"), ({"timeZone": "Mars/Base"}, "no time zone")):
        with pytest.raises(ValidationError, match=message):
            ScheduleSpec.model_validate({**good, **change})
