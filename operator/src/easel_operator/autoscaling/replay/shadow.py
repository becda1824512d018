"""One shadow fleet: the service's queue and pods as they would be under one fixed setting.

Plain floats, lists and a heap: a service has dozens of these, and each of its requests runs through all of them. What
it decides by are the planner's own formulas (headroom.py, backlog.py). It leaves out what the planner has beside them:
the forecast, targetQueueDepth, rollouts and missing nodes.
"""

import math
from collections.abc import Sequence
from heapq import heappop, heappush, heapreplace
from typing import Final, NamedTuple

from easel_contract.resource import ScalingSpec

from easel_operator.autoscaling.backlog import count_pods, find_drain_seconds
from easel_operator.autoscaling.headroom import MAX_GROWTH, SETTLING, find_longest_wait_seconds, pods_for
from easel_operator.autoscaling.replay.setting import Setting
from easel_operator.autoscaling.scale_down import LOADING_TIMEOUT

LONG_HOLD_SECONDS: Final = 30.0  # in which what a moment's work asked for is still kept when the next look is
NOTHING_ARRIVES: Final = 1e-3  # busy pods
LOADING_SECONDS: Final = LOADING_TIMEOUT.total_seconds()
SETTLING_SECONDS: Final = SETTLING.total_seconds()


class Terms(NamedTuple):
    """What holds for all shadows of a service."""

    scaling: ScalingSpec
    cold_start_seconds: float
    target_seconds: float
    max_overtaken_seconds: float  # 0: first come first served


class Batch(NamedTuple):
    """Requests that came together, in parcels that one team of pods takes at once."""

    at: float
    parcels: float
    seconds: float  # that a parcel keeps a team
    jobs: float  # in a parcel
    gpu_seconds: float  # of a parcel, each of its jobs counted as one target at most


class Look(NamedTuple):
    """A moment at which the planner decides, and the batches that came since the one before."""

    at: float
    batches: Sequence[Batch]
    busy_pods: float  # that the arrivals keep busy, as the planner measures
    job_seconds: float
    floor: int  # of schedules
    is_carried_out: bool  # the cluster's autoscaler looks as well


