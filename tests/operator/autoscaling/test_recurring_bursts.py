"""Bursts that come at the same moment of the hour, the day or the week are foreseen; others ask for nothing."""

import pickle
import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from easel_contract.resource import ScalingSpec
from easel_operator.autoscaling.forecast.bursts import MAX_MISSES, REMEMBERED
from easel_operator.autoscaling.forecast.forecast import Forecast, ForecastInput, propose_for_forecast
from easel_operator.autoscaling.proposal import Proposal
from easel_operator.autoscaling.work import Arrivals, JobLength
from easel_operator.autoscaling.workers import StartUp

TICK, COARSE = 5.0, 20.0
HOUR, DAY, WEEK = 3600.0, 86400.0, 7 * 86400.0
COLD_START, SLOW_START, TARGET, JOB = 90.0, 100.0, 30, 5.0
BEGIN = datetime(2026, 11, 2, tzinfo=UTC)  # a Monday
BATCH = 1000.0  # GPU-seconds


class Watched:
    """A service whose work arrives as given, and what the forecast asked for, tick by tick."""

    def __init__(self, tick: float = TICK, **scaling: int) -> None:
        self.forecast, self.seconds, self.tick = Forecast(), 0.0, tick
        self.scaling = ScalingSpec.model_validate({"max_replicas": 100, "target_latency_seconds": TARGET, **scaling})
        self.asked: list[tuple[float, int]] = []  # second, pods; where any

    def run(self, until: float, work: Iterable[tuple[float, float]] = (), *, blind: bool = False) -> "Watched":
        """``work``: second and GPU-seconds, from now on. Blind: the operator doesn't look until then."""
        if blind:
            self.seconds = until - self.tick
        due = sorted(work, reverse=True)
        while self.seconds < until:
            self.seconds += self.tick
            arrived = 0.0
            while due and due[-1][0] <= self.seconds:
                arrived += due.pop()[1]
            arrivals = build_arrivals(arrived, self.tick)
            self.forecast = self.forecast.watch(arrivals, self.now, COLD_START, TARGET)
            pods = self.propose().passing
            if pods:
                self.asked.append((self.seconds, pods))
        return self

    @property
    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self.seconds)

    def propose(self) -> Proposal:
        given = ForecastInput(
            self.now, StartUp(COLD_START, 600.0, SLOW_START), build_arrivals(0.0, self.tick), self.scaling
        )
        return propose_for_forecast(self.forecast, 0.0, 0, given)

    def find_asked(self, since: float, until: float) -> list[tuple[float, int]]:
        """What it asked for then: second after ``since``, pods."""
        return [(at - since, pods) for at, pods in self.asked if since <= at < until]


def build_arrivals(work: float, tick: float) -> Arrivals:
    return Arrivals(job=JobLength(100.0, 100.0 * JOB), arrived_gpu_seconds=work, arrived_seconds=tick)


