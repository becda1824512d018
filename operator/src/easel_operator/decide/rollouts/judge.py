"""Whether a new revision of workers does worse than the stable one beside it, by what both did at the same time.

Both pull from one queue, so they get the same kind of jobs, and what is wrong with requests is wrong with both. Two
things are compared: the share of jobs that fail, and the time that a job takes from claimed to done (waiting in the
queue is nobody's fault). Each is held against the revision only if it is worse by more than the spec allows, *and* if
two equal revisions would hardly differ as much by chance, by Fisher's exact test.
https://en.wikipedia.org/wiki/Fisher%27s_exact_test

Where one of both ended nothing there is nothing to compare, and time alone promotes no revision that looks broken: one
that ended no job while the stable one ended many goes on being looked at (it may have come up late, or hang), and one
most of whose jobs failed has failed.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from easel_contract.metrics import WORKER_BUCKETS_SECONDS
from easel_contract.resource import CanaryFigures, CanarySpec

from easel_operator.autoscaling.counters import Buckets, estimate_quantile

QUANTILE: Final = 0.95
PERCENT: Final = 100
# How seldom equal revisions differ so much: at the end of a step, and at each of the many looks before, after which a
# revision that is clearly broken needn't go on. What both cost in false alarms is simulated in the tests.
CHANCE_AT_END: Final = 1e-3
CHANCE_BEFORE: Final = 1e-5
MIN_STABLE_JOBS: Final = 20  # a quantile of fewer says nothing
MIN_JOBS_ALONE: Final = 20  # of a new revision that is judged without a stable one


@dataclass(frozen=True)
class Figures:
    """What the workers of one revision did in a step."""

    jobs: int = 0  # that succeeded, or failed on them
    failures: int = 0  # of these, whether they ended so or are tried once more
    durations: tuple[int, ...] = (0,) * (len(WORKER_BUCKETS_SECONDS) + 1)  # succeeded jobs, by bucket; the last: longer

    @property
    def timed(self) -> int:
        """Jobs whose duration is known."""
        return sum(self.durations)

    @property
    def p95_seconds(self) -> float | None:
        """Claimed to done, of jobs that succeeded; None without any."""
        return estimate_quantile(_cumulate(self.durations), QUANTILE)

    def count_longer(self, bucket: int) -> int:
        """Jobs that took longer than the upper bound of a bucket."""
        return sum(self.durations[bucket + 1 :])

    def to_status(self) -> CanaryFigures:
        """On the wire; what lies beyond the last bucket with jobs is left out."""
        seconds = self.p95_seconds
        filled = max((number for number, jobs in enumerate(self.durations, 1) if jobs), default=0)
        return CanaryFigures(
            jobs=self.jobs,
            failures=self.failures,
            p95_seconds=None if seconds is None else round(seconds, 2),
            durations=self.durations[:filled],
        )


def recall_figures(stored: CanaryFigures) -> Figures:
    """What a status has."""
    room = len(WORKER_BUCKETS_SECONDS) + 1
    return Figures(stored.jobs, stored.failures, (*stored.durations, *(0,) * room)[:room])


class Conclusion(StrEnum):
    """What follows for a step."""

    WAIT = "Wait"
    PASS = "Pass"  # noqa: S105 - no password
    FAIL = "Fail"


@dataclass(frozen=True)
class Judgement:
    """A conclusion, and the figures that it was found by, in a sentence without its full stop."""

    conclusion: Conclusion
    said: str


def judge(canary: Figures, stable: Figures, terms: CanarySpec, *, is_time_up: bool) -> Judgement:
    """What the figures of a step say so far.

    Args:
        canary: of the new revision.
        stable: of the one that serves beside it, in the same time.
        terms: what a step needs, and how much worse the new one may be.
        is_time_up: whether the step ends, by however many jobs.
    """
    is_enough = canary.jobs >= terms.min_jobs and stable.jobs >= MIN_STABLE_JOBS
    is_end = is_enough or is_time_up
    chance = CHANCE_AT_END if is_end else CHANCE_BEFORE
    said = describe(canary, stable)
    faults = [
        *_find_more_failures(canary, stable, terms.max_failure_increase_percent, chance),
        *_find_longer_jobs(canary, stable, terms.max_p95_increase_percent, chance),
    ]
    if is_time_up and not stable.jobs and canary.jobs >= MIN_JOBS_ALONE and 2 * canary.failures > canary.jobs:
        faults = ["most jobs fail, and the stable revision has ended none to compare them with"]
    if faults:
        return Judgement(Conclusion.FAIL, f"{' and '.join(faults)}: {said}")
    if not canary.jobs and stable.jobs >= MIN_STABLE_JOBS:
        is_end = False
    return Judgement(Conclusion.PASS if is_end else Conclusion.WAIT, said)


def describe(canary: Figures, stable: Figures) -> str:
    """Both revisions' figures."""
    said = f"{_say_failures(canary)} failed on the new revision, {_say_failures(stable)} on the stable one beside it"
    seconds = [figures.p95_seconds for figures in (canary, stable)]
    times = ["unknown" if each is None else f"{each:.2f} s" for each in seconds]
    return f"{said}; p95 from claimed to done {times[0]} and {times[1]}"


