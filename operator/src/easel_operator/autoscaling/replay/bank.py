"""All shadow fleets of a service, fed with its arrivals as they come, and the choice among them.

Nothing of the arrivals is kept but what the shadows haven't seen yet: CHUNK_SECONDS or so. Then each shadow runs
through that chunk, a few at each tick, so that no tick takes long; and when all have, the setting is chosen anew. The
clock is the time that was seen: while there is no data, or nobody watches, the shadows stand still.

The bank is deterministic and changes in place: it would be expensive to copy.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from easel_contract.resource import ExecutionMode, ScalingSpec

from easel_operator.autoscaling.replay.choice import AIM, Basis, Choice, Tally, choose, find_budget, find_cheapest
from easel_operator.autoscaling.replay.setting import Setting, list_settings
from easel_operator.autoscaling.replay.shadow import Batch, Look, Shadow, Terms

LOOK_SECONDS: Final = 5.0  # between two decisions of a shadow
AUTOSCALER_SECONDS: Final = 15.0  # between those that are carried out
CHUNK_SECONDS: Final = 120.0
SPREAD_SECONDS: Final = 100.0  # over which the shadows' work on a chunk is spread
MAX_STEP_SECONDS: Final = 15.0  # of one load: what took longer wasn't watched
PIECE_SECONDS: Final = 4.0  # a load of a longer time is taken to have come evenly
CHOICE_SECONDS: Final = 600.0  # between two choices
MEMORY_SECONDS: Final = 36 * 3600.0
DEBT_MEMORY_SECONDS: Final = 7 * 86400.0
MIN_JOBS: Final = 30  # before anything is chosen
MIN_SEEN_SECONDS: Final = 3600.0  # likewise: all shadows are late in the beginning, whatever their setting
RECALLED_SECONDS: Final = 86400.0  # a recalled setting holds until so much was seen anew, or as much as it was based on
SHORT_JOB_TARGETS: Final = 0.05  # shorter jobs than this share of the target run in parcels
MAX_PARCELS: Final = 1200  # in a chunk, of each shadow: with more, pods take them in teams
PACE_PRIOR_SECONDS: Final = 900.0  # of pods that are as fast as predicted, before any was measured
PACE_MEMORY_SECONDS: Final = 36000.0  # of pods
PACE_RANGE: Final = (0.25, 2.0)
MIN_TEAMS: Final = 16  # of the most pods


@dataclass(frozen=True, slots=True)
class QueueState:
    """What waits and runs at the end of a load, to see how fast pods are."""

    ready: int  # pods
    waiting: int  # jobs
    gpu_seconds: float  # of all jobs that wait, and what is left of those that run


@dataclass(frozen=True, slots=True)
class Load:
    """What came and what was done between two looks at a service."""

    seconds: float
    jobs: float
    gpu_seconds: float  # of those jobs, each counted as one target at most
    busy_pods: float  # that the arrivals keep busy, as the planner measures it by now
    job_seconds: float  # mean of a job, likewise
    excess_gpu_seconds: float = 0.0  # of jobs that take longer than the target, beyond it
    floor: int = 0  # pods that the service has anyway
    queue: QueueState | None = None  # None: unknown
    finished: float = 0.0  # jobs, in fact
    late: float = 0.0  # of those


@dataclass(frozen=True, slots=True)
class Pace:
    """How many GPU-seconds a ready pod does in a second while work waits, in forgetful sums.

    Predictions of work may be wrong for all jobs alike, a worker takes a moment between two jobs, and one that works on
    several at a time is faster than the sum of them: shadows have to be as slow and as fast as the pods.
    """

    pod_seconds: float = PACE_PRIOR_SECONDS
    gpu_seconds: float = PACE_PRIOR_SECONDS

    def measure(self, before: QueueState, after: QueueState, load: Load) -> "Pace":
        """With one more load; the same pods were ready and work waited all the time, or it says nothing."""
        if before.ready != after.ready or not before.ready or not (before.waiting and after.waiting):
            return self
        done = before.gpu_seconds + load.gpu_seconds + load.excess_gpu_seconds - after.gpu_seconds
        kept = math.exp(-after.ready * load.seconds / PACE_MEMORY_SECONDS)
        return Pace(self.pod_seconds * kept + after.ready * load.seconds, max(0.0, self.gpu_seconds * kept + done))

    @property
    def seconds_per_gpu_second(self) -> float:
        """What a predicted GPU-second takes."""
        low, high = PACE_RANGE
        return min(max(self.pod_seconds / max(self.gpu_seconds, 1e-9), low), high)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a restart needs, to go on with what was chosen."""

    setting: Setting
    seen_seconds: float
    debt_jobs: float = 0.0  # late in fact, beyond what was aimed at
    debt_of_jobs: float = 0.0


