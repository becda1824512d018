"""Schedules: when they begin, on whose clock, and for how long."""

from datetime import UTC, datetime, timedelta

import pytest
from easel_contract.resource import ScheduleSpec
from easel_operator.autoscaling.schedules import find_last_start, propose_for_schedules


def schedule(cron: str, minutes: int = 60, zone: str = "UTC", pods: int = 4, name: str = "floor") -> ScheduleSpec:
    return ScheduleSpec(name=name, cron=cron, duration_minutes=minutes, min_replicas=pods, time_zone=zone)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


CASES = {
    "before it begins": ("0 8 * * *", "UTC", "2026-11-24T07:59:59", 0),
    "as it begins": ("0 8 * * *", "UTC", "2026-11-24T08:00:00", 4),
    "to its last second": ("0 8 * * *", "UTC", "2026-11-24T08:59:59", 4),
    "after its end": ("0 8 * * *", "UTC", "2026-11-24T09:00:00", 0),
    "on another clock": ("0 8 * * *", "Europe/Berlin", "2026-11-24T07:30:00", 4),
    "in summer too": ("0 8 * * *", "Europe/Berlin", "2026-07-24T06:30:00", 4),
    "not at the weekend": ("0 8 * * mon-fri", "UTC", "2026-11-28T08:30:00", 0),
    "over midnight": ("30 23 * * *", "UTC", "2026-11-24T00:15:00", 4),
    "in the hour that a clock leaves out: an hour later": ("30 2 * * *", "Europe/Berlin", "2026-03-29T01:45:00", 4),
    "in an hour that is shown twice: the first": ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:45:00", 4),
    "and still in force in the second": ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:15:00", 4),
    "but it doesn't begin again": ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:45:00", 0),
}


@pytest.mark.parametrize(("cron", "zone", "now", "expected"), CASES.values(), ids=CASES.keys())
def test_floors_in_force(cron: str, zone: str, now: str, expected: int) -> None:
    assert propose_for_schedules([schedule(cron, zone=zone)], at(now), 0.0).replicas == expected


def test_pods_are_ordered_a_cold_start_ahead() -> None:
    floors = [schedule("0 8 * * *")]
    assert propose_for_schedules(floors, at("2026-11-24T07:57:59"), 120.0).replicas == 0
    assert propose_for_schedules(floors, at("2026-11-24T07:58:00"), 120.0).replicas == 4


def test_the_highest_floor_counts_and_is_named() -> None:
    floors = [schedule("0 8 * * *", name="low"), schedule("30 8 * * *", pods=9, name="high")]
    assert propose_for_schedules(floors, at("2026-11-24T08:45:00"), 0.0).because == "schedule high"
    assert propose_for_schedules(floors, at("2026-11-24T08:15:00"), 0.0).because == "schedule low"


def test_a_schedule_of_a_week_is_in_force_for_a_week() -> None:
    week = schedule("0 0 * * sun", minutes=10080)
    began = find_last_start(week, at("2026-11-28T23:59:00"))
    assert began == at("2026-11-22T00:00:00")
    assert propose_for_schedules([week], began + timedelta(days=6, hours=23), 0.0).replicas == 4
