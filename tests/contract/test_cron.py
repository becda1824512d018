"""Cron expressions, against croniter, and what is wrong with those that are none."""

from datetime import datetime, timedelta

import pytest
from croniter import CroniterBadDateError, croniter  # type: ignore[import-untyped]
from easel_contract.cron import check_cron, find_last
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
        with pytest.raises(ValueError, match="never begins"):
            check_cron(text)
        return
    check_cron(text)
    assert find_last(text, moment) == expected


def test_a_leap_day_is_found_and_a_day_that_never_comes_is_refused() -> None:
    now = datetime.fromisoformat("2027-06-01")
    assert find_last("0 0 29 2 *", now) == datetime.fromisoformat("2024-02-29")
    with pytest.raises(ValueError, match=r"'0 0 31 2 \*' never begins: no month that it names has such a day"):
        check_cron("0 0 31 2 *")


def test_a_step_over_days_restricts_them_as_in_cronjobs_so_either_day_is_enough() -> None:
    friday_the_even_4th = datetime.fromisoformat("2026-12-04T12:00")
    assert find_last("0 8 */2 * fri", friday_the_even_4th) == datetime.fromisoformat("2026-12-04T08:00")


FAULTS = {
    "too few fields": ("0 8 * *", "has 4 fields, expected 5"),
    "a sixth field": ("0 0 8 * * *", "has 6 fields, expected 5"),
    "out of range": ("60 8 * * *", "the minute is '60': a list of values"),
    "no number": ("0 eight * * *", "the hour is 'eight': a list of values"),
    "backwards": ("0 18-8 * * *", "the hour is '18-8': a list of values and ranges in rising order"),
    "no step": ("*/0 * * * *", "the minute is '*/0'"),
    "an empty part": ("0,, * * * *", "the minute is '0,,'"),
    "another month's name": ("0 0 * foo *", "the month is 'foo'"),
    "no day of the week": ("0 0 * * 8", "the day of the week is '8'"),
    "no day of the month": ("0 0 ? * *", r"the day of the month is '\?'"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_faults_are_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("*", r"\*")):
        check_cron(text)


def test_a_schedule_with_a_fault_is_refused_with_its_field() -> None:
    good = {"name": "noon", "cron": "0 12 * * *", "durationMinutes": 60, "minReplicas": 2}
    assert ScheduleSpec.model_validate(good).time_zone == "UTC"
    for change, message in (({"cron": "0 25 * * *"}, "the hour is '25'"), ({"timeZone": "Mars/Base"}, "no time zone")):
        with pytest.raises(ValidationError, match=message):
            ScheduleSpec.model_validate({**good, **change})
