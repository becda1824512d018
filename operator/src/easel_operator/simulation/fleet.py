"""The shared queue and the worker pods: what happens in them, event by event. Policies see it as an API server, a
metrics server and Redis would show it."""

import heapq
import math
import random
from bisect import bisect_left
from collections import deque
from typing import Final

from easel_contract import metrics

from easel_operator.simulation.pod import LoadedModels, Pod, PodState, Pool
from easel_operator.simulation.settings import ColdStart
from easel_operator.simulation.trace import Trace
from easel_operator.simulation.waiting import OrderRule, Waiting

COST_IF_IDLE: Final = -100  # controller.kubernetes.io/pod-deletion-cost of a pod to remove before others


class Fleet:
    """One queue, pods that run one job at a time; the pod that idled longest takes the next, in a pool the one of those
    that change to its model soonest.

    All times are seconds since the beginning. The attributes are for reading only.
    """

    def __init__(
        self,
        trace: Trace,
        cold_start: ColdStart,
        rule: OrderRule,
        grace_seconds: float,
        source: random.Random,
        pool: Pool | None = None,
    ) -> None:
        self._models, self._pool = trace.models, pool
        self._arrivals = trace.arrival_seconds
        self._works = trace.work_seconds
        self._target_seconds = rule.target_seconds
        self._cold_start = cold_start
        self._grace_seconds = grace_seconds
        self._random = source
        self._idle: deque[Pod] = deque()
        self._events: list[tuple[float, int, Pod]] = []
        self._event_serial = 0
        self.pods: dict[int, Pod] = {}  # by serial, without those that were chosen for removal
        self.draining: set[Pod] = set()
        self.waiting = Waiting(trace.arrival_seconds, trace.work_seconds, rule)
        self.finished_at = [math.nan] * len(trace)
        self.ready = self.starting = self.running = 0  # pods; those that drain are only among the running
        self.arrived = self.finished = 0
        self.arrived_work_seconds = self.finished_work_seconds = self.waiting_work_seconds = 0.0
        # Bounded: of each job at most what one pod can do within the target.
        self.arrived_bounded_seconds = self.waiting_bounded_seconds = 0.0
        self.latency_counts = [0] * (len(metrics.LATENCY_BUCKETS_SECONDS) + 1)  # by bucket, not cumulative
        self.changes = 0  # events so far
        self.cold_starts: list[float] = []  # seconds, of pods that became ready
        self.starts = self.busy_pods_killed = self.jobs_handed_back = 0
        self.pod_seconds = self.starting_seconds = 0.0  # of pods that are gone; of starts that are over
        self.zero_seconds = 0.0
        self._zero_since: float | None = 0.0
        self._present_arrivals_sum = self._left_latency_sum = 0.0
        self._running_ends_sum = self._short_ends_sum = 0.0
        self._long: dict[Pod, None] = {}  # that run a job of more than a target, in the order of their beginnings

    def begin(self, replicas: int) -> None:
        """Pods that are ready at second 0, which no start is counted for."""
        for _ in range(replicas):
            pod = self._create(0.0)
            self.starting += 1
            self._become_ready(pod, 0.0)

    @property
    def replicas(self) -> int:
        """Pods that exist and weren't chosen for removal."""
        return len(self.pods)

    @property
    def depth(self) -> int:
        """Requests waiting and running."""
        return len(self.waiting) + self.running

    @property
    def next_event_at(self) -> float:
        """When something happens by itself next; infinity if nothing does."""
        return self._events[0][0] if self._events else math.inf

    def measure_depth_area(self, now: float) -> float:
        """Integral of ``depth`` over time in request-seconds; divide its growth by time for a mean."""
        return self._left_latency_sum + self.depth * now - self._present_arrivals_sum

    def measure_running_work_seconds(self, now: float) -> float:
        """What is left of the running jobs."""
        return max(0.0, self._running_ends_sum - self.running * now)

    def measure_running_bounded_seconds(self, now: float) -> float:
        """What is left of the running jobs within a target's time of each."""
        short = self._short_ends_sum - (self.running - len(self._long)) * now
        return max(0.0, short) + sum(max(0.0, self._target_seconds - (now - pod.job_began_at)) for pod in self._long)

    def count_overrunning(self, now: float) -> int:
        """Jobs that have run for longer than the target."""
        return sum(now - pod.job_began_at > self._target_seconds for pod in self._long)

    def measure_oldest_waiting_seconds(self, now: float) -> float:
        """Age of the request that waits longest; 0 if none waits."""
        oldest = self.waiting.find_oldest()
        return 0.0 if oldest is None else now - self._arrivals[oldest]

    def count_idle(self) -> int:
        """Ready pods without a job."""
        return self.ready - sum(pod.state is PodState.BUSY for pod in self.pods.values())

    def arrive(self, job: int, now: float) -> None:
        """A request joins the queue."""
        work = self._works[job]
        self.changes += 1
        self.arrived += 1
        self.arrived_work_seconds += work
        self.arrived_bounded_seconds += min(work, self._target_seconds)
        self.waiting_bounded_seconds += min(work, self._target_seconds)
        self._present_arrivals_sum += self._arrivals[job]
        self.waiting_work_seconds += work
        self.waiting.add(job)
        pod = self._take_idle(job)
        if pod is not None:
            self._start_next(pod, now)

    def advance(self) -> None:
        """Let the next event happen. An event of a pod that is gone is a memory of no consequence."""
        now, _, pod = heapq.heappop(self._events)
        if pod.state is PodState.STARTING:
            self.changes += 1
            self._become_ready(pod, now)
        elif pod.state is PodState.BUSY:
            self._finish(pod, now)
            if self.waiting:
                self._start_next(pod, now)
            else:
                pod.state = PodState.IDLE
                self._idle.append(pod)
        elif pod.state is PodState.DRAINING:
            self._end_draining(pod, now)

    def scale_to(self, replicas: int, now: float) -> None:
        """What a ReplicaSet does with a new spec.replicas."""
        surplus = len(self.pods) - replicas
        for _ in range(-surplus):
            pod = self._create(now)
            self._schedule(now + self._cold_start.sample(self._random, self.starting), pod)
            self.starts += 1
            self.starting += 1
        if surplus > 0:
            ranked = sorted(self.pods.values(), key=lambda pod: pod.rank_for_removal(now))
            for pod in ranked[:surplus]:
                self._remove(pod, now)

    def write_deletion_costs(self) -> None:
        """Mark the pods that are idle now as those to remove first, until it is written anew."""
        for pod in self.pods.values():
            pod.deletion_cost = COST_IF_IDLE if pod.state is PodState.IDLE else 0

    def end(self, now: float) -> None:
        """Count what still runs at the end."""
        for pod in (*self.pods.values(), *self.draining):
            self.pod_seconds += now - pod.created_at
            if pod.state is PodState.STARTING:
                self.starting_seconds += now - pod.created_at
        if self._zero_since is not None:
            self.zero_seconds += now - self._zero_since

    def _schedule(self, at: float, pod: Pod) -> None:
        self._event_serial += 1
        heapq.heappush(self._events, (at, self._event_serial, pod))

    def _create(self, now: float) -> Pod:
        self._event_serial += 1
        pod = Pod(self._event_serial, self._random.random(), now)
        pod.models = None if self._pool is None else LoadedModels(self._pool)
        self.pods[pod.serial] = pod
        if self._zero_since is not None:
            self.zero_seconds += now - self._zero_since
            self._zero_since = None
        return pod

    def _become_ready(self, pod: Pod, now: float) -> None:
        pod.ready_at = now
        self.starting -= 1
        self.ready += 1
        self.starting_seconds += now - pod.created_at
        if now > pod.created_at:
            self.cold_starts.append(now - pod.created_at)
        if self.waiting:
            self._start_next(pod, now)
        else:
            pod.state = PodState.IDLE
            self._idle.append(pod)

    def _take_idle(self, job: int) -> Pod | None:
        if self._pool is not None:
            return self._take_nearest(self._models[job])
        while self._idle:
            pod = self._idle.popleft()
            if pod.state is PodState.IDLE:
                return pod
        return None

    def _take_nearest(self, model: int) -> Pod | None:
        """In a pool: of the idle ones that change to a model soonest, the one that idled longest."""
        self._idle = deque(pod for pod in self._idle if pod.state is PodState.IDLE)
        nearest = min(self._idle, key=lambda pod: pod.models.find_seconds(model) if pod.models else 0.0, default=None)
        if nearest is not None:
            self._idle.remove(nearest)
        return nearest

    def _start_next(self, pod: Pod, now: float) -> None:
        job = self.waiting.take(now)
        work = self._works[job]
        pod.state, pod.job, pod.job_began_at = PodState.BUSY, job, now
        self.waiting_work_seconds -= work
        self.waiting_bounded_seconds -= min(work, self._target_seconds)
        work += 0.0 if pod.models is None else pod.models.use(self._models[job])
        pod.job_seconds = work
        self.running += 1
        self._running_ends_sum += now + work
        if work > self._target_seconds:
            self._long[pod] = None
        else:
            self._short_ends_sum += now + work
        self._event_serial += 1
        heapq.heappush(self._events, (now + work, self._event_serial, pod))

    def _finish(self, pod: Pod, now: float) -> None:
        job = pod.job
        latency = now - self._arrivals[job]
        self.changes += 1
        self.finished_at[job] = now
        self.finished += 1
        self.finished_work_seconds += pod.job_seconds
        self.latency_counts[bisect_left(metrics.LATENCY_BUCKETS_SECONDS, latency)] += 1
        self._present_arrivals_sum -= self._arrivals[job]
        self._left_latency_sum += latency
        self._leave_job(pod, now)

    def _leave_job(self, pod: Pod, now: float) -> None:
        self.running -= 1
        ends_at = pod.job_began_at + pod.job_seconds
        self._running_ends_sum -= ends_at
        if pod in self._long:
            del self._long[pod]
        else:
            self._short_ends_sum -= ends_at
        pod.busy_seconds += now - pod.job_began_at
        pod.job = -1

    def _remove(self, pod: Pod, now: float) -> None:
        del self.pods[pod.serial]
        self.changes += 1
        if pod.state is PodState.STARTING:
            self.starting -= 1
            self.starting_seconds += now - pod.created_at
        else:
            self.ready -= 1
        if pod.state is not PodState.BUSY:
            self._disappear(pod, now)
            return
        self.busy_pods_killed += 1
        pod.state = PodState.DRAINING
        self.draining.add(pod)
        if pod.job_began_at + pod.job_seconds > now + self._grace_seconds:
            self._schedule(now + self._grace_seconds, pod)

    def _end_draining(self, pod: Pod, now: float) -> None:
        """Its job's end, or the end of its grace: then the job goes back to its place, to be done anew."""
        job = pod.job
        if now >= pod.job_began_at + pod.job_seconds:
            self._finish(pod, now)
        else:
            self._leave_job(pod, now)
            self.changes += 1
            self.jobs_handed_back += 1
            self.waiting.put_back(job, now)
            self.waiting_work_seconds += self._works[job]
            self.waiting_bounded_seconds += min(self._works[job], self._target_seconds)
        self.draining.discard(pod)
        self._disappear(pod, now)
        if self.waiting:
            idle = self._take_idle(job)
            if idle is not None:
                self._start_next(idle, now)

    def _disappear(self, pod: Pod, now: float) -> None:
        pod.state = PodState.GONE
        self.pod_seconds += now - pod.created_at
        if not self.pods and not self.draining:
            self._zero_since = now
