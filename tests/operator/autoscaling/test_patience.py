"""How long pods are kept without need of them."""

from datetime import timedelta

import pytest
from easel_operator.autoscaling.cold_starts import recall_cold_starts
from easel_operator.autoscaling.lateness import LatenessBudget
from easel_operator.autoscaling.patience import Patience, find_patience

from tests.operator.autoscaling.support import build_settings

UNSET = {"scale_down_after_seconds": None, "scale_to_zero_after_seconds": None}
COLD_STARTS = recall_cold_starts([100.0] * 5)


def find(budget: LatenessBudget, **values: int | None) -> Patience:
    return find_patience(COLD_STARTS, budget, build_settings(**{**UNSET, **values}))


def test_without_lateness_pods_are_kept_for_a_part_of_a_cold_start() -> None:
    assert find(LatenessBudget()) == Patience(timedelta(seconds=20), timedelta(seconds=300))


def test_late_jobs_of_late_keep_pods_longer_and_those_of_long_ago_only_the_last_one() -> None:
    calm, now, long_ago = LatenessBudget(), LatenessBudget(recent=1.0), LatenessBudget(lasting=1.0)
    assert find(now).hold > 5 * find(calm).hold
    assert find(long_ago).hold == find(calm).hold
    assert find(now).zero == find(long_ago).zero > find(calm).zero


def test_pods_are_not_kept_for_ever() -> None:
    worst = LatenessBudget(lasting=8.0, recent=3.0)
    assert find(worst) == Patience(timedelta(seconds=400), timedelta(seconds=1000))


@pytest.mark.parametrize("budget", [LatenessBudget(), LatenessBudget(lasting=8.0, recent=3.0)])
def test_what_the_user_sets_is_kept(budget: LatenessBudget) -> None:
    patience = find(budget, scale_down_after_seconds=300, scale_to_zero_after_seconds=900)
    assert patience == Patience(timedelta(seconds=300), timedelta(seconds=900))


def test_a_service_that_starts_at_once_still_keeps_its_pods_for_some_seconds() -> None:
    quick = find_patience(recall_cold_starts([1.0] * 5), LatenessBudget(), build_settings(**UNSET))
    assert quick == Patience(timedelta(seconds=10), timedelta(seconds=10))
