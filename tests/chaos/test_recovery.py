"""What a fault cost is read off what customers saw, and nothing of the fault before or after is counted with it."""

from collections import Counter

import pytest

from chaos.observations import Observations
from chaos.plan import QUIET_SECONDS, FaultKind
from chaos.recovery import Injected, find_costs


def steady(begin: float, end: float, a_second: int = 4) -> list[float]:
    return [begin + step / a_second for step in range(int((end - begin) * a_second))]


def fault(began: float) -> Injected:
    return Injected(FaultKind.REDIS_KILLED, "easel-redis-0", began, began + 1)


def test_an_outage_is_measured_from_the_fault_until_nothing_is_left_of_it() -> None:
    arrivals = steady(0, 300)
    late = [120 + step / 8 for step in range(160)]  # twice as fast as requests come, until all is made up for
    observations = Observations(finished_at=[*steady(0, 101), *late, *steady(140, 300)])
    observations.refused_at = Counter({(101, "503 with Retry-After"): 3, (119, "no answer"): 1, (250, "429"): 9})
    cost, later = find_costs([fault(100), fault(240)], observations, arrivals)
    assert cost.next_success_seconds == pytest.approx(0)
    assert cost.longest_gap_seconds == pytest.approx(19.25)
    assert cost.back_after_seconds == pytest.approx(38, abs=1.5)
    assert cost.answers == {"503 with Retry-After": 3, "no answer": 1}
    assert later.back_after_seconds == 0
    assert later.longest_gap_seconds == pytest.approx(0.25)
    assert later.answers == {"429": 9}


def test_a_single_job_that_slips_through_is_no_return() -> None:
    observations = Observations(finished_at=[*steady(0, 100), 105.0, 110.0])
    (cost,) = find_costs([fault(100)], observations, steady(0, 160))
    assert cost.next_success_seconds == pytest.approx(5)
    assert cost.longest_gap_seconds == pytest.approx(50, abs=0.5)
    assert cost.back_after_seconds == pytest.approx(60, abs=1), "it never came back"


def test_a_burst_counts_from_its_first_request_not_from_the_quiet_before() -> None:
    quiet = Injected(FaultKind.BURST, "chaos", 100.0, 200.0)
    burst = 100.0 + QUIET_SECONDS
    arrivals = [*steady(0, 100), *[burst] * 40, *steady(burst, 400)]
    finished = [*steady(0, 100), *[burst + 3 + step / 8 for step in range(80)], *steady(burst + 10, 400)]
    (cost,) = find_costs([quiet], Observations(finished_at=finished), arrivals)
    assert cost.next_success_seconds == pytest.approx(3)
    assert 8 <= cost.back_after_seconds <= 14


def test_what_was_written_is_read_again() -> None:
    observations = Observations(finished_at=[1.5], latencies_seconds=[0.5])
    observations.note_answer(3.7, "200")
    observations.note_answer(3.9, "503 with Retry-After")
    assert Observations.from_record(observations.to_record()) == observations
    assert observations.refused_at == {(3, "503 with Retry-After"): 1}