def repeat(period: float, since: float, until: float, work: float = BATCH) -> list[tuple[float, float]]:
    return [(since + number * period, work) for number in range(int((until - since) // period) + 1)]


def foresees(watched: Watched, at: float) -> bool:
    """Whether enough pods were asked for a slow start before the burst at that second, and until it."""
    asked = dict(watched.find_asked(at, at + 1) + [(second - at, pods) for second, pods in watched.asked])
    times = [watched.tick * number for number in range(-int(SLOW_START // watched.tick), 0)]
    return all(asked.get(second, 0) >= BATCH / TARGET for second in times)


def test_a_batch_at_each_full_hour_is_foreseen_within_half_a_day() -> None:
    watched = Watched().run(12 * HOUR, repeat(HOUR, HOUR, 12 * HOUR))
    assert foresees(watched, 12 * HOUR)
    assert not watched.find_asked(0.0, 3 * HOUR), "nothing is asked before it came again and again"
    asked = watched.find_asked(11 * HOUR, 12 * HOUR)
    assert all(second > HOUR - SLOW_START - 60 or second < 30 for second, _ in asked), "and nothing between the hours"
    assert max(pods for _, pods in asked) < 2 * BATCH / TARGET


def test_a_batch_every_ten_minutes_is_foreseen_within_a_day() -> None:
    watched = Watched(COARSE).run(DAY, repeat(600.0, 600.0, DAY))
    assert foresees(watched, DAY)


def test_a_burst_at_nine_each_day_is_foreseen_on_the_third() -> None:
    watched = Watched(COARSE).run(2 * DAY + 9 * HOUR, repeat(DAY, 9 * HOUR, 3 * DAY))
    assert foresees(watched, 2 * DAY + 9 * HOUR)
    assert not watched.find_asked(0.0, 2 * DAY)


def test_a_burst_of_one_hour_of_the_week_is_foreseen_in_the_third() -> None:
    watched = Watched(COARSE).run(2 * WEEK + 33 * HOUR, repeat(WEEK, 33 * HOUR, 3 * WEEK))
    assert foresees(watched, 2 * WEEK + 33 * HOUR)
    assert not watched.find_asked(0.0, 2 * WEEK), "and on no other day"


def test_a_burst_of_working_days_is_foreseen_on_monday_too() -> None:
    work = [(at, size) for at, size in repeat(DAY, 9 * HOUR, 2 * WEEK) if at % WEEK < 5 * DAY]
    watched = Watched(COARSE).run(WEEK + 9 * HOUR, work)
    assert foresees(watched, WEEK + 9 * HOUR)


def test_a_large_daily_batch_among_small_hourly_ones_gets_pods_of_its_own_size() -> None:
    work = repeat(HOUR, HOUR, 5 * DAY, BATCH / 5) + repeat(DAY, 9 * HOUR, 5 * DAY, BATCH)
    watched = Watched().run(4 * DAY + 10 * HOUR, work)
    assert foresees(watched, 4 * DAY + 9 * HOUR)
    hourly = watched.find_asked(4 * DAY + 9 * HOUR + 600, 4 * DAY + 10 * HOUR)
    assert hourly
    assert max(pods for _, pods in hourly) < BATCH / TARGET


@pytest.mark.parametrize("seed", range(3))
def test_bursts_that_come_by_chance_ask_for_next_to_nothing(seed: int) -> None:
    source = random.Random(seed)  # noqa: S311 - replayed by its seed
    at, work = 0.0, []
    while (at := at + source.expovariate(1 / 1200)) < 5 * DAY:
        work.append((at, BATCH * source.uniform(0.1, 1.0)))
    watched = Watched(COARSE).run(5 * DAY, work)
    asked_seconds = COARSE * len(watched.asked)
    assert asked_seconds < 0.002 * 5 * DAY


@pytest.mark.parametrize("seed", range(3))
def test_requests_one_by_one_ask_for_nothing(seed: int) -> None:
    source = random.Random(seed)  # noqa: S311 - replayed by its seed
    for rate in (1 / 3600, 1 / 300, 0.2, 2.0):
        at, work = 0.0, []
        while (at := at + source.expovariate(rate)) < DAY:
            work.append((at, JOB * source.uniform(0.5, 1.5)))
        assert Watched(COARSE).run(DAY, work).asked == [], rate


@pytest.mark.parametrize("period", [HOUR, DAY])
def test_a_batch_that_comes_no_more_is_waited_for_three_times_at_most(period: float) -> None:
    watched = Watched(COARSE).run(20 * period, repeat(period, period, 12 * period))
    waited = {round(at / period) for at, _ in watched.asked if at > 12.5 * period}
    assert 1 <= len(waited) <= MAX_MISSES


def test_pods_for_a_burst_that_does_not_come_go_within_seconds_of_its_moment() -> None:
    watched = Watched().run(13 * HOUR + 600, repeat(HOUR, HOUR, 12 * HOUR))
    asked = [second for second, _ in watched.find_asked(12 * HOUR + 600, 14 * HOUR)]
    assert min(asked) < HOUR - 600 - SLOW_START
    assert HOUR - 600 - TICK <= max(asked) <= HOUR - 600 + 4 * TICK


def test_a_batch_that_comes_now_sooner_now_later_is_waited_for_from_its_earliest_to_its_latest() -> None:
    source = random.Random(7)  # noqa: S311 - replayed by its seed
    work = [(at + source.uniform(-20, 20), size) for at, size in repeat(HOUR, HOUR, 30 * HOUR)]
    watched = Watched().run(30 * HOUR - 30, work)
    asked = [second for second, _ in watched.find_asked(29 * HOUR + 600, 30 * HOUR)]
    assert min(asked) <= HOUR - 600 - SLOW_START - 20


def test_no_pods_are_asked_for_where_a_late_request_less_costs_more_than_is_allowed() -> None:
    work = repeat(HOUR, HOUR, 12 * HOUR)
    assert foresees(Watched(max_gpu_seconds_per_late_request=40).run(12 * HOUR, work), 12 * HOUR)
    assert Watched(max_gpu_seconds_per_late_request=15).run(12 * HOUR, work).asked == []


def test_while_the_operator_is_away_a_batch_neither_comes_nor_fails_to_come() -> None:
    watched = Watched().run(12 * HOUR + 600, repeat(HOUR, HOUR, 12 * HOUR))
    scores = {each.score for each in watched.forecast.bursts.recurrences}
    watched.run(30 * HOUR + 600, blind=True)
    assert {each.score for each in watched.forecast.bursts.recurrences} == scores
    watched.run(31 * HOUR, [(31 * HOUR, BATCH)])
    assert foresees(watched, 31 * HOUR)


def test_a_clock_that_is_set_back_or_forward_loses_no_recurrence() -> None:
    watched = Watched().run(12 * HOUR + 600, repeat(HOUR, HOUR, 12 * HOUR))
    for second in (9 * HOUR + 600, 900 * DAY + 600, 600.0):
        watched.seconds, watched.asked = second, []
        watched.run(second + HOUR)
        assert foresees(watched, second + HOUR - 600), second


def test_load_that_rises_and_stays_is_one_burst_and_no_series_of_them() -> None:
    watched = Watched().run(2 * HOUR, [(HOUR + TICK * number, 8.0 * TICK) for number in range(720)])
    assert len({each.due_at % HOUR for each in watched.forecast.bursts.recurrences}) == 1


def test_what_comes_on_top_of_steady_load_asks_for_pods_beside_those_of_the_load() -> None:
    steady = [(TICK * number, 4.0 * TICK) for number in range(int(12 * HOUR // TICK))]
    watched = Watched().run(12 * HOUR, steady + repeat(HOUR, HOUR, 12 * HOUR))
    asked = watched.find_asked(11 * HOUR + 600, 12 * HOUR)
    assert BATCH / TARGET + 4 <= max(pods for _, pods in asked) < 2 * BATCH / TARGET


def test_what_is_remembered_stays_small_whatever_comes() -> None:
    source = random.Random(1)  # noqa: S311 - replayed by its seed
    work = [(source.uniform(0, 10 * DAY), source.uniform(1, 2 * BATCH)) for _ in range(3000)]
    watched = Watched(COARSE).run(10 * DAY, work)
    assert len(watched.forecast.bursts.recurrences) <= sum(REMEMBERED.values())
    assert len(pickle.dumps(watched.forecast)) < 16_000, "a thousand services are 16 MB"


def test_the_sentence_says_when_how_much_and_why() -> None:
    watched = Watched().run(12 * HOUR - 60, repeat(HOUR, HOUR, 12 * HOUR))
    proposal = watched.propose()
    assert proposal.because == "1000 GPU-seconds expected at 12:00 UTC, as at this time of earlier hours"
    assert replace(proposal, because="") == Proposal(0, "", passing=proposal.passing)
