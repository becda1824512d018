"""Roll-outs by canary as the judge sees them: jobs fall on pods by chance, and it looks every few jobs."""

from bisect import bisect_left
from dataclasses import dataclass, replace
from random import Random

from easel_contract.metrics import WORKER_BUCKETS_SECONDS
from easel_contract.resource import CanarySpec
from easel_operator.decide.rollouts.judge import Conclusion, Figures, Judgement, judge

JOBS_A_LOOK = 20
KINDS_SECONDS = (1.2, 4.0, 4.0, 11.0)  # medians: a small image, most, a large one
SPREAD = 0.25  # of a kind's logarithm


@dataclass(frozen=True)
class Revision:
    """How a revision's workers do."""

    failures: float = 0.01  # of all jobs
    slowness: float = 1.0  # times as long


def add_job(figures: Figures, revision: Revision, random: Random) -> Figures:
    """One more job."""
    if random.random() < revision.failures:
        return replace(figures, jobs=figures.jobs + 1, failures=figures.failures + 1)
    seconds = random.choice(KINDS_SECONDS) * random.lognormvariate(0, SPREAD) * revision.slowness
    durations = list(figures.durations)
    durations[bisect_left(WORKER_BUCKETS_SECONDS, seconds)] += 1
    return replace(figures, jobs=figures.jobs + 1, durations=tuple(durations))


def roll_out(canary: Revision, stable: Revision, *, seed: int, workers: int = 10, terms: CanarySpec) -> Judgement:
    """The last judgement of a whole roll-out: passed, or failed in some step."""
    random, judged = Random(seed), Judgement(Conclusion.WAIT, "")  # noqa: S311 - guards nothing
    for percent in terms.steps:
        share = max(1, round(workers * percent / 100)) / workers
        figures = [Figures(), Figures()]
        judged = Judgement(Conclusion.WAIT, "")
        while judged.conclusion is Conclusion.WAIT:
            for _ in range(JOBS_A_LOOK):
                side = 0 if random.random() < share else 1
                figures[side] = add_job(figures[side], (canary, stable)[side], random)
            judged = judge(figures[0], figures[1], terms, is_time_up=False)
        if judged.conclusion is Conclusion.FAIL:
            return judged
    return judged


def count_failed(canary: Revision, stable: Revision, *, runs: int, workers: int = 10, first_seed: int = 0) -> int:
    """How many of so many roll-outs with the default terms failed."""
    seeds = range(first_seed, first_seed + runs)
    ends = [roll_out(canary, stable, seed=seed, workers=workers, terms=CanarySpec()) for seed in seeds]
    return sum(end.conclusion is Conclusion.FAIL for end in ends)
