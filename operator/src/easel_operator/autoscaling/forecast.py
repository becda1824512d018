"""What will arrive while a pod that is ordered now gets ready; believed only once it proved better than the present.

Each minute, every candidate says what the rate of work will be a cold start later. When that time has come, what was
said is judged by the pinball loss at PUNISHED_QUANTILE (too little is worse than too much, as for pods), and so is what
the planner would have gone by anyway: the present rate. A candidate is used while its loss over the last hours is
lower by GAIN at least. On load that can't be foreseen none is, and the forecast asks for nothing.

- trend: the rate goes on as it changed over the last TREND_MINUTES.
- day: the mean of the same time on earlier days, scaled to today's level.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

from easel_operator.autoscaling.headroom import ErrorBudget
from easel_operator.autoscaling.proposal import Proposal
from easel_operator.autoscaling.work import Arrivals

NO_MINUTE: Final = -1
STEP: Final = timedelta(minutes=1)
STEP_SECONDS: Final = STEP.total_seconds()
TREND_MINUTES: Final = 10
MAX_GROWTH: Final = 2.0  # of the present rate, that a trend may foresee
SLOT_MINUTES: Final = 10
SLOTS: Final = 24 * 60 // SLOT_MINUTES
NEWEST_DAY_WEIGHT: Final = 0.4
LEVEL_MINUTES: Final = 60
LEVEL_RANGE: Final = (0.5, 2.0)  # today against earlier days
MAX_LEAD_MINUTES: Final = 30
PUNISHED_QUANTILE: Final = 0.8
GAIN: Final = 0.1
MEMORY_MINUTES: Final = 720.0
MIN_JUDGED_MINUTES: Final = 60.0  # of memory, with work in them or foreseen
PRESENT: Final = "present"
TREND: Final = "trend"
DAY: Final = "day"
NAMES: Final[Mapping[str, str]] = {TREND: "its trend", DAY: "the same time of earlier days"}


@dataclass(frozen=True, slots=True)
class Said:
    """What the candidates said of a minute."""

    minute: int
    rates: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Mean losses of all candidates over what was judged lately."""

    minutes: float = 0.0
    losses: Mapping[str, float] = field(default_factory=dict)  # sums, fading

    def add(self, rates: Mapping[str, float], actual: float) -> "Judgement":
        """With one more minute that has come. Where nothing came and nothing was said, nothing was learned."""
        if actual <= 0 and not any(rates.values()):
            return self
        kept = math.exp(-1.0 / MEMORY_MINUTES)
        losses = {name: kept * self.losses.get(name, 0.0) + _measure_loss(said, actual) for name, said in rates.items()}
        return Judgement(kept * self.minutes + 1.0, losses)

    def find_best(self) -> str | None:
        """The candidate that is better than the present by GAIN; None if none is, or too little was judged."""
        if self.minutes < MIN_JUDGED_MINUTES:
            return None
        best = min(self.losses, key=lambda name: self.losses[name])
        is_better = self.losses[best] < (1.0 - GAIN) * self.losses.get(PRESENT, 0.0)
        return best if best != PRESENT and is_better else None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is remembered: the minutes of the last hour, a mean day, and what was said of minutes to come."""

    minute: int = NO_MINUTE  # since the epoch, of the one that is being filled
    filling_gpu_seconds: float = 0.0
    filling_seconds: float = 0.0
    recent: tuple[float, ...] = ()  # rates of the last full minutes, oldest first; the last one is minute - 1
    day: tuple[float | None, ...] = (None,) * SLOTS  # mean rate by time of day in UTC
    said: tuple[Said, ...] = ()
    judgement: Judgement = field(default_factory=Judgement)

    def watch(self, arrivals: Arrivals, now: datetime, lead_seconds: float) -> "Forecast":
        """With one more tick. Minutes of which too little was seen are unknown: they are neither judged nor learned."""
        minute = int(now.timestamp() // STEP_SECONDS)
        forecast = self if minute == self.minute else self._turn(minute, arrivals, now, lead_seconds)
        if arrivals.arrived_gpu_seconds is None:
            return forecast
        return replace(
            forecast,
            filling_gpu_seconds=forecast.filling_gpu_seconds + arrivals.arrived_gpu_seconds,
            filling_seconds=forecast.filling_seconds + arrivals.arrived_seconds,
        )

    def predict(self, present: float, now: datetime, lead_seconds: float) -> dict[str, float]:
        """Rates that the candidates expect ``lead_seconds`` from now, in GPU-seconds a second."""
        lead = min(math.ceil(lead_seconds / STEP_SECONDS), MAX_LEAD_MINUTES)
        return {
            PRESENT: present,
            TREND: self._predict_by_trend(present, lead),
            DAY: self._predict_by_day(present, now, lead),
        }

    def _turn(self, minute: int, arrivals: Arrivals, now: datetime, lead_seconds: float) -> "Forecast":
        """The minute is over: learn and judge it, and say what the minute a lead from now will bring."""
        is_next, is_seen = minute == self.minute + 1, self.filling_seconds >= STEP_SECONDS / 2
        turned = replace(self, minute=minute, filling_gpu_seconds=0.0, filling_seconds=0.0)
        if not (is_next and is_seen):
            return replace(turned, recent=(), said=())
        rate = self.filling_gpu_seconds / self.filling_seconds
        judgement = self.judgement
        for said in self.said:
            if said.minute == self.minute:
                judgement = judgement.add(said.rates, rate)
        turned = replace(
            turned,
            recent=(*self.recent, rate)[-LEVEL_MINUTES:],
            day=self._learn_day(rate),
            judgement=judgement,
        )
        lead = min(math.ceil(lead_seconds / STEP_SECONDS), MAX_LEAD_MINUTES)
        rates = turned.predict(arrivals.gpu_seconds_per_second, now, lead_seconds)
        pending = tuple(said for said in self.said if said.minute > self.minute)
        return replace(turned, said=(*pending, Said(minute + lead, rates))[-MAX_LEAD_MINUTES - 1 :])

    def _learn_day(self, rate: float) -> tuple[float | None, ...]:
        """A slot's minutes share the weight of a day, so that one busy minute doesn't stand for all days."""
        slot = _slot_of(self.minute)
        known = self.day[slot]
        weight = 1.0 - (1.0 - NEWEST_DAY_WEIGHT) ** (1.0 / SLOT_MINUTES)
        learned = rate if known is None else known + weight * (rate - known)
        return (*self.day[:slot], learned, *self.day[slot + 1 :])

    def _predict_by_trend(self, present: float, lead: int) -> float:
        rates = self.recent[-TREND_MINUTES:]
        if len(rates) < TREND_MINUTES:
            return present
        change = sum(after - before for before, after in pairwise(_halves(rates))) / (TREND_MINUTES / 2)
        level = sum(rates[-TREND_MINUTES // 2 :]) / (TREND_MINUTES // 2)
        expected = level + change * (lead + TREND_MINUTES / 4)
        return min(max(0.0, expected), MAX_GROWTH * present)

    def _predict_by_day(self, present: float, now: datetime, lead: int) -> float:
        minute = int(now.timestamp() // STEP_SECONDS)
        expected = self.day[_slot_of(minute + lead)]
        usual = [self.day[_slot_of(minute - back)] for back in range(1, len(self.recent) + 1)]
        known = [each for each in usual if each is not None]
        if expected is None or len(known) < LEVEL_MINUTES or not sum(known):
            return present
        low, high = LEVEL_RANGE
        return expected * min(max(sum(self.recent) / sum(known), low), high)


def propose_for_forecast(
    forecast: Forecast, budget: ErrorBudget, held: int, arrivals: Arrivals, now: datetime, lead_seconds: float
) -> Proposal:
    """Pods for the work that a proven candidate expects a cold start from now; none without such a candidate."""
    best = forecast.judgement.find_best()
    if best is None:
        return Proposal(0, "no forecast has proved better than the present")
    expected = forecast.predict(arrivals.gpu_seconds_per_second, now, lead_seconds)[best]
    at = (now + timedelta(seconds=lead_seconds)).astimezone(UTC)
    return Proposal(
        budget.pods_for(expected, held), f"{expected:.2g} busy pods expected at {at:%H:%M} UTC by {NAMES[best]}"
    )


def _measure_loss(said: float, actual: float) -> float:
    missing = actual - said
    return PUNISHED_QUANTILE * missing if missing > 0 else (PUNISHED_QUANTILE - 1.0) * missing


def _slot_of(minute: int) -> int:
    return minute // SLOT_MINUTES % SLOTS


def _halves(rates: tuple[float, ...]) -> tuple[float, float]:
    half = len(rates) // 2
    return sum(rates[:half]) / half, sum(rates[half:]) / (len(rates) - half)
