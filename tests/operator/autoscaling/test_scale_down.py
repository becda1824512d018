"""How long pods are kept without need of them."""

from datetime import timedelta

from easel_operator.autoscaling.cold_starts import recall_cold_starts
from easel_operator.autoscaling.replay.setting import Setting
from easel_operator.autoscaling.scale_down import ScaleDownDelay, find_scale_down_delay

from tests.operator.autoscaling.support import build_settings

UNSET = {"scale_down_after_seconds": None, "scale_to_zero_after_seconds": None}
SETTING = Setting(1.0, 0.5, 3.0)


def find(cold_start: float, **values: int | None) -> ScaleDownDelay:
    return find_scale_down_delay(recall_cold_starts([cold_start] * 5), SETTING, build_settings(**{**UNSET, **values}))


def test_pods_are_kept_for_as_many_cold_starts_as_the_setting_says() -> None:
    assert find(100.0) == ScaleDownDelay(timedelta(seconds=50), timedelta(seconds=300))


def test_what_the_user_sets_is_kept() -> None:
    delay = find(100.0, scale_down_after_seconds=300, scale_to_zero_after_seconds=900)
    assert delay == ScaleDownDelay(timedelta(seconds=300), timedelta(seconds=900))


def test_a_service_that_starts_at_once_still_keeps_its_pods_for_some_seconds() -> None:
    assert find(1.0) == ScaleDownDelay(timedelta(seconds=10), timedelta(seconds=10))
