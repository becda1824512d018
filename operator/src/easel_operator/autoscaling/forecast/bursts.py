"""Bursts that recur: much work at one moment of the hour, the day or the week, such as a scheduled batch.

A rate doesn't show them: two hundred jobs within a second are a mean rate that stands for no moment of its minute. So
what comes at once is watched as a *burst*: work that the pods which the load before it keeps busy wouldn't do within
the target (a leaky bucket that those pods drain). For each burst it is asked whether one came at the same moment of the
hour, the day and the week before, within TOLERANCE_SECONDS. One that comes again and again is a *recurrence*.

How sure that is, is a sequential probability ratio test: each time that it comes adds the logarithm of how much
likelier that is of a recurrence (RECURS) than by chance (from the mean rate of the bursts that nothing explains), each
time that it doesn't come takes away likewise. Recurrences are used from PROVED on. What they gather beyond that is
bounded, so that a recurrence that ends is used for MAX_MISSES more times at most.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Final

from easel_operator.autoscaling.headroom import pods_for
from easel_operator.autoscaling.work import MovingRate

HOUR_SECONDS: Final = 3600.0
DAY_SECONDS: Final = 24 * HOUR_SECONDS
WEEK_SECONDS: Final = 7 * DAY_SECONDS
# By period: how many recurrences are remembered, proved or not.
REMEMBERED: Final = {HOUR_SECONDS: 12, DAY_SECONDS: 24, WEEK_SECONDS: 32}
PERIOD_NAMES: Final = {HOUR_SECONDS: "hours", DAY_SECONDS: "days", WEEK_SECONDS: "weeks"}
TOLERANCE_SECONDS: Final = 60.0
LEAST_LEFT: Final = 1e-9
RECURS: Final = 0.8  # how often a recurrence comes, at least
PROVED: Final = math.log(500.0)  # and more, the more recurrences of a period are being watched
MAX_MISSES: Final = 3
MISSED: Final = math.log(1.0 - RECURS)  # by chance alone a burst would have failed to come anyway
NEWEST_WEIGHT: Final = 0.4
EXPLAINED_RATIO: Final = 2.0  # a burst that is larger than this of what was expected is one of its own
BASE_SECONDS: Final = 300.0  # time constant of the load that a burst comes on top of
CHANCE_SECONDS: Final = 2 * DAY_SECONDS  # of the mean rate of bursts
QUIET_COLD_STARTS: Final = 3.0  # without any work: no pod is left then
MIN_QUIET_SECONDS: Final = 300.0
PRESENT_MARGIN: Final = 1.0  # headroom of the pods that are taken to be there
MAX_TICK_SECONDS: Final = 60.0  # of a longer one nobody knows when within it a burst came
# A tick of some seconds is one that came late, of a service that was seen idle before: what is new came just now.
SHORT_TICK_SECONDS: Final = 2.0
LONG_TICK_SECONDS: Final = 10.0
LEAST_DEVIATION_SECONDS: Final = 2.0
PAUSE_SECONDS: Final = 4.0 * TOLERANCE_SECONDS  # from one burst to the next: load that stays is none


@dataclass(frozen=True, slots=True)
class Burst:
    """Work that came at once."""

    at: float  # Unix time of its first work
    gpu_seconds: float  # within a target of it, beyond what came before


@dataclass(frozen=True, slots=True)
class Recurrence:
    """A burst that may come again a period later."""

    period_seconds: float
    due_at: float  # Unix time of the next one
    gpu_seconds: float
    spread_gpu_seconds: float  # mean deviation of that
    deviation_seconds: float  # mean deviation of its moment
    score: float = 0.0  # logarithm of how much likelier a recurrence is than chance
    share: float = 1.0  # of the times that it was due, lately, how often it came

    @property
    def early_seconds(self) -> float:
        """How long before or after its usual moment it may come."""
        return min(TOLERANCE_SECONDS, LEAST_DEVIATION_SECONDS + 2.0 * self.deviation_seconds)

    def hit(self, burst: Burst, chance: float, most: float) -> "Recurrence":
        """It came, once more."""
        off = burst.at - self.due_at
        gpu_seconds = min(burst.gpu_seconds, EXPLAINED_RATIO * self.gpu_seconds)
        is_first = self.score == 0.0
        weight = 0.5 if is_first else NEWEST_WEIGHT
        return replace(
            self,
            due_at=self.due_at + self.period_seconds + weight * off,
            gpu_seconds=self.gpu_seconds + weight * (gpu_seconds - self.gpu_seconds),
            spread_gpu_seconds=_move(self.spread_gpu_seconds, abs(gpu_seconds - self.gpu_seconds)),
            deviation_seconds=abs(off) if is_first else _move(self.deviation_seconds, abs(off)),
            score=min(most, self.score + math.log(RECURS / chance)),
            share=_move(self.share, 1.0),
        )

    def miss(self) -> "Recurrence":
        """It was due and didn't come."""
        score, share = self.score + MISSED, _move(self.share, 0.0)
        return replace(self, due_at=self.due_at + self.period_seconds, score=score, share=share)


