"""The rate of work a cold start from now; believed only once it proved better than the present one.

Each minute, every candidate says what the rate of work will be a cold start later. When that time has come, what was
said is judged by the pinball loss at PUNISHED_QUANTILE (too little is worse than too much, as for pods), and so is what
the planner would have gone by anyway: the present rate. A candidate is used while its loss over the last hours is
lower by GAIN at least, and lower than the mean of the last hour's as well: where the rate is chance, any mean is better
than the present, and says nothing of a moment. On load that can't be foreseen none is used, and nothing is asked for.

- trend: the rate goes on as it changed over the last TREND_MINUTES.
- hour, day, week: the mean of the same minute of earlier hours, or ten minutes of earlier days or weeks, scaled to
  today's level.
"""

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

NO_MINUTE: Final = -1
STEP_SECONDS: Final = 60.0
TREND_MINUTES: Final = 10
MAX_GROWTH: Final = 2.0  # of the present rate, that a trend may foresee
LEVEL_MINUTES: Final = 60
MAX_MISSED_MINUTES: Final = 3  # that are taken to have been as the one before
LEVEL_RANGE: Final = (0.5, 2.0)  # today against earlier days
MAX_LEAD_MINUTES: Final = 30
PUNISHED_QUANTILE: Final = 0.8
GAIN: Final = 0.1
MEMORY_MINUTES: Final = 720.0
MIN_JUDGED_MINUTES: Final = 60.0  # of memory, with work in them or foreseen
UNKNOWN: Final = -1.0  # of a slot
PRESENT: Final = "present"
MEAN: Final = "mean"
TREND: Final = "trend"
HOUR: Final = "hour"
DAY: Final = "day"
WEEK: Final = "week"
NAMES: Final[Mapping[str, str]] = {
    TREND: "its trend",
    HOUR: "the same minute of earlier hours",
    DAY: "the same time of earlier days",
    WEEK: "the same time of earlier weeks",
}


@dataclass(frozen=True, slots=True)
class Profile:
    """The mean rate by the time within a period: 4 bytes a slot. The array is never changed, only replaced."""

    slot_minutes: int
    newest_weight: float  # of the newest period; a slot's minutes share it, so that one of them doesn't stand for all
    rates: "array[float]"

    def learn(self, minute: int, rate: float) -> "Profile":
        """With one more minute, counted since the epoch."""
        slot = self._slot_of(minute)
        known = self.rates[slot]
        weight = 1.0 - (1.0 - self.newest_weight) ** (1.0 / self.slot_minutes)
        rates = self.rates[:]
        rates[slot] = rate if known == UNKNOWN else known + weight * (rate - known)
        return replace(self, rates=rates)

    def predict(self, minute: int, lead: int, recent: tuple[float, ...], present: float) -> float:
        """The rate ``lead`` minutes after ``minute``; the present one while too little is known."""
        expected = self.rates[self._slot_of(minute + lead)]
        if expected == UNKNOWN or len(recent) < LEVEL_MINUTES:
            return present
        usual = [self.rates[self._slot_of(minute - back)] for back in range(1, len(recent) + 1)]
        total = sum(usual)
        if min(usual) == UNKNOWN or not total:
            return present
        low, high = LEVEL_RANGE
        return expected * min(max(sum(recent) / total, low), high)

    def _slot_of(self, minute: int) -> int:
        return minute // self.slot_minutes % len(self.rates)