class Bank:
    """The shadows of one service."""

    def __init__(self, scaling: ScalingSpec, cold_start_seconds: float, memory: Memory | None = None) -> None:
        self._terms = _build_terms(scaling, cold_start_seconds)
        self._now = self._chunk_began_at = self._looked_at = self._carried_out_at = 0.0
        self._batches: list[Batch] = []
        self._looks: list[Look] = []
        self._chunk: list[Look] = []  # what the shadows are running through
        self._ran = 0  # of the shadows, through the chunk
        self._team = 1
        self._unplaced_jobs = 0.0  # parts of a job
        self._chosen_at: float | None = None
        self._chunk_seconds = 0.0
        self._in_use = 0  # the setting in use when the chunk began to run
        self._in_fact: float | None = None  # share of late jobs in it; None: unknown
        self._replayed = 0.0, 0.0  # what its shadow had done, and how much of that late, before it ran
        self._debt_jobs = self._debt_of_jobs = 0.0
        self._pace = Pace()
        self._queue: QueueState | None = None
        self._begin(memory)
        if memory is not None:
            self._debt_jobs, self._debt_of_jobs = memory.debt_jobs, memory.debt_of_jobs

    @property
    def choice(self) -> Choice:
        """The setting to use now."""
        return self._choice

    @property
    def memory(self) -> Memory:
        """What to keep over a restart."""
        seen = min(MEMORY_SECONDS, max(self._seen_seconds, self._recalled_seconds))
        return Memory(self._choice.setting, seen, self._debt_jobs, self._debt_of_jobs)

    @property
    def pace(self) -> Pace:
        """How fast pods are."""
        return self._pace

    @property
    def steps(self) -> int:
        """Parcels and decisions of all shadows so far: the work that it took."""
        return sum(shadow.steps for shadow in self._shadows)

    @property
    def tallies(self) -> list[Tally]:
        """What each setting did."""
        return [Tally(each.done, each.late, each.gpu_seconds) for each in self._shadows]

    def follow(self, scaling: ScalingSpec, cold_start_seconds: float) -> None:
        """The service's terms from now on. Where others are tried or lateness is another, all begins anew, with the
        present setting."""
        before = self._terms
        if before.scaling is scaling and before.cold_start_seconds == cold_start_seconds:
            return
        self._terms = _build_terms(scaling, cold_start_seconds)
        is_same = (
            before.scaling.target_latency_seconds == scaling.target_latency_seconds
            and before.scaling.queue_order is scaling.queue_order
            and list_settings(before.scaling) == list_settings(scaling)
        )
        if not is_same:
            self._begin(Memory(self._choice.setting, 0.0))

    def watch(self, load: Load) -> None:
        """One tick. It takes in what came, and does a part of the work that is due."""
        if self._terms.scaling.mode is ExecutionMode.AUTOMATIC:
            self._learn_debt(load)
        before, self._queue = self._queue, load.queue
        if not 0.0 < load.seconds <= MAX_STEP_SECONDS:
            return
        if before is not None and load.queue is not None:
            self._pace = self._pace.measure(before, load.queue, load)
        self._place(load)
        self._now += load.seconds
        self._seen_seconds += load.seconds
        self._seen_jobs += load.jobs
        if self._now - self._looked_at >= LOOK_SECONDS - load.seconds / 2:
            self._look(load)
        if self._now - self._chunk_began_at >= CHUNK_SECONDS and not self._chunk:
            self._seal()
        if self._chunk:
            self._run()

    def _begin(self, memory: Memory | None) -> None:
        settings = list_settings(self._terms.scaling)
        self._fleet: list[Shadow] | None = None
        self._began_at, self._first_terms = self._now, self._terms
        self._seen_seconds = self._seen_jobs = 0.0
        self._recalled_seconds = 0.0 if memory is None else min(memory.seen_seconds, RECALLED_SECONDS)
        self._chunk, self._looks, self._ran, self._team = [], [], 0, 1
        self._late_jobs = self._finished_jobs = 0.0  # in fact, since the chunk before began to run
        self._chunk_began_at = self._looked_at = self._now
        present = Choice().setting if memory is None else memory.setting
        self._present = _find_nearest(settings, present)
        self._choice = Choice(present, Basis.FIRST if memory is None else Basis.RECALLED, len(settings))

    @property
    def _shadows(self) -> list[Shadow]:
        """Made when there is something for them to run through: a service without pods needs none."""
        if self._fleet is None:
            terms = self._first_terms
            pods, settings = terms.scaling.min_replicas, list_settings(terms.scaling)
            self._fleet = [Shadow(setting, terms, pods, self._began_at) for setting in settings]
        return self._fleet

    def _learn_debt(self, load: Load) -> None:
        kept = math.exp(-max(0.0, load.seconds) / DEBT_MEMORY_SECONDS)
        self._debt_jobs = self._debt_jobs * kept + load.late - AIM * load.finished
        self._debt_of_jobs = self._debt_of_jobs * kept + load.finished
        self._late_jobs += load.late
        self._finished_jobs += load.finished

    def _place(self, load: Load) -> None:
        """Batches of what came. Parts of a job wait for their other parts."""
        self._unplaced_jobs += load.jobs
        jobs = math.floor(self._unplaced_jobs + 1e-6)
        self._unplaced_jobs -= jobs
        if jobs <= 0:
            return
        job_seconds = load.gpu_seconds / load.jobs if load.jobs > 0 else load.job_seconds
        pace = self._pace.seconds_per_gpu_second
        pieces = min(jobs, math.ceil(load.seconds / PIECE_SECONDS))
        for piece in range(pieces):
            count = jobs * (piece + 1) // pieces - jobs * piece // pieces
            at = self._now + load.seconds * (piece + 0.5) / pieces
            excess = load.excess_gpu_seconds if piece == 0 else 0.0
            if excess > 0.0:
                self._batches.append(Batch(at, 1, (job_seconds + excess) * pace, 1.0, job_seconds))
                count -= 1
            if count > 0:
                self._batches.append(_build_batch(at, count, job_seconds, pace, self._terms.target_seconds))

    def _look(self, load: Load) -> None:
        is_carried_out = self._now - self._carried_out_at >= AUTOSCALER_SECONDS - LOOK_SECONDS / 2
        self._looks.append(
            Look(self._now, self._batches, load.busy_pods, max(load.job_seconds, 1e-3), load.floor, is_carried_out)
        )
        self._batches, self._looked_at = [], self._now
        if is_carried_out:
            self._carried_out_at = self._now

    def _seal(self) -> None:
        parcels = sum(batch.parcels for look in self._looks for batch in look.batches)
        most = max(1, self._terms.scaling.max_replicas // MIN_TEAMS)
        team = max(1, self._team // 2)
        while team * MAX_PARCELS < parcels and 2 * team <= most:
            team *= 2
        if team != self._team:
            self._team = team
            for shadow in self._shadows:
                shadow.regroup(team)
        self._chunk = [_group(look, team) for look in self._looks] if team > 1 else self._looks
        self._looks, self._ran = [], 0
        self._in_fact = self._late_jobs / self._finished_jobs if self._finished_jobs > 0 else None
        self._late_jobs = self._finished_jobs = 0.0
        self._in_use = self._present
        self._chunk_seconds, self._chunk_began_at = self._now - self._chunk_began_at, self._now
        for shadow in self._shadows:
            shadow.follow(self._terms)

    def _run(self) -> None:
        """As many shadows as are due by now; and when the last one has run, choose."""
        due = math.ceil(len(self._shadows) * min(1.0, (self._now - self._chunk_began_at) / SPREAD_SECONDS))
        kept = math.exp(-self._chunk_seconds / MEMORY_SECONDS)
        for index in range(self._ran, due):
            shadow = self._shadows[index]
            shadow.forget(kept)
            if index == self._in_use:
                self._replayed = shadow.done, shadow.late
            shadow.run(self._chunk)
        self._ran = max(self._ran, due)
        if self._ran == len(self._shadows):
            self._chunk = []
            self._correct()
            self._choose()

    def _correct(self) -> None:
        """What happened in fact counts for the setting in use, and for all cheaper ones: they can't be better."""
        used = self._shadows[self._in_use]
        done, late = used.done - self._replayed[0], used.late - self._replayed[1]
        if self._in_fact is None or done <= 0:
            return
        missed = self._in_fact * done - late
        for shadow in self._shadows:
            if shadow.gpu_seconds <= used.gpu_seconds:
                shadow.late = min(max(shadow.late + missed, 0.0), shadow.done)

    def _choose(self) -> None:
        is_due = self._chosen_at is None or self._now - self._chosen_at >= CHOICE_SECONDS
        if not is_due or self._seen_jobs < MIN_JOBS or self._seen_seconds < MIN_SEEN_SECONDS:
            return
        self._chosen_at = self._now
        tallies = self.tallies
        budget = find_budget(self._debt_jobs, self._debt_of_jobs)
        price = self._terms.scaling.find_max_gpu_seconds_per_late_request(self._terms.cold_start_seconds)
        best = choose(tallies, self._present, budget, price)
        is_recalled = self._seen_seconds < self._recalled_seconds
        if is_recalled and (
            tallies[self._present].keeps(budget) or tallies[best].gpu_seconds <= tallies[self._present].gpu_seconds
        ):
            return
        cheapest = find_cheapest(tallies, budget)
        self._present, self._recalled_seconds = best, 0.0 if not is_recalled else self._recalled_seconds
        self._choice = Choice(
            setting=self._shadows[best].setting,
            basis=Basis.BUDGET if tallies[best].keeps(budget) else Basis.PRICE,
            settings=len(tallies),
            seen_seconds=min(self._seen_seconds, MEMORY_SECONDS),
            summed_seconds=MEMORY_SECONDS * (1.0 - math.exp(-self._seen_seconds / MEMORY_SECONDS)),
            tally=tallies[best],
            budget=budget,
            price_seconds=price,
            keeping=None if cheapest is None else tallies[cheapest],
        )


def _build_terms(scaling: ScalingSpec, cold_start_seconds: float) -> Terms:
    overtaken_seconds = scaling.find_max_overtaken_seconds(cold_start_seconds)
    return Terms(scaling, cold_start_seconds, float(scaling.target_latency_seconds), overtaken_seconds)


def _build_batch(at: float, jobs: int, job_seconds: float, pace: float, target_seconds: float) -> Batch:
    taken = job_seconds * pace
    # At most all of them: jobs that take next to no time would be more in a parcel than a number can say.
    in_parcel = max(1, math.floor(min(jobs, SHORT_JOB_TARGETS * target_seconds / taken))) if taken > 0 else jobs
    parcels = math.ceil(jobs / in_parcel)
    each = jobs / parcels
    return Batch(at, parcels, each * taken, each, each * min(job_seconds, target_seconds))


def _group(look: Look, team: int) -> Look:
    """For teams: fewer parcels, of more jobs each, which take as long unless a team isn't full."""
    batches = []
    for batch in look.batches:
        parcels = math.ceil(batch.parcels / team)
        factor = batch.parcels / parcels
        batches.append(Batch(batch.at, parcels, batch.seconds, batch.jobs * factor, batch.gpu_seconds * factor))
    return look._replace(batches=batches)


def _find_nearest(settings: Sequence[Setting], wanted: Setting) -> int:
    """The index of the setting that is most like another."""

    def distance(setting: Setting) -> tuple[float, float, float, float]:
        return (
            abs(setting.margin - wanted.margin),
            abs(setting.expected_arrivals - wanted.expected_arrivals),
            abs(math.log(setting.hold_cold_starts / wanted.hold_cold_starts)),
            abs(math.log(setting.last_pod_cold_starts / wanted.last_pod_cold_starts)),
        )

    return min(range(len(settings)), key=lambda index: distance(settings[index]))
