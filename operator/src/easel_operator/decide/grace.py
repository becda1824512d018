"""How long a stopping worker may take to finish its job: what the user says, else a step above the longest job seen.

Another grace period is another pod template, and so a cold start for each worker. A derived one is therefore changed
only when that costs nothing: while there are no workers, or together with another change of the template. Until then a
busy worker that is chosen for removal releases its job when its time is over, and nothing is lost.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from easel_contract.resource import TerminationStatus

from easel_operator.decide.drift import contains
from easel_operator.decide.snapshot import EventPlan, EventType
from easel_operator.manifests.configuration import DRAIN_MARGIN_SECONDS
from easel_operator.objects import Json

# The first is what a worker has while nothing was measured, the last is the most that is ever derived: a node that is
# drained, or a pod that hangs, holds a GPU for that long.
STEPS_SECONDS: Final = (60, 120, 240, 480, 960, 1800)
HEADROOM: Final = 1.5  # over the longest job so far: the next one may take longer
MAX_JOB_SECONDS: Final = 86400  # what is reported beyond it is taken for this
FIELD: Final = "spec.worker.terminationGracePeriodSeconds"

BuildTemplate = Callable[[int], Json]  # the worker's pod template with this grace period in seconds


@dataclass(frozen=True)
class GraceDecision:
    """The grace period of workers that are started from now on."""

    seconds: int
    longest_job_seconds: int  # 0: none was seen
    advice: str = ""  # what would let the longest job finish, where it doesn't

    def to_status(self) -> TerminationStatus | None:
        """What is stored; nothing before a job was measured."""
        if not self.longest_job_seconds:
            return None
        return TerminationStatus(
            grace_period_seconds=self.seconds, longest_job_seconds=self.longest_job_seconds, advice=self.advice
        )


def derive_grace_seconds(longest_job_seconds: float) -> int:
    """The least step that holds the longest job with some headroom; the largest for anything longer."""
    needed = HEADROOM * longest_job_seconds + DRAIN_MARGIN_SECONDS
    return next((step for step in STEPS_SECONDS if step >= needed), STEPS_SECONDS[-1])


def decide_grace(
    set_seconds: int | None,
    longest_job_seconds: int,
    live: Json | None,
    build_template: BuildTemplate,
    *,
    has_workers: bool,
) -> GraceDecision:
    """The grace period to write.

    Args:
        set_seconds: what the user asks for; None leaves it to the measured job times.
        longest_job_seconds: longest job so far, 0 if none was seen.
        live: the worker Deployment as it is, None if there is none.
        build_template: the template that is wanted, but for its grace period.
        has_workers: whether there are worker pods, which another template would replace.
    """
    derived = derive_grace_seconds(longest_job_seconds)
    if set_seconds is not None:
        advice = _advise_on_set(set_seconds, longest_job_seconds, derived)
        return GraceDecision(set_seconds, longest_job_seconds, advice)
    current = _read_current(live)
    wanted = max(current, derived)
    is_free = live is None or not has_workers or not contains(live["spec"]["template"], build_template(current))
    seconds = wanted if is_free else current
    return GraceDecision(seconds, longest_job_seconds, _advise_on_derived(seconds, longest_job_seconds, wanted))


def recall_longest_job_seconds(service: Json) -> int:
    """The longest job in the stored status; 0 if there is none."""
    stored: Json = service.get("status", {}).get("termination") or {}
    return int(stored.get("longestJobSeconds", 0))


def round_job_seconds(seconds: float) -> int:
    """A measured job time as it is kept: whole seconds, rounded up, so that the status changes seldom."""
    return min(math.ceil(seconds), MAX_JOB_SECONDS)


def build_grace_events(service: Json, decision: GraceDecision) -> tuple[EventPlan, ...]:
    """An event when the grace period turns out too short; the status keeps the advice for as long as it holds."""
    stored: Json = service.get("status", {}).get("termination") or {}
    if not decision.advice or stored.get("advice"):
        return ()
    return (EventPlan(EventType.NORMAL, "GracePeriodTooShort", "Reconcile", decision.advice),)


def _read_current(live: Json | None) -> int:
    """The step that the live template has. Anything else isn't ours: an earlier setting, or another hand's."""
    pod: Json = (live or {}).get("spec", {}).get("template", {}).get("spec", {})
    seconds = pod.get("terminationGracePeriodSeconds")
    return seconds if seconds in STEPS_SECONDS else STEPS_SECONDS[0]


def _is_too_short(seconds: int, longest_job_seconds: int) -> bool:
    return longest_job_seconds > seconds - DRAIN_MARGIN_SECONDS


def _describe(seconds: int, longest_job_seconds: int) -> str:
    return (
        f"The longest job took {longest_job_seconds} s and a stopping worker has {seconds} s, so a busy one that is "
        "chosen for removal may release its job to the queue"
    )


def _advise_on_set(seconds: int, longest_job_seconds: int, derived: int) -> str:
    if not _is_too_short(seconds, longest_job_seconds):
        return ""
    least = max(derived, seconds + 1)
    return f"{_describe(seconds, longest_job_seconds)}; raise {FIELD} to {least} or more, or leave it out."


def _advise_on_derived(seconds: int, longest_job_seconds: int, wanted: int) -> str:
    if not _is_too_short(seconds, longest_job_seconds):
        return ""
    described = _describe(seconds, longest_job_seconds)
    if wanted == seconds:
        return f"{described}; that is the most that is derived: set {FIELD}, up to 3600."
    return (
        f"{described}; {wanted} s follow with the next change of the workers, or once there are none. Set {FIELD} to "
        f"{wanted} to have them now, at a cold start for each worker."
    )
