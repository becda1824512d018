"""Head-room for lateness: learned from late jobs, bounded, and steady where the rate is."""

import pytest
from easel_operator.autoscaling.headroom import MAX_HEADROOM, ErrorBudget

from tests.operator.autoscaling.support import build_growth


def learn(budget: ErrorBudget, *, finished: float, late: float, ticks: int = 1) -> ErrorBudget:
    for _ in range(ticks):
        budget = budget.learn(build_growth(finished, late), 30, 2.0)
    return budget


def test_more_late_jobs_than_the_budget_raise_the_margin_and_fewer_lower_it() -> None:
    late = learn(ErrorBudget(), finished=10, late=2, ticks=200)
    assert late.headroom > 0.2
    assert learn(late, finished=10, late=0, ticks=200).headroom < late.headroom


def test_a_share_of_late_jobs_within_the_budget_asks_for_nothing() -> None:
    assert learn(ErrorBudget(), finished=100, late=4, ticks=500).headroom == 0


def test_the_margin_is_bounded() -> None:
    assert learn(ErrorBudget(), finished=1000, late=1000, ticks=100).headroom == MAX_HEADROOM


def test_what_was_late_a_while_ago_is_forgotten_in_part() -> None:
    late = learn(ErrorBudget(), finished=10, late=2, ticks=200)
    later = ErrorBudget.learn(late, build_growth(0.0), 30, 7200.0)
    assert late.recent > 0.2 > later.recent
    assert later.lasting == late.lasting


def test_a_service_with_few_jobs_learns_in_larger_steps() -> None:
    rare = ErrorBudget()
    for _ in range(100):
        rare = learn(rare, finished=1, late=1)
        rare = learn(rare, finished=0, late=0, ticks=50)
    assert rare.headroom > learn(ErrorBudget(), finished=10, late=10, ticks=10).headroom


def test_jobs_are_late_by_the_target_even_between_two_buckets() -> None:
    growth = build_growth(finished=100, late=50)  # between 30 and 60 s
    assert ErrorBudget().learn(growth, 45, 2.0).headroom < ErrorBudget().learn(growth, 35, 2.0).headroom


STAFF = {
    "nothing arrives": (0.0, 0.0, 0, 0),
    "hardly anything, and the last pod may go": (0.2, 0.0, 1, 0),
    "a pod's work": (1.0, 0.0, 0, 1),
    "a little more is no reason to order": (2.2, 0.0, 0, 2),
    "but one to keep what is there": (2.2, 0.0, 3, 3),
    "more than is needed isn't kept": (2.2, 0.0, 7, 3),
    "much more": (2.5, 0.0, 2, 3),
    "with headroom": (2.0, 2.0, 0, 5),
    "with headroom the last pod stays": (0.01, 2.0, 1, 1),
}


@pytest.mark.parametrize(("busy", "margin", "held", "expected"), STAFF.values(), ids=STAFF.keys())
def test_pods_for_the_work_that_arrives(busy: float, margin: float, held: int, expected: int) -> None:
    assert ErrorBudget(margin).pods_for(busy, held) == expected
