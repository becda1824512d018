"""What a fault cost is read off what customers saw, and nothing of the fault before or after is counted with it."""

from collections import Counter

import pytest

from chaos.observations import Observations
from chaos.plan import FaultKind
from chaos.recovery import Injected, find_costs


def steady(begin: float, end: float, a_second: int = 4) -> list[float]:
    return [begin + step / a_second for step in range(int((end - begin) * a_second))]


def fault(began: float) -> Injected:
    return Injected(FaultKind.REDIS_KILLED, "easel-redis-0", began, began + 1)


def test_an_outage_is_measured_from_the_fault_until_jobs_come_as_before() -> None:
    observations = Observations(finished_at=[*steady(0, 102), *steady(120, 300)])
    observations.refused_at = Counter({(101, "503 with Retry-After"): 3, (119, "no answer"): 1, (250, "429"): 9})
    cost, later = find_costs([fault(100), fault(240)], observations, 300)
    assert cost.next_success_seconds == pytest.approx(0)
    assert cost.longest_gap_seconds == pytest.approx(18.25)
    assert cost.back_after_seconds == pytest.approx(22, abs=1)  # half of a window of five seconds after the first ones
    assert cost.answers == {"503 with Retry-After": 3, "no answer": 1}
    assert later.back_after_seconds == 0
    assert later.longest_gap_seconds == pytest.approx(0.25)
    assert later.answers == {"429": 9}


def test_a_single_job_that_slips_through_is_no_return() -> None:
    observations = Observations(finished_at=[*steady(0, 100), 105.0, 110.0, *steady(130, 200)])
    (cost,) = find_costs([fault(100)], observations, 200)
    assert cost.next_success_seconds == pytest.approx(5)
    assert cost.back_after_seconds == pytest.approx(32, abs=1)


def test_a_service_that_never_comes_back_is_away_until_the_next_fault() -> None:
    observations = Observations(finished_at=steady(0, 100))
    (cost,) = find_costs([fault(100)], observations, 160)
    assert cost.next_success_seconds == cost.longest_gap_seconds == 60
    assert cost.back_after_seconds == pytest.approx(60, abs=1)


def test_what_was_written_is_read_again() -> None:
    observations = Observations(finished_at=[1.5], latencies_seconds=[0.5])
    observations.note_answer(3.7, "200")
    observations.note_answer(3.9, "503 with Retry-After")
    assert Observations.from_record(observations.to_record()) == observations
    assert observations.refused_at == {(3, "503 with Retry-After"): 1}
