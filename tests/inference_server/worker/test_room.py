"""What a worker claims beside what it generates and reports."""

from dataclasses import replace
from typing import Any

import pytest
from easel_contract.server_config import Priority
from easel_server.stores.jobs.interface import Claim, Joining
from easel_server.worker.claiming import INSTANT_IMAGES, Room
from easel_server.worker.job_run import JobRun

from tests.support.fake_engine import DESCRIPTION, FakeEngine
from tests.support.jobs import build_job


def build_run(*, images: int = 1, is_alone: bool = False, priority: Priority = Priority.NORMAL) -> JobRun:
    return JobRun(Claim(build_job("a", images=images, priority=priority), "token", 10.0, is_alone=is_alone))


@pytest.mark.parametrize(
    ("live", "reporting", "expected"),
    [
        pytest.param([], [], 4, id="nothing to do: all of it"),
        pytest.param([{}], [], 3, id="one is live: the rest"),
        pytest.param([{}, {"images": 3}], [], None, id="no room is left"),
        pytest.param([{"images": 6}], [], None, id="one with more than fits is alone"),
        pytest.param([{"is_alone": True}], [], None, id="nobody joins a last attempt"),
        pytest.param([], [{}] * 7, 4, id="what is being reported takes no room"),
        pytest.param([], [{}] * 8, None, id="until as much again has piled up"),
        pytest.param([{}], [{}] * 7, None, id="with what is live"),
        pytest.param([], [{"images": 6}], 4, id="one large one isn't much"),
    ],
)
def test_there_is_room_for(live: list[Any], reporting: list[Any], expected: int | None) -> None:
    room = Room(FakeEngine(), 4)
    request = room.decide([build_run(**each) for each in live], [build_run(**each) for each in reporting])
    assert (request.max_images if request else None) == expected


def test_who_may_join_goes_by_the_size_and_the_highest_priority_of_those_under_way() -> None:
    live = [build_run(priority=priority) for priority in (Priority.LOW, Priority.HIGH, Priority.NORMAL)]
    request = Room(FakeEngine(), 8).decide(live, [])
    assert request is not None
    assert request.joining == Joining("64x64", Priority.HIGH)


def test_sizes_that_were_seen_are_claimed_as_many_at_once_as_the_engine_does_best() -> None:
    room = Room(FakeEngine(most_images=5), None)
    first = room.decide([], [])
    assert first is not None
    assert (first.max_images, dict(first.max_images_of)) == (1, {})
    joining = room.decide([build_run()], [])
    assert joining is not None
    assert joining.max_images == 4
    later = room.decide([], [])
    assert later is not None
    assert later.max_images_of == {"64x64": 5}


def test_an_engine_that_takes_no_time_takes_many_and_is_not_joined() -> None:
    room = Room(FakeEngine(description=replace(DESCRIPTION, is_instant=True)), 2)
    request = room.decide([], [])
    assert request is not None
    assert request.max_images == INSTANT_IMAGES
    assert room.decide([build_run()], []) is None