@dataclass(frozen=True, slots=True)
class Bucket:
    """What the pods that the load before keeps busy have left undone, and since when."""

    gpu_seconds: float = 0.0
    began_at: float = 0.0
    base: float = 0.0  # the rate then
    arrived_gpu_seconds: float = 0.0  # since then
    is_burst: bool = False


@dataclass(frozen=True, slots=True)
class Bursts:
    """What is remembered of a service's bursts. At most sum(REMEMBERED.values()) recurrences, soonest first."""

    watched_since: float = math.inf  # Unix time from which on nothing was missed
    seen_at: float = -math.inf
    worked_at: float = -math.inf
    paused_until: float = -math.inf
    base: MovingRate = field(default_factory=lambda: MovingRate(BASE_SECONDS))
    unexplained: MovingRate = field(default_factory=lambda: MovingRate(CHANCE_SECONDS))  # bursts a second
    bucket: Bucket = field(default_factory=Bucket)
    recurrences: tuple[Recurrence, ...] = ()

    def watch(
        self, gpu_seconds: float, seconds: float, at: float, target_seconds: float, quiet_seconds: float
    ) -> "Bursts":
        """With what arrived within the last ``seconds`` until ``at``.

        ``quiet_seconds``: without work for so long, no pod is left that would do the next.
        """
        is_gap = seconds > MAX_TICK_SECONDS or abs(at - seconds - self.seen_at) > 1.0
        bursts = self._miss_a_while(at) if is_gap else replace(self, seen_at=at)
        bursts = bursts._judge_missed(at, target_seconds)
        if not is_gap and at >= self.paused_until:
            bursts = bursts._fill(gpu_seconds, seconds, at, target_seconds, quiet_seconds)
        return replace(
            bursts,
            base=bursts.base.add(gpu_seconds, seconds),
            unexplained=bursts.unexplained.add(0.0, seconds),
            worked_at=at if gpu_seconds > 0 else bursts.worked_at,
        )

    def count_present_pods(self, at: float, quiet_seconds: float) -> float:
        """Pods that the load of late keeps, headroom included; 0 after a longer silence."""
        if at - self.worked_at > quiet_seconds:
            return 0.0
        return float(max(1, pods_for(self.base.per_second, PRESENT_MARGIN, 0)))

    def is_proved(self, recurrence: Recurrence) -> bool:
        """Whether it is used."""
        return recurrence.score >= self._find_proved(recurrence.period_seconds)

    def _find_proved(self, period_seconds: float) -> float:
        """What is asked of one of many is more, as one of many comes about by chance the sooner."""
        return PROVED + math.log(max(1, sum(each.period_seconds == period_seconds for each in self.recurrences)))

    def _find_chance(self, period_seconds: float) -> float:
        """How likely a burst falls into a recurrence's time by chance."""
        rate = max(self.unexplained.per_second, 1.0 / period_seconds)
        return min(RECURS / 2, 1.0 - math.exp(-2.0 * TOLERANCE_SECONDS * rate))

    def _miss_a_while(self, at: float) -> "Bursts":
        """Nobody watched, or the clock was set: what was due meanwhile neither came nor failed to come."""
        moved = [replace(each, due_at=_find_next(each, at)) for each in self.recurrences]
        return replace(
            self,
            seen_at=at,
            watched_since=at,
            worked_at=min(self.worked_at, at),
            paused_until=min(self.paused_until, at + PAUSE_SECONDS),
            bucket=Bucket(),
            recurrences=_bound(moved),
        )

    def _fill(
        self, gpu_seconds: float, seconds: float, at: float, target_seconds: float, quiet_seconds: float
    ) -> "Bursts":
        pods, bucket = self.count_present_pods(at, quiet_seconds), self.bucket
        left = bucket.gpu_seconds + gpu_seconds - pods * seconds
        if left <= 0 and not bucket.is_burst:
            return replace(self, bucket=Bucket()) if bucket.gpu_seconds else self
        if not bucket.gpu_seconds:
            came_seconds_ago = seconds if seconds > LONG_TICK_SECONDS else min(seconds, SHORT_TICK_SECONDS)
            bucket = Bucket(began_at=at - came_seconds_ago / 2, base=self.base.per_second)
        bucket = replace(
            bucket,
            gpu_seconds=max(left, LEAST_LEFT),
            arrived_gpu_seconds=bucket.arrived_gpu_seconds + gpu_seconds,
            is_burst=bucket.is_burst or left > pods * target_seconds,
        )
        if at - bucket.began_at < target_seconds:
            return replace(self, bucket=bucket)
        ended = replace(self, bucket=Bucket())
        if not bucket.is_burst:
            return ended
        came = bucket.arrived_gpu_seconds - bucket.base * (at - bucket.began_at)
        paused_until = max(at, bucket.began_at + PAUSE_SECONDS)
        return replace(ended, paused_until=paused_until)._learn(Burst(bucket.began_at, max(came, LEAST_LEFT)))

    def _learn(self, burst: Burst) -> "Bursts":
        """A burst is over: it may be one of a recurrence, and may begin others."""
        known, recurrences, is_explained = self.recurrences, list(self.recurrences), False
        for period_seconds in REMEMBERED:
            if is_explained:
                break
            of_period = [each for each in known if each.period_seconds == period_seconds]
            nearest = min(of_period, key=lambda each: abs(each.due_at - burst.at), default=None)
            if nearest is None or abs(nearest.due_at - burst.at) > TOLERANCE_SECONDS:
                spread = 0.1 * burst.gpu_seconds
                recurrences.append(
                    Recurrence(period_seconds, burst.at + period_seconds, burst.gpu_seconds, spread, 5.0)
                )
                continue
            is_explained = self.is_proved(nearest) and burst.gpu_seconds <= EXPLAINED_RATIO * nearest.gpu_seconds
            most = self._find_proved(period_seconds) - (MAX_MISSES - 0.1) * MISSED
            recurrences[recurrences.index(nearest)] = nearest.hit(burst, self._find_chance(period_seconds), most)
        unexplained = (
            self.unexplained
            if is_explained
            else replace(self.unexplained, weighted=self.unexplained.weighted + 1.0 / CHANCE_SECONDS)
        )
        return replace(self, recurrences=_bound(recurrences), unexplained=unexplained)

    def _judge_missed(self, at: float, target_seconds: float) -> "Bursts":
        """Those that were due and didn't come, where nothing of that time went unseen."""
        late_seconds = TOLERANCE_SECONDS + target_seconds + MAX_TICK_SECONDS
        if not self.recurrences or self.recurrences[0].due_at + late_seconds >= at:
            return self
        judged = []
        for each in self.recurrences:
            if each.due_at + late_seconds >= at:
                judged.append(each)
            elif self.watched_since > each.due_at - TOLERANCE_SECONDS:
                judged.append(replace(each, due_at=_find_next(each, at)))
            elif (missed := each.miss()).score >= 0:
                judged.append(missed)
        return replace(self, recurrences=_bound(judged))


def _find_next(recurrence: Recurrence, at: float) -> float:
    """Its next moment that isn't over at ``at``, wherever the clock was before."""
    periods = math.ceil((at - TOLERANCE_SECONDS - recurrence.due_at) / recurrence.period_seconds)
    return recurrence.due_at + periods * recurrence.period_seconds


def _bound(recurrences: list[Recurrence]) -> tuple[Recurrence, ...]:
    """The best of each period, the larger of those of which nothing is known; soonest first."""
    kept: list[Recurrence] = []
    for period_seconds, most in REMEMBERED.items():
        of_period = [each for each in recurrences if each.period_seconds == period_seconds]
        of_period.sort(key=lambda each: (each.score, each.gpu_seconds), reverse=True)
        kept += of_period[:most]
    return tuple(sorted(kept, key=lambda each: each.due_at))


def _move(known: float, newest: float) -> float:
    return known + NEWEST_WEIGHT * (newest - known)
