"""Floors under the number of pods at times that are known in advance."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from easel_contract.cron import find_last
from easel_contract.resource import ScheduleSpec

from easel_operator.autoscaling.proposal import Proposal

# A wall clock that was set back shows a time twice; a search must begin after the second.
MAX_FOLD = timedelta(hours=3)


def propose_for_schedules(schedules: Sequence[ScheduleSpec], now: datetime, lead_seconds: float) -> Proposal:
    """The highest floor in force, or to be in force ``lead_seconds`` from now, so that its pods are ready by then."""
    ahead = now + timedelta(seconds=lead_seconds)
    due = [schedule for schedule in schedules if _is_due(schedule, now, ahead)]
    if not due:
        return Proposal(0, "no schedule is in force")
    highest = max(due, key=lambda schedule: schedule.min_replicas)
    return Proposal(highest.min_replicas, f"schedule {highest.name}")


def find_last_start(schedule: ScheduleSpec, until: datetime) -> datetime | None:
    """When it last began, at or before ``until``; None if that is longer ago than it lasts. In UTC.

    A start in the hour that a clock set forward leaves out is an hour later; one in an hour that is shown twice is at
    the first.
    """
    minute = until.astimezone(UTC).replace(second=0, microsecond=0)
    return _find_last_start(schedule.cron, schedule.time_zone, schedule.duration_minutes, minute)


@lru_cache(maxsize=4096)  # the answer stands for a minute
def _find_last_start(cron: str, time_zone: str, duration_minutes: int, until: datetime) -> datetime | None:
    zone = ZoneInfo(time_zone)
    wall = until.astimezone(zone).replace(tzinfo=None) + MAX_FOLD
    while (found := find_last(cron, wall)) is not None:
        began = found.replace(tzinfo=zone).astimezone(UTC)
        if began <= until:
            return began if until - began < timedelta(minutes=duration_minutes) + MAX_FOLD else None
        wall = found - timedelta(minutes=1)
    return None


def _is_due(schedule: ScheduleSpec, now: datetime, ahead: datetime) -> bool:
    began = find_last_start(schedule, ahead)
    return began is not None and now < began + timedelta(minutes=schedule.duration_minutes)