def _say_failures(figures: Figures) -> str:
    share = f" ({PERCENT * figures.failures / figures.jobs:.1f} %)" if figures.jobs else ""
    return f"{figures.failures} of {figures.jobs} jobs{share}"


def _find_more_failures(canary: Figures, stable: Figures, allowed_percent: int, chance: float) -> list[str]:
    if not canary.jobs or not stable.jobs:
        return []
    increase = PERCENT * (canary.failures / canary.jobs - stable.failures / stable.jobs)
    if increase <= allowed_percent:
        return []
    luck = chance_of_at_least(canary.failures, canary.jobs, stable.failures, stable.jobs)
    if luck >= chance:
        return []
    return [f"jobs fail more often by {increase:.1f} points of 100 ({allowed_percent} are allowed)"]


def _find_longer_jobs(canary: Figures, stable: Figures, allowed_percent: int, chance: float) -> list[str]:
    """By how many jobs took longer than allowed: the stable revision has one in twenty beyond its own quantile, and
    hardly one beyond that and a half."""
    theirs, ours = stable.p95_seconds, canary.p95_seconds
    if theirs is None or ours is None or stable.timed < MIN_STABLE_JOBS:
        return []
    limit_seconds = theirs * (1 + allowed_percent / PERCENT)
    if ours <= limit_seconds:
        return []
    bucket = bisect_right(WORKER_BUCKETS_SECONDS, limit_seconds) - 1  # the last that ends within it
    luck = chance_of_at_least(canary.count_longer(bucket), canary.timed, stable.count_longer(bucket), stable.timed)
    if luck >= chance:
        return []
    increase = PERCENT * (ours / theirs - 1) if theirs else math.inf
    return [f"jobs take longer by {increase:.0f} % ({allowed_percent} % are allowed)"]


def chance_of_at_least(hits: int, sample: int, others_hits: int, others: int) -> float:
    """How likely it is that at least ``hits`` of all hits fall on ``sample`` of the jobs, if it makes no difference on
    which: the upper tail of the hypergeometric distribution, in one pass over the hits."""
    total = hits + others_hits
    most = min(sample, total)
    term = math.exp(_log_choose(sample, hits) + _log_choose(others, total - hits) - _log_choose(sample + others, total))
    tail = 0.0
    for number in range(hits, most + 1):
        tail += term
        left = others - total + number + 1
        term *= (sample - number) * (total - number) / ((number + 1) * left) if left > 0 else 0.0
    return min(1.0, tail)


def _log_choose(of: int, some: int) -> float:
    return math.lgamma(of + 1) - math.lgamma(some + 1) - math.lgamma(of - some + 1)


def _cumulate(durations: tuple[int, ...]) -> Buckets:
    found, below = {}, 0
    for bound, jobs in zip((*WORKER_BUCKETS_SECONDS, math.inf), durations, strict=True):
        below += jobs
        found[bound] = float(below)
    return found
