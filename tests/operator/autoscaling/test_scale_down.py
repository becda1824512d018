"""How long pods are kept without need of them."""

from datetime import timedelta

import pytest
from easel_operator.autoscaling.cold_starts import recall_cold_starts
from easel_operator.autoscaling.headroom import ErrorBudget
from easel_operator.autoscaling.scale_down import ScaleDownDelay, find_scale_down_delay

from tests.operator.autoscaling.support import build_settings

UNSET = {"scale_down_after_seconds": None, "scale_to_zero_after_seconds": None}
COLD_STARTS = recall_cold_starts([100.0] * 5)


def find(budget: ErrorBudget, **values: int | None) -> ScaleDownDelay:
    return find_scale_down_delay(COLD_STARTS, budget, build_settings(**{**UNSET, **values}))


def test_without_lateness_pods_are_kept_for_a_part_of_a_cold_start() -> None:
    assert find(ErrorBudget()) == ScaleDownDelay(timedelta(seconds=20), timedelta(seconds=300))


def test_late_jobs_of_late_keep_pods_longer_and_those_of_long_ago_only_the_last_one() -> None:
    calm, now, long_ago = ErrorBudget(), ErrorBudget(recent=1.0), ErrorBudget(lasting=1.0)
    assert find(now).pod > 5 * find(calm).pod
    assert find(long_ago).pod == find(calm).pod
    assert find(now).last_pod == find(long_ago).last_pod > find(calm).last_pod


def test_pods_are_not_kept_for_ever() -> None:
    worst = ErrorBudget(lasting=8.0, recent=3.0)
    assert find(worst) == ScaleDownDelay(timedelta(seconds=400), timedelta(seconds=1000))


@pytest.mark.parametrize("budget", [ErrorBudget(), ErrorBudget(lasting=8.0, recent=3.0)])
def test_what_the_user_sets_is_kept(budget: ErrorBudget) -> None:
    delay = find(budget, scale_down_after_seconds=300, scale_to_zero_after_seconds=900)
    assert delay == ScaleDownDelay(timedelta(seconds=300), timedelta(seconds=900))


def test_a_service_that_starts_at_once_still_keeps_its_pods_for_some_seconds() -> None:
    quick = find_scale_down_delay(recall_cold_starts([1.0] * 5), ErrorBudget(), build_settings(**UNSET))
    assert quick == ScaleDownDelay(timedelta(seconds=10), timedelta(seconds=10))