class Shadow:
    """The fleet. A *team* is so many pods that take requests together; 1 unless a service is very busy."""

    __slots__ = (
        "_asked_at",
        "_asked_pods",
        "_by_arrivals",
        "_by_queue",
        "_desired",
        "_free_at",
        "_hold_seconds",
        "_last_end",
        "_last_pod_seconds",
        "_last_work_at",
        "_loading_since",
        "_looked_at",
        "_overdue",
        "_overrunning",
        "_starting",
        "_team",
        "_terms",
        "_timely",
        "_waiting_gpu_seconds",
        "_waiting_jobs",
        "done",
        "gpu_seconds",
        "late",
        "setting",
        "steps",
    )

    def __init__(self, setting: Setting, terms: Terms, pods: int, now: float) -> None:
        """With ``pods`` that are ready and idle."""
        self.setting = setting
        self.done = self.late = self.gpu_seconds = 0.0  # forgetful sums: jobs, late ones, time of pods that exist
        self.steps = 0  # parcels and looks so far: what it costs
        self._team = 1
        self._free_at = [now] * pods  # a heap: since or until when each team of ready pods works on something
        self._starting: list[float] = []  # when each of the others is ready, the soonest first
        self._timely: list[list[float]] = []  # batches, and behind the first some that are late by now
        self._overdue: list[list[float]] = []
        self._overrunning: list[tuple[float, float]] = []  # jobs longer than the target: when it is over, and the end
        self._waiting_jobs = self._waiting_gpu_seconds = 0.0
        self._by_queue: list[tuple[int, float]] = []  # proposals and their times, without those that a later one
        self._by_arrivals: list[tuple[int, float]] = []  # exceeds
        self._desired = pods
        self._last_end = self._last_work_at = self._looked_at = now
        self._loading_since = math.inf
        self._asked_at, self._asked_pods = -math.inf, 0
        self.follow(terms)

    def follow(self, terms: Terms) -> None:
        """What holds from now on."""
        self._terms = terms
        self._hold_seconds = self.setting.find_hold_seconds(terms.cold_start_seconds, terms.scaling)
        self._last_pod_seconds = self.setting.find_last_pod_seconds(terms.cold_start_seconds, terms.scaling)

    def forget(self, kept: float) -> None:
        """Let the sums fade to a part."""
        self.done *= kept
        self.late *= kept
        self.gpu_seconds *= kept

    def regroup(self, team: int) -> None:
        """Let ``team`` pods take requests together from now on; a power of two."""
        while self._team != team:
            if self._team < team:
                self._team *= 2
                self._free_at, self._starting = sorted(self._free_at)[::2], self._starting[::2]
                factor = 0.5
            else:
                self._team //= 2
                self._free_at = sorted((*self._free_at, *self._free_at))
                self._starting = sorted((*self._starting, *self._starting))
                factor = 2.0
            for batch in (*self._timely, *self._overdue):
                parcels = max(1.0, math.ceil(batch[1] * factor))
                batch[3] *= batch[1] / parcels
                batch[4] *= batch[1] / parcels
                batch[1] = parcels

    def run(self, looks: Sequence[Look]) -> None:
        """Let time pass up to the last of these."""
        serve = self._serve_in_order if self._terms.max_overtaken_seconds <= 0 else self._serve_timely_first
        target = self._terms.target_seconds
        for look in looks:
            while self._starting and self._starting[0] <= look.at:
                heappush(self._free_at, self._starting.pop(0))
            if look.batches:
                self._arrive(look.batches, target)
            if self._waiting_jobs:
                serve(look.at, target)
            if look.is_carried_out or self._waiting_jobs or (look.batches and self._hold_seconds >= LONG_HOLD_SECONDS):
                self._decide(look, target)
                self.steps += 1
            elif look.busy_pods > NOTHING_ARRIVES:  # a rate that was higher for a moment keeps pods, too
                replicas = pods_for(look.busy_pods, self.setting.margin, self._desired)
                remember(self._by_arrivals, replicas, look.at, self._hold_seconds)

    def _arrive(self, batches: Sequence[Batch], target: float) -> None:
        free_at = self._free_at
        for batch in batches:
            at, parcels, seconds, jobs, gpu_seconds = batch
            self.steps += 1
            if not self._waiting_jobs:
                while parcels and free_at and free_at[0] <= at:
                    self._take(at, at, seconds, jobs, target)
                    parcels -= 1
            if parcels:
                self._timely.append([at, parcels, seconds, jobs, gpu_seconds])
                self._waiting_jobs += parcels * jobs
                self._waiting_gpu_seconds += parcels * gpu_seconds

    def _take(self, now: float, at: float, seconds: float, jobs: float, target: float) -> None:
        """Give a parcel that came ``at`` to the team that is free first, at ``now``."""
        end = now + seconds
        heapreplace(self._free_at, end)
        self.steps += 1
        self.done += jobs
        if end - at > target:
            self.late += jobs
            if seconds > target:
                self._overrunning.append((now + target, end))
        self._last_end = max(self._last_end, end)

    def _take_head(self, queue: list[list[float]], head: int, now: float, target: float) -> int:
        """The head after one parcel of it was taken."""
        batch = queue[head]
        self._take(now, batch[0], batch[2], batch[3], target)
        batch[1] -= 1
        self._waiting_jobs -= batch[3]
        self._waiting_gpu_seconds -= batch[4]
        return head if batch[1] > 0 else head + 1

    def _serve_in_order(self, until: float, target: float) -> None:
        queue, free_at, head = self._timely, self._free_at, 0
        while head < len(queue) and free_at:
            now = max(free_at[0], queue[head][0])
            if now >= until:
                break
            head = self._take_head(queue, head, now, target)
        del queue[:head]
        self._settle_sums()

    def _serve_timely_first(self, until: float, target: float) -> None:
        """As the queue does (simulation/waiting.py): the oldest that can still be in time, unless an older one was
        overtaken for long enough."""
        timely, overdue, free_at = self._timely, self._overdue, self._free_at
        longest, first, late = self._terms.max_overtaken_seconds, 0, 0
        while free_at and (first < len(timely) or late < len(overdue)):
            now = free_at[0] if late < len(overdue) else max(free_at[0], timely[first][0])
            if now >= until:
                break
            while first < len(timely) and timely[first][0] <= now:
                if now - timely[first][0] + timely[first][2] <= target:
                    break
                overdue.append(timely[first])
                first += 1
            has_timely = first < len(timely) and timely[first][0] <= now
            if late < len(overdue) and (not has_timely or now - overdue[late][0] >= longest):
                late = self._take_head(overdue, late, now, target)
            else:
                first = self._take_head(timely, first, now, target)
        del timely[:first]
        del overdue[:late]
        self._settle_sums()

    def _settle_sums(self) -> None:
        if not self._timely and not self._overdue:
            self._waiting_jobs = self._waiting_gpu_seconds = 0.0

    def _decide(self, look: Look, target: float) -> None:
        """What planner.plan() decides, in small."""
        now, team, scaling = look.at, self._team, self._terms.scaling
        self.gpu_seconds += (len(self._free_at) + len(self._starting)) * team * (now - self._looked_at)
        self._looked_at = now
        if not self._free_at and not self._starting and not self._waiting_jobs and look.busy_pods <= NOTHING_ARRIVES:
            self._desired = max(scaling.min_replicas, look.floor)
            self._by_queue, self._by_arrivals = [], []
            if look.is_carried_out and self._desired:
                self._scale(now)
            return
        busy, rest = 0, 0.0
        for until in self._free_at:
            if until > now:
                busy += 1
                rest += until - now
        has_work = busy > 0 or self._waiting_jobs > 0
        over, overrun = self._measure_overrun(now)
        by_queue = self._count_for_queue(look, busy * team, rest * team - overrun, over) if has_work else 0
        by_arrivals = over + pods_for(look.busy_pods, self.setting.margin, max(0, self._desired - over))
        by_arrivals = max(by_arrivals, self._watch_oldest(now, target))
        self._keep_awake(now, has_work=has_work)
        is_awake = has_work or (self._desired > 0 and now - self._last_work_at < self._last_pod_seconds)
        wanted = max(
            remember(self._by_queue, by_queue, now, self._hold_seconds),
            remember(self._by_arrivals, by_arrivals, now, self._hold_seconds),
            int(is_awake),
            busy * team,
            look.floor,
            scaling.min_replicas,
        )
        self._desired = min(scaling.max_replicas, wanted)
        if look.is_carried_out:
            self._scale(now)

    def _measure_overrun(self, now: float) -> tuple[int, float]:
        """Jobs that have run longer than the target, and what is left of long jobs beyond it."""
        if not self._overrunning:
            return 0, 0.0
        self._overrunning = [each for each in self._overrunning if each[1] > now]
        over = sum(since <= now for since, _ in self._overrunning)
        return over, sum(end - max(since, now) for since, end in self._overrunning)

    def _count_for_queue(self, look: Look, running: int, rest: float, over: int) -> int:
        cold_start = self._terms.cold_start_seconds
        depth = self._waiting_jobs + running - over
        pods = count_pods(
            self._waiting_gpu_seconds + max(0.0, rest),
            self.setting.expected_arrivals * look.busy_pods,
            max(0, len(self._free_at) * self._team - over),
            [at - look.at for at in self._starting for _ in range(self._team)],
            cold_start,
            find_drain_seconds(self._terms.target_seconds, look.job_seconds, self.setting.margin),
            self._terms.scaling.max_replicas + 1,
        )
        requests = math.ceil(depth) + math.ceil(look.busy_pods * cold_start / look.job_seconds)
        return over + max(int(depth > 0), min(pods, requests))

    def _watch_oldest(self, now: float, target: float) -> int:
        """As headroom.OldestWait."""
        oldest = self._overdue[0][0] if self._overdue else self._timely[0][0] if self._timely else now
        terms = self._terms
        longest = find_longest_wait_seconds(target, terms.cold_start_seconds, terms.max_overtaken_seconds)
        if now - oldest <= longest:
            self._asked_at, self._asked_pods = -math.inf, 0
        elif self._starting:
            self._asked_at = now if self._asked_pods else -math.inf
        elif now - self._asked_at >= self._terms.cold_start_seconds + SETTLING_SECONDS:
            grown = math.ceil(len(self._free_at) * self._team * min(MAX_GROWTH, (now - oldest) / longest))
            self._asked_at, self._asked_pods = now, max(self._asked_pods, grown, 1)
        return self._asked_pods

    def _keep_awake(self, now: float, *, has_work: bool) -> None:
        is_loading = bool(self._starting) and not self._free_at
        self._loading_since = min(self._loading_since, now) if is_loading else math.inf
        is_kept = has_work or (is_loading and now - self._loading_since < LOADING_SECONDS)
        self._last_work_at = now if is_kept else max(self._last_work_at, self._last_end)

    def _scale(self, now: float) -> None:
        """Starting pods go first, then idle ones; busy ones stay."""
        teams = -(-self._desired // self._team)
        missing = teams - len(self._free_at) - len(self._starting)
        if missing > 0:
            self._starting += [now + self._terms.cold_start_seconds] * missing
            return
        while missing < 0 and self._starting:
            self._starting.pop()
            missing += 1
        while missing < 0 and self._free_at and self._free_at[0] <= now:
            heappop(self._free_at)
            missing += 1


def remember(window: list[tuple[int, float]], replicas: int, now: float, seconds: float) -> int:
    """The largest number proposed within the last ``seconds``, as scale_down.StabilizationWindow."""
    while window and window[-1][0] <= replicas:
        window.pop()
    kept = 0
    while kept < len(window) and now - window[kept][1] >= seconds:
        kept += 1
    del window[:kept]
    window.append((replicas, now))
    return window[0][0]
