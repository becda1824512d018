"""A run follows from its form, seed and length, does everything at least once, and leaves each fault its time."""

from itertools import pairwise

import pytest

from chaos.plan import FORMS, QUIET_SECONDS, FaultKind, plan_run


def test_the_same_seed_makes_the_same_plan() -> None:
    assert plan_run(FORMS["long"], 7, 5000) == plan_run(FORMS["long"], 7, 5000)
    assert plan_run(FORMS["long"], 7, 5000) != plan_run(FORMS["long"], 8, 5000)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("jobs", [100, 20_000])
def test_each_fault_comes_and_has_its_time_before_the_next(form, jobs: int) -> None:
    plan = plan_run(form, 1, jobs)
    assert {fault.kind for fault in plan.faults} == set(form.kinds)
    for earlier, later in pairwise(plan.faults):
        assert later.at_seconds - earlier.at_seconds == pytest.approx(form.span(earlier.kind), abs=0.2)
    assert plan.faults[0].at_seconds >= form.lead
    assert plan.faults[-1].at_seconds + form.span(plan.faults[-1].kind) <= plan.seconds - form.lead + 0.2


def test_requests_come_steadily_but_for_the_quiet_before_a_burst() -> None:
    plan = plan_run(FORMS["long"], 3, 40_000)
    assert len(plan.arrivals) == len(plan.jobs) == 40_000
    assert list(plan.arrivals) == sorted(plan.arrivals)
    assert plan.arrivals[-1] <= plan.seconds
    for fault in plan.faults:
        if fault.kind is FaultKind.BURST:
            burst = fault.at_seconds + QUIET_SECONDS
            assert not any(fault.at_seconds < moment < burst for moment in plan.arrivals)
            assert plan.arrivals.count(burst) == FORMS["long"].burst_jobs


def test_a_run_of_a_hundred_thousand_jobs_takes_an_hour_and_more() -> None:
    assert plan_run(FORMS["long"], 1, 100_000).seconds > 3600


def test_a_part_of_the_faults_is_chosen_by_parts_of_their_names() -> None:
    kinds = FORMS["long"].select("drained|Redis killed").kinds
    assert set(kinds) == {FaultKind.NODE_DRAINED, FaultKind.REDIS_KILLED}
    assert FORMS["long"].select("").kinds == FORMS["long"].kinds
