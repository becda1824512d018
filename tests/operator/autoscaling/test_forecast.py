"""The forecast asks for pods only where it has proved better than the present; on chance it stays silent."""

import math
import random
from collections.abc import Callable

from easel_contract.resource import ScalingSpec
from easel_operator.autoscaling.forecast.forecast import Forecast, ForecastInput, propose_for_forecast
from easel_operator.autoscaling.forecast.rates import DAY, TREND
from easel_operator.autoscaling.proposal import Proposal
from easel_operator.autoscaling.work import Arrivals
from easel_operator.autoscaling.workers import StartUp

from tests.operator.autoscaling.support import after, build_arrivals

TICK = 20.0
LEAD = 300.0
DAY_SECONDS = 86400.0


def watch(rate_at: Callable[[float], float], days: float, *, blind: bool = False) -> tuple[Forecast, Arrivals]:
    """The forecast after some days of a rate, in GPU-seconds a second, at a cold start of LEAD."""
    forecast, arrivals, seconds = Forecast(), build_arrivals(0.0), 0.0
    while seconds < days * DAY_SECONDS:
        seconds += TICK
        arrivals = build_arrivals(rate_at(seconds))
        reported = Arrivals(
            fast=arrivals.fast,
            slow=arrivals.slow,
            arrived_gpu_seconds=None if blind else rate_at(seconds) * TICK,
            arrived_seconds=TICK,
        )
        forecast = forecast.watch(reported, after(seconds), LEAD, 30.0)
    return forecast, arrivals


def propose(forecast: Forecast, held: int, arrivals: Arrivals, seconds: float) -> Proposal:
    given = ForecastInput(after(seconds), StartUp(LEAD, 900.0, LEAD), arrivals, ScalingSpec(max_replicas=50))
    return propose_for_forecast(forecast, 0.0, held, given)


def ramp(seconds: float) -> float:
    """Up and down by ten pods in twenty minutes."""
    return abs(seconds % 2400 - 1200) / 120


def morning(seconds: float) -> float:
    """Nothing, but for two hours a day that begin at once."""
    return 8.0 if 3 * 3600 <= seconds % DAY_SECONDS < 5 * 3600 else 0.5


def draw_minutes(source: random.Random) -> Callable[[float], float]:
    """Another rate each minute, by chance."""
    minutes = [source.expovariate(0.5) for _ in range(24 * 60 + 1)]
    return lambda seconds: minutes[int(seconds // 60)]


def test_a_steady_ramp_is_foreseen_by_its_trend() -> None:
    forecast, _ = watch(ramp, 0.5)
    assert forecast.rates.judgement.find_best() == TREND
    forecast, arrivals = watch(ramp, (18 * 2400 + 1200 + 700) / DAY_SECONDS)  # on the way up
    proposal = propose(forecast, 0, arrivals, 43900 + 1200)
    assert proposal.replicas > arrivals.gpu_seconds_per_second
    assert "busy pods expected" in proposal.because


def test_a_daily_peak_is_foreseen_from_earlier_days() -> None:
    forecast, _ = watch(morning, 4.2)
    assert forecast.rates.judgement.find_best() == DAY
    before = 4 * DAY_SECONDS + 3 * 3600 - 240
    forecast, arrivals = watch(morning, before / DAY_SECONDS)
    assert arrivals.gpu_seconds_per_second < 1
    assert propose(forecast, 1, arrivals, before).replicas >= 5


def test_chance_is_not_foreseen() -> None:
    for seed in range(3):
        source = random.Random(seed)  # noqa: S311 - replayed by its seed
        forecast, arrivals = watch(draw_minutes(source), 1)
        assert propose(forecast, 0, arrivals, DAY_SECONDS).replicas == 0, seed


def test_a_constant_rate_needs_no_forecast() -> None:
    forecast, arrivals = watch(lambda _: 3.0, 0.3)
    assert propose(forecast, 3, arrivals, 0.3 * DAY_SECONDS).replicas == 0


def test_minutes_that_nobody_saw_are_neither_learned_nor_judged() -> None:
    forecast, _ = watch(ramp, 0.2, blind=True)
    assert forecast.rates.recent == ()
    assert forecast.rates.judgement.minutes == 0
    assert forecast.rates.day == Forecast().rates.day


def test_a_clock_that_jumps_drops_what_was_said_and_goes_on() -> None:
    forecast, arrivals = watch(ramp, 0.1)
    for jump in (-DAY_SECONDS, DAY_SECONDS):
        jumped = forecast.watch(arrivals, after(0.1 * DAY_SECONDS + jump), LEAD, 30.0)
        assert jumped.rates.said == ()
        assert all(math.isfinite(loss) for loss in jumped.rates.judgement.losses.values())
