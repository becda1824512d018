"""A service in small: seeded arrivals, one queue, pods with a cold start, and an autoscaler that looks every 15 s.

It feeds the planner what real pods would report (samples with counters and the shared queue), so that observation and
planner are tested together. One pod runs one job at a time; idle pods are the first to go.
"""

import itertools
import math
import random
from collections import deque
from dataclasses import dataclass, field

from easel_contract import metrics
from easel_contract.resource import QueueOrder, ScalingSpec
from easel_operator.autoscaling.counters import CounterReading
from easel_operator.autoscaling.observation import Observation, PodSample, QueueReading, observe
from easel_operator.autoscaling.planner import Plan, begin_state, plan
from easel_operator.autoscaling.replay.bank import Bank
from easel_operator.autoscaling.replay.choice import Choice
from easel_operator.autoscaling.replay.feed import build_load
from easel_operator.autoscaling.workers import PodCounts, WorkerPod

from tests.operator.autoscaling.support import START, after, build_sample

STEP_SECONDS = 0.5
TICK_SECONDS = 2.5
AUTOSCALER_SECONDS = 15.0


@dataclass(slots=True)
class Pod:
    name: str
    ready_at: float
    jobs: list[tuple[float, float]] = field(default_factory=list)  # (submitted at, ends at); one at the most
    finished: int = 0
    buckets: dict[float, float] = field(
        default_factory=lambda: dict.fromkeys((*metrics.LATENCY_BUCKETS_SECONDS, math.inf), 0.0)
    )


class ClosedLoop:
    """Time passes in run(); what happened is in the lists."""

    def __init__(
        self,
        settings: ScalingSpec,
        *,
        service_seconds: float,
        cold_start_seconds: float,
        seed: int,
        room: int = 1000,
        is_paced: bool = False,
        choice: Choice | None = None,
    ) -> None:
        self.settings = settings.model_copy(update={"queue_order": QueueOrder.FIRST_COME_FIRST_SERVED})
        self.random = random.Random(seed)  # noqa: S311 - a simulation, replayed by its seed
        self.service_seconds = service_seconds
        self.cold_start_seconds = cold_start_seconds
        self.room = room  # pods that the cluster can schedule
        self.is_paced = is_paced  # requests come at equal distances, not by chance
        self.due = 0.0  # requests of the past that are still to come
        self.seconds = 0.0
        self.pods = [Pod("pod-0", 0.0)]
        self.made = 1
        self.replicas = 1
        self.waiting: deque[float] = deque()
        self.submitted = 0
        self.has_data = True
        self.history = begin_state(1, START)
        self.bank = Bank(self.settings, cold_start_seconds)
        self.fixed_choice = choice  # None: what is found by replay
        self.observation: Observation | None = None
        self.decision: Plan | None = None
        self.desired: list[tuple[float, int]] = []
        self.ordered: list[tuple[float, int]] = []  # by the autoscaler
        self.latencies: list[tuple[float, float]] = []  # (finished at, seconds)

    @property
    def ready(self) -> list[Pod]:
        return [pod for pod in self.pods[: self.room] if pod.ready_at <= self.seconds]

    def run(self, seconds: float, arrivals_per_second: float) -> None:
        steps = round(seconds / STEP_SECONDS)
        for _ in range(steps):
            self.seconds += STEP_SECONDS
            self._arrive(arrivals_per_second)
            self._work()
            if self.seconds % TICK_SECONDS == 0:
                self._tick()
            if self.seconds % AUTOSCALER_SECONDS == 0:
                self._autoscale()

    def changes(self, since: float) -> int:
        """How often the number of pods turned from falling to rising."""
        levels = [level for at, level in self.ordered if at >= since]
        moves = [b - a for a, b in itertools.pairwise(levels) if a != b]
        return sum(first < 0 < second for first, second in itertools.pairwise(moves))

    def _arrive(self, arrivals_per_second: float) -> None:
        expected = arrivals_per_second * STEP_SECONDS
        if self.is_paced:
            self.due += expected
            count = int(self.due)
            self.due -= count
        else:
            count = int(expected) + (self.random.random() < expected % 1)
        self.waiting.extend([self.seconds] * count)
        self.submitted += count

    def _work(self) -> None:
        for pod in self.ready:
            for submitted_at, ends_at in [job for job in pod.jobs if job[1] <= self.seconds]:
                pod.jobs.remove((submitted_at, ends_at))
                pod.finished += 1
                latency = self.seconds - submitted_at
                self.latencies.append((self.seconds, latency))
                for bound in pod.buckets:
                    pod.buckets[bound] += latency <= bound
            if not pod.jobs and self.waiting:
                seconds = self.service_seconds * self.random.uniform(0.7, 1.3)
                pod.jobs.append((self.waiting.popleft(), self.seconds + seconds))

    def _samples(self) -> tuple[PodSample, ...]:
        if not self.has_data:
            return ()
        oldest = self.seconds - self.waiting[0] if self.waiting else 0.0
        running = [ends_at - self.seconds for pod in self.pods for _, ends_at in pod.jobs]
        work = len(self.waiting) * self.service_seconds
        queue = QueueReading(len(self.waiting), len(running), oldest, work, max(0.0, sum(running)))
        now = after(self.seconds)
        gateway = build_sample(
            "gateway",
            now,
            component="gateway",
            queue=queue,
            counters=CounterReading(
                submitted=self.submitted, predicted_gpu_seconds=self.submitted * self.service_seconds
            ),
        )
        workers = (
            build_sample(
                pod.name,
                now,
                queue=queue,
                in_flight=len(pod.jobs),
                counters=CounterReading(finished=pod.finished, latency_buckets=dict(pod.buckets)),
            )
            for pod in self.ready
        )
        return (gateway, *workers)

    def _tick(self) -> None:
        ready, existing = len(self.ready), len(self.pods)
        unschedulable = max(0, existing - self.room)
        now = after(self.seconds)
        workers = tuple(
            WorkerPod(
                pod.name,
                after(pod.ready_at - self.cold_start_seconds),
                after(pod.ready_at) if pod.ready_at <= self.seconds else None,
            )
            for pod in self.pods[: self.room]
        )
        counts = PodCounts(self.replicas, existing, ready, existing - ready - unschedulable, unschedulable, workers)
        self.observation = observe(self._samples(), self.observation, counts, now)
        choice = self._replay() if self.fixed_choice is None else self.fixed_choice
        self.decision = plan(self.observation, self.history, self.settings, now, choice)
        self.history = self.decision.state
        self.desired.append((self.seconds, self.decision.desired_replicas))

    def _replay(self) -> Choice:
        assert self.observation is not None
        self.bank.follow(self.settings, self.history.cold_starts.median_seconds)
        load = build_load(self.observation, self.history.foreknown_replicas, self.settings.target_latency_seconds)
        if load is not None:
            self.bank.watch(load)
        return self.bank.choice

    def _autoscale(self) -> None:
        if self.decision is None:
            return
        self.replicas = self.decision.desired_replicas
        self.ordered.append((self.seconds, self.replicas))
        self.pods.sort(key=lambda pod: -len(pod.jobs))  # the busy ones are the last to go
        while len(self.pods) > self.replicas and not self.pods[-1].jobs:
            self.pods.pop()
        while len(self.pods) < self.replicas:
            self.pods.append(Pod(f"pod-{self.made}", self.seconds + self.cold_start_seconds))
            self.made += 1
