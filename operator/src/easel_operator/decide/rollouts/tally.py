"""What each revision's workers did in a step of a canary, added up from what their pods report every few seconds.

A worker whose process ends counts as a job that failed, since it had one mostly: a broken engine takes its worker out
within the second, before anybody has asked it.

A pod that is seen for the first time sets a baseline and adds nothing; one whose counters fell was started again, and
all of its new values are growth. What was written down in the status is what a restarted operator begins with.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from easel_contract.metrics import WORKER_BUCKETS_SECONDS

from easel_operator.autoscaling.observation import AttemptReading
from easel_operator.decide.pod_status import PodStatus
from easel_operator.decide.rollouts.judge import Figures


@dataclass(frozen=True)
class StepKey:
    """A step of one canary."""

    revision: str  # of the new template
    step: int  # from 1


@dataclass(frozen=True)
class Tally:
    """Both revisions' figures of one step."""

    key: StepKey
    canary: Figures = field(default_factory=Figures)
    stable: Figures = field(default_factory=Figures)


@dataclass(frozen=True)
class Watch:
    """A tally, and the counters of each worker that it was made from."""

    tally: Tally
    readings: Mapping[str, AttemptReading] = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)  # of their containers


def follow(
    watch: Watch | None,
    key: StepKey,
    recalled: Tally | None,
    readings: Mapping[str, AttemptReading],
    workers: Collection[PodStatus],
) -> Watch:
    """The watch after one more look.

    Args:
        watch: after the look before; None at the first one.
        key: of the step that is on.
        recalled: what the status has of a step; None where it has none.
        readings: by pod, of those that answered.
        workers: all of them.
    """
    revisions = {worker.name: worker.revision for worker in workers}
    restarts = {worker.name: worker.restarts for worker in workers}
    known = watch.readings if watch is not None else {}
    tally = watch.tally if watch is not None else recalled
    if tally is None or tally.key != key:
        tally = Tally(key)
    for pod, revision in revisions.items():
        grown = _grow(known[pod], readings[pod]) if pod in known and pod in readings else AttemptReading(0, 0)
        before = watch.restarts.get(pod, restarts[pod]) if watch is not None else restarts[pod]
        grown = replace(grown, failed=grown.failed + max(0, restarts[pod] - before))
        if revision == key.revision:
            tally = replace(tally, canary=_add(tally.canary, grown))
        else:
            tally = replace(tally, stable=_add(tally.stable, grown))
    kept = {pod: reading for pod, reading in known.items() if pod in revisions}
    return Watch(tally, {**kept, **readings}, restarts)


def _grow(before: AttemptReading, after: AttemptReading) -> AttemptReading:
    ended = after.restarts - before.restarts if after.restarts >= before.restarts else after.restarts
    if after.succeeded < before.succeeded or after.failed < before.failed:
        return replace(after, failed=after.failed + ended)
    return AttemptReading(
        succeeded=after.succeeded - before.succeeded,
        failed=after.failed - before.failed + ended,
        durations={bound: count - before.durations.get(bound, 0.0) for bound, count in after.durations.items()},
    )


def _add(figures: Figures, grown: AttemptReading) -> Figures:
    if not grown.succeeded and not grown.failed:
        return figures
    below, durations = 0.0, []
    for bound, known in zip((*WORKER_BUCKETS_SECONDS, math.inf), figures.durations, strict=True):
        until = grown.durations.get(bound, below)
        durations.append(known + max(0, round(until - below)))
        below = max(below, until)
    return Figures(
        figures.jobs + round(grown.succeeded + grown.failed), figures.failures + round(grown.failed), tuple(durations)
    )
