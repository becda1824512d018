"""The loop: arrivals, what happens in the pods, and the policy's ticks, in the order of time."""

import math
import random
from typing import Final

from easel_operator.simulation.fleet import Fleet
from easel_operator.simulation.outcome import Outcome, build_outcome
from easel_operator.simulation.policies.interface import Policy
from easel_operator.simulation.settings import Settings
from easel_operator.simulation.timeline import Timeline
from easel_operator.simulation.trace import Trace

MAX_OVERTIME_SECONDS: Final = 86400.0  # after the last arrival, for a policy that leaves requests waiting


def simulate(
    trace: Trace, policy: Policy, settings: Settings, *, timeline_step_seconds: float | None = None
) -> Outcome:
    """Run a trace through the service under a policy.

    It ends when the trace's time is over and every request is finished, or MAX_OVERTIME_SECONDS later. At one moment
    pods come first, then arrivals, then the policy. The same arguments give the same outcome; a policy is used once.

    Args:
        trace: the requests.
        policy: decides the number of pods.
        settings: the service, cold starts and the seed.
        timeline_step_seconds: sample the course of things at this step; not at all if None.
    """
    change_seconds = 0.0 if settings.pool is None else settings.pool.longest_seconds
    grace_seconds = settings.find_grace_seconds(max(trace.work_seconds, default=0.0) + change_seconds)
    source = random.Random(settings.seed)  # noqa: S311 - replayed by its seed
    fleet = Fleet(trace, settings.cold_start, settings.order_rule, grace_seconds, source, settings.pool)
    fleet.begin(policy.initial_replicas)
    timeline = None if timeline_step_seconds is None else Timeline(timeline_step_seconds)
    ended_at = _run(trace, policy, fleet, timeline)
    fleet.end(ended_at)
    return build_outcome(policy.name, trace, fleet, settings.target_seconds, ended_at, timeline)


def _run(trace: Trace, policy: Policy, fleet: Fleet, timeline: Timeline | None) -> float:
    """Returns the second at which it ended."""
    arrivals, requests, arrived = trace.arrival_seconds, len(trace), 0
    policy_at, sample_at = policy.next_tick_at, math.inf if timeline is None else 0.0
    now = 0.0
    while True:
        arrival_at = arrivals[arrived] if arrived < requests else math.inf
        tick_at = min(sample_at, policy_at)
        event_at = fleet.next_event_at
        earliest = min(arrival_at, event_at, tick_at)
        if arrived == requests and earliest > trace.duration_seconds and not fleet.depth:
            return max(now, trace.duration_seconds)
        if earliest > trace.duration_seconds + MAX_OVERTIME_SECONDS:
            return trace.duration_seconds + MAX_OVERTIME_SECONDS
        now = earliest
        if event_at == earliest:
            fleet.advance()
        elif arrival_at == earliest:
            fleet.arrive(arrived, now)
            arrived += 1
        elif policy_at == earliest:
            replicas = policy.tick(fleet, now)
            if replicas is not None and replicas != fleet.replicas:
                fleet.scale_to(replicas, now)
            policy_at = policy.next_tick_at
        elif timeline is not None:
            timeline.sample(fleet, now)
            sample_at = timeline.next_at
