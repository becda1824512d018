"""Which setting is taken, and what is said of it."""

from dataclasses import replace

import pytest
from easel_operator.autoscaling.explanation import advise, explain_choice
from easel_operator.autoscaling.replay.choice import AIM, Basis, Choice, Tally, choose, find_budget
from easel_operator.autoscaling.replay.setting import FIRST_SETTING, Setting, list_settings

from tests.operator.autoscaling.replay.support import build_scaling

PRICE = 270.0
LEAN, FAIR, RICH = Tally(1000, 90, 10_000), Tally(1000, 40, 15_000), Tally(1000, 5, 40_000)


def test_the_cheapest_that_keeps_the_budget_is_taken() -> None:
    assert choose([RICH, LEAN, FAIR], None, AIM, PRICE) == 2


def test_where_fewer_late_requests_cost_more_than_the_price_they_are_not_bought() -> None:
    costly = replace(FAIR, gpu_seconds=10_000 + 51 * PRICE)
    assert choose([LEAN, costly], None, AIM, PRICE) == 0
    assert choose([LEAN, costly], None, AIM, 2 * PRICE) == 1


def test_headroom_beyond_the_budget_is_never_bought_however_high_the_price() -> None:
    assert choose([FAIR, RICH], None, AIM, 1e9) == 0


def test_where_no_setting_keeps_the_budget_the_price_decides_how_late_it_gets() -> None:
    worse = Tally(1000, 400, 1000)
    assert choose([worse, LEAN], None, AIM, PRICE) == 1
    assert choose([worse, LEAN], None, AIM, 10.0) == 0


def test_a_setting_that_is_hardly_better_is_no_reason_to_change() -> None:
    assert choose([FAIR, replace(FAIR, gpu_seconds=14_700)], 0, AIM, PRICE) == 0
    assert choose([FAIR, replace(FAIR, gpu_seconds=13_500)], 0, AIM, PRICE) == 1
    assert choose([replace(FAIR, late=60), replace(FAIR, gpu_seconds=15_100)], 0, AIM, PRICE) == 1


def test_real_lateness_beyond_the_plan_is_paid_back_and_unused_budget_is_spent_within_bounds() -> None:
    assert find_budget(0.0, 1000.0) == AIM == find_budget(0.0, 0.0)
    assert AIM / 2 <= find_budget(10.0, 1000.0) < AIM < find_budget(-10.0, 1000.0) <= 1.6 * AIM
    assert find_budget(1000.0, 1000.0) == pytest.approx(AIM / 2)
    assert find_budget(-1000.0, 1000.0) == pytest.approx(1.6 * AIM)


CHOSEN = Choice(Setting(1.5, 0.2, 0.2), Basis.BUDGET, 58, 36 * 3600.0, 82_000.0, FAIR, 0.04, PRICE, FAIR)


def test_the_sentence_says_which_setting_and_why() -> None:
    assert explain_choice(CHOSEN) == "margin 1.5: the cheapest of 58 that kept 4 % late over the last 36 h"
    assert advise(CHOSEN, 90.0) == ""


def test_a_budget_that_costs_too_much_is_said_with_its_price_and_what_would_help() -> None:
    costly = replace(CHOSEN, basis=Basis.PRICE, tally=LEAN, keeping=RICH)
    assert explain_choice(costly) == (
        "margin 1.5: 9 % late over the last 36 h, since less of it would cost more than 270 GPU-seconds a request"
    )
    assert advise(costly, 90.0) == (
        "9 % of requests are late, more than 5 %. With fewer late ones 4 times the GPU time would be used, "
        "353 GPU-seconds for each late request less, and 270 are allowed. What helps: minReplicas where requests come "
        "by chance, a schedule where their times are known, or a shorter cold start (it takes 90 s); or to pay it, "
        "maxGpuSecondsPerLateRequest."
    )
    assert "no headroom that was tried keeps that" in advise(replace(costly, keeping=None), 90.0)


def test_what_the_user_sets_is_not_varied() -> None:
    all_of_them = len(list_settings(build_scaling()))
    assert 48 <= all_of_them <= 64
    kept = list_settings(build_scaling(scale_down_after_seconds=60))
    assert {each.hold_cold_starts for each in kept} == {FIRST_SETTING.hold_cold_starts}
    awake = list_settings(build_scaling(min_replicas=1))
    assert {each.last_pod_cold_starts for each in awake} == {FIRST_SETTING.last_pod_cold_starts}
    both = list_settings(build_scaling(scale_down_after_seconds=60, scale_to_zero_after_seconds=60))
    assert len(both) < len(kept) < all_of_them
