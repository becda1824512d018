"""What is said of a canary: in the condition Progressing, in the status, and in events."""

from dataclasses import replace
from datetime import timedelta
from typing import Final

from easel_contract.conditions import ConditionStatus, Reason
from easel_contract.resource import CanaryPhase, CanarySpec, CanaryStatus

from easel_operator.decide.conditions import ConditionState, no, yes
from easel_operator.decide.facts import ServiceFacts
from easel_operator.decide.rollouts.canary import Canary, read_canary_status, recall_tally
from easel_operator.decide.rollouts.record import Outcome, read_record
from easel_operator.decide.rollouts.tally import StepKey, Tally
from easel_operator.decide.snapshot import EventPlan, EventType
from easel_operator.manifests.metadata import read_revision
from easel_operator.objects import Json

COUNT_SECONDS: Final = timedelta(seconds=30)  # figures are written down this often at most


def decide_canary_progressing(
    facts: ServiceFacts, canary: Canary | None, none: str, known: ConditionState
) -> ConditionState:
    """The condition Progressing with what is to be said of a canary, or of why there is ``none``; ``known`` without."""
    if canary is None:
        return replace(known, message=f"{known.message} Besides, {none}.") if none else known
    terms = facts.spec.rollout.canary or CanarySpec()
    if canary.phase is CanaryPhase.HELD:
        return no(Reason.CANARY_FAILED, _say_phase(canary, terms))
    if known.status is not ConditionStatus.TRUE:
        return known
    reason = Reason.CANARY_WAITING if canary.record is None else Reason.CANARY_RUNNING
    return yes(reason, _say_phase(canary, terms))


def build_canary_status(service: Json, facts: ServiceFacts, canary: Canary) -> CanaryStatus:
    """What is said of a canary. Its figures are written down now and then, so that not each job is a write."""
    terms = facts.spec.rollout.canary or CanarySpec()
    if canary.record is None:
        return CanaryStatus(phase=CanaryPhase.WAITING, message=_say_phase(canary, terms))
    live, step = facts.worker_deployment, canary.record.step
    status = CanaryStatus(
        phase=canary.phase,
        revision=read_revision(live) if live is not None else "",
        step=step,
        percent=terms.steps[step - 1],
        workers=canary.workers,
        since=canary.record.since,
        message=_say_phase(canary, terms),
    )
    tally, stored = canary.tally, read_canary_status(service)
    is_same = stored is not None and (stored.revision, stored.step) == (status.revision, status.step)
    if stored is not None and is_same and stored.counted_at is not None:
        is_recent = facts.now - stored.counted_at < COUNT_SECONDS and stored.phase is status.phase
        if is_recent or tally is None or tally == recall_tally(service):
            kept = {"canary": stored.canary, "stable": stored.stable, "counted_at": stored.counted_at}
            return status.model_copy(update=kept)
    tally = tally or Tally(StepKey(status.revision, step))
    return status.model_copy(
        update={"canary": tally.canary.to_status(), "stable": tally.stable.to_status(), "counted_at": facts.now}
    )


def _say_phase(canary: Canary, terms: CanarySpec) -> str:
    if canary.phase is CanaryPhase.HELD:
        return (
            f"The new revision did worse, and stays at its share, as rollout.onFailure is Hold. {canary.said}. To go "
            "back, set rollout.onFailure to Rollback or correct the spec; to have it all the same, take rollout.canary "
            "out."
        )
    if canary.record is None:
        return f"The new revision isn't tried yet: {canary.said}. The workers run the stable one until then."
    step = canary.record.step
    over = f" That time is over, and the step goes on: {canary.waits_for}." if canary.waits_for else ""
    return (
        f"The new revision is tried on {terms.steps[step - 1]} % of the workers, in step {step} of "
        f"{len(terms.steps)}: until it has ended {terms.min_jobs} jobs, or for {terms.max_step_seconds} s.{over}"
    )


def build_canary_events(
    service: Json, live: Json | None, status: CanaryStatus | None, canary: Canary | None
) -> tuple[EventPlan, ...]:
    """An event where a step begins, and where the last one has passed; each with the figures that decided."""
    stored, record = read_canary_status(service), read_record(live)
    if status is not None and status.phase is CanaryPhase.RUNNING and canary is not None:
        if stored is not None and (stored.revision, stored.step) == (status.revision, status.step):
            return ()
        note = f"{status.message} {canary.said}.".removesuffix(" .")
        return (EventPlan(EventType.NORMAL, "CanaryStep", "RollOut", note),)
    if status is None and stored is not None and record is not None and record.outcome is Outcome.PASSED:
        note = f"The new revision replaces the stable one. {record.said}."
        return (EventPlan(EventType.NORMAL, "CanaryPromoted", "RollOut", note),)
    return ()