def begin_profile(minutes: int, slot_minutes: int, newest_weight: float) -> Profile:
    """One of which nothing is known, for a period of ``minutes``."""
    return Profile(slot_minutes, newest_weight, array("f", [UNKNOWN]) * (minutes // slot_minutes))


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
        """The candidate that is better than what is known by GAIN; None if none is, or too little was judged."""
        if self.minutes < MIN_JUDGED_MINUTES:
            return None
        best = min(NAMES, key=lambda name: self.losses[name])
        known = min(self.losses[PRESENT], self.losses[MEAN])
        return best if self.losses[best] < (1.0 - GAIN) * known else None


@dataclass(frozen=True, slots=True)
class Rates:
    """What is remembered: the minutes of the last hour, a mean hour, day and week, and what was said of minutes to
    come."""

    minute: int = NO_MINUTE  # since the epoch, of the one that is being filled
    filling_gpu_seconds: float = 0.0
    filling_seconds: float = 0.0
    recent: tuple[float, ...] = ()  # rates of the last full minutes, oldest first; the last one is minute - 1
    hour: Profile = field(default_factory=lambda: begin_profile(60, 1, 0.3))
    day: Profile = field(default_factory=lambda: begin_profile(24 * 60, 10, 0.4))
    week: Profile = field(default_factory=lambda: begin_profile(7 * 24 * 60, 10, 0.5))
    said: tuple[Said, ...] = ()
    judgement: Judgement = field(default_factory=Judgement)

    def watch(self, gpu_seconds: float, seconds: float, present: float, at: float, lead_seconds: float) -> "Rates":
        """With what arrived within the last ``seconds`` until ``at``, a Unix time.

        Minutes of which too little was seen are unknown: they are neither judged nor learned.
        """
        minute = int(at // STEP_SECONDS)
        rates = self if minute == self.minute else self._turn(minute, present, lead_seconds)
        return replace(
            rates,
            filling_gpu_seconds=rates.filling_gpu_seconds + gpu_seconds,
            filling_seconds=rates.filling_seconds + seconds,
        )

    def predict(self, name: str, present: float, minute: int, lead_seconds: float) -> float:
        """The rate that a candidate expects ``lead_seconds`` after ``minute``, in GPU-seconds a second."""
        lead = min(math.ceil(lead_seconds / STEP_SECONDS), MAX_LEAD_MINUTES)
        if name == TREND:
            return self._predict_by_trend(present, lead)
        profile = {HOUR: self.hour, DAY: self.day, WEEK: self.week}[name]
        return profile.predict(minute, lead, self.recent, present)

    def _turn(self, minute: int, present: float, lead_seconds: float) -> "Rates":
        """The minute is over: learn and judge it, and say what the minute a lead from now will bring."""
        missed = minute - self.minute - 1
        is_known = 0 <= missed <= MAX_MISSED_MINUTES and self.filling_seconds >= STEP_SECONDS / 2
        turned = replace(self, minute=minute, filling_gpu_seconds=0.0, filling_seconds=0.0)
        if not is_known:
            return replace(turned, recent=(), said=())
        rate = self.filling_gpu_seconds / self.filling_seconds
        judgement = self.judgement
        for said in self.said:
            if said.minute == self.minute:
                judgement = judgement.add(said.rates, rate)
        turned = replace(
            turned,
            recent=(*self.recent, rate, *[rate] * missed)[-LEVEL_MINUTES:],
            hour=self.hour.learn(self.minute, rate),
            day=self.day.learn(self.minute, rate),
            week=self.week.learn(self.minute, rate),
            judgement=judgement,
        )
        lead = min(math.ceil(lead_seconds / STEP_SECONDS), MAX_LEAD_MINUTES)
        rates = {name: turned.predict(name, present, minute, lead_seconds) for name in NAMES}
        rates |= {PRESENT: present, MEAN: sum(turned.recent) / len(turned.recent)}
        pending = tuple(said for said in self.said if said.minute >= minute)
        return replace(turned, said=(*pending, Said(minute + lead, rates))[-MAX_LEAD_MINUTES - 1 :])

    def _predict_by_trend(self, present: float, lead: int) -> float:
        rates = self.recent[-TREND_MINUTES:]
        if len(rates) < TREND_MINUTES:
            return present
        change = sum(after - before for before, after in pairwise(_halves(rates))) / (TREND_MINUTES / 2)
        level = sum(rates[-TREND_MINUTES // 2 :]) / (TREND_MINUTES // 2)
        expected = level + change * (lead + TREND_MINUTES / 4)
        return min(max(0.0, expected), MAX_GROWTH * present)


def _measure_loss(said: float, actual: float) -> float:
    missing = actual - said
    return PUNISHED_QUANTILE * missing if missing > 0 else (PUNISHED_QUANTILE - 1.0) * missing


def _halves(rates: tuple[float, ...]) -> tuple[float, float]:
    half = len(rates) // 2
    return sum(rates[:half]) / half, sum(rates[half:]) / (len(rates) - half)
