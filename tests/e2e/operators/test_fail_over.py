"""A leader that is killed, frozen, or lost with its node: another works within 15 s, and metrics go on being served."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.operators.living import FIXED, LEADING_SECONDS, Answers, MetricsReader, World, send
from tests.e2e.waiting import wait_until

logger = logging.getLogger(__name__)

pytestmark = pytest.mark.embedded

AFTERWARDS_SECONDS = 30.0  # for as long it is watched how metrics are served
AUTOSCALER_SECONDS = 15.0  # between two of its looks by default: shorter gaps cost it one at the most


@dataclass
class FailOver:
    """What was seen of one."""

    leads_after_seconds: float
    works_after_seconds: float
    answers: Answers


@pytest.fixture
def two_operators(world: World) -> Iterator[World]:
    world.wait_for_two_operators()
    yield world
    world.wait_for_two_operators()


def watch_fail_over(world: World, leader: str, fault: Callable[[], object], what: str) -> FailOver:
    """Let something happen to the leader, want another number of workers at once, and see who sees to it."""
    number = 3 - world.read_number()  # 1 or 2
    with MetricsReader(world.cluster, world.find_metric()) as reader:
        wait_until(lambda: reader.answers.asked, lambda asked: asked > 5, "metrics are read", 30)
        before = len(reader.answers.failed)
        assert before == 0, reader.answers.failed
        began = time.monotonic()
        fault()
        world.change_number(number)
        wait_until(world.read_leader, lambda name: name not in ("", leader), "another leads", 60)
        leads = time.monotonic() - began
        wait_until(world.read_number, lambda seen: seen == number, "another works", 60)
        works = time.monotonic() - began
        wait_until(lambda: time.monotonic() - began, lambda age: age > AFTERWARDS_SECONDS, "time passes", 60)
    logger.info("%s: leads after %.1f s, works after %.1f s; %s", what, leads, works, reader.answers.describe())
    logger.info("%s", reader.answers.failed)
    return FailOver(leads, works, reader.answers)


def test_a_frozen_leader_is_replaced_and_begins_anew_when_it_wakes(two_operators: World) -> None:
    world = two_operators
    leader = world.read_leader()
    starts = world.count_restarts(leader)
    try:
        seen = watch_fail_over(world, leader, lambda: send(leader, signal.SIGSTOP), "frozen")
    finally:
        send(leader, signal.SIGCONT)
    assert seen.works_after_seconds < LEADING_SECONDS
    assert seen.answers.longest_gap_seconds < AUTOSCALER_SECONDS
    assert world.read_leader() != leader
    wait_until(
        lambda: world.count_restarts(leader), lambda seen: seen == starts + 1, "it ends, having lost its lease", 60
    )
    world.wait_for_ready(FIXED, "True")


@pytest.mark.nightly
def test_the_leader_is_lost_with_its_node(two_operators: World) -> None:
    world = two_operators
    leader = world.read_leader()
    node = world.list_operators()[leader]
    try:
        seen = watch_fail_over(world, leader, lambda: world.use_node("kill", node), "node lost")
    finally:
        world.use_node("restart", node)
    assert seen.works_after_seconds < LEADING_SECONDS
    assert seen.answers.longest_gap_seconds < AUTOSCALER_SECONDS


@pytest.mark.nightly
def test_a_killed_leader_is_back_or_replaced(two_operators: World) -> None:
    """Its container is started again under the same name, and takes its own lease at once."""
    world = two_operators
    leader = world.read_leader()
    number = 3 - world.read_number()
    with MetricsReader(world.cluster, world.find_metric()) as reader:
        wait_until(lambda: reader.answers.asked, lambda asked: asked > 5, "metrics are read", 30)
        began = time.monotonic()
        send(leader, signal.SIGKILL)
        world.change_number(number)
        wait_until(world.read_number, lambda seen: seen == number, "somebody works", 60)
        works = time.monotonic() - began
        wait_until(lambda: time.monotonic() - began, lambda age: age > AFTERWARDS_SECONDS, "time passes", 60)
    logger.info("killed: works after %.1f s, by %s; %s", works, world.read_leader(), reader.answers.describe())
    logger.info("%s", reader.answers.failed)
    assert works < LEADING_SECONDS
    assert reader.answers.longest_gap_seconds < AUTOSCALER_SECONDS
