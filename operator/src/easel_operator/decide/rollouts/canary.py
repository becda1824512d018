"""A new revision of workers on a share of the jobs first: its steps, judged one by one, to its promotion or its end.

There is one worker Deployment, whose roll-out stops where its strategy says (see manifests/worker.py): workers pull
from one queue, so a share of the pods is the same share of the jobs. All else (gateways, configuration) stays as the
stable revision has it until the new one is promoted.

phase    the worker Deployment has                    what ends it
-------  -------------------------------------------  ------------------------------------------------------------
Waiting  the stable template                          workers to compare with: then Running, at the first step
Running  the new template, on trial, in a step        the judge: the next step, promoted, or failed; no worker of the
                                                      stable revision left: Waiting
Held     as Running                                   another spec; rollout.onFailure Rollback: then failed
promoted the new template
failed   the stable template (see going_back.py)      another spec

All of it is in one annotation of the worker Deployment (``easel.dev/canary``), written together with the template and
the strategy that it speaks of; figures of the step that is on are in the status.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from easel_contract import names
from easel_contract.resource import CanaryPhase, CanarySpec, CanaryStatus, StableDiffusionServiceSpec
from pydantic import ValidationError

from easel_operator.decide.facts import ServiceFacts, find_problem, has_earlier_pods
from easel_operator.decide.pod_status import PodStatus, StartPhase
from easel_operator.decide.rollouts.going_back import digest_of, take_earlier
from easel_operator.decide.rollouts.judge import Conclusion, Judgement, judge, recall_figures
from easel_operator.decide.rollouts.record import CanaryRecord, Outcome, read_record, read_trial
from easel_operator.decide.rollouts.surge import may_surge
from easel_operator.decide.rollouts.tally import StepKey, Tally
from easel_operator.decide.status import read_revisions
from easel_operator.manifests.metadata import Release, read_revision
from easel_operator.manifests.worker import MAX_RUNS_CHARACTERS, describe_runs
from easel_operator.objects import Json

PERCENT: Final = 100
MAX_SAID_CHARACTERS: Final = 2000


@dataclass(frozen=True)
class Canary:
    """How a new revision is tried, and how that stands now."""

    spec: StableDiffusionServiceSpec  # of the stable revision
    release: Release
    record: CanaryRecord | None  # None while it waits
    phase: CanaryPhase
    workers: int = 0  # of the new revision
    is_surging: bool = False
    said: str = ""
    waits_for: str = ""  # why a step goes on after its time
    tally: Tally | None = None
    look_again_at: datetime | None = None

    @property
    def is_on_trial(self) -> bool:
        """Whether the worker Deployment has the new template."""
        return self.record is not None and self.record.outcome is not Outcome.PASSED

    @property
    def max_unavailable(self) -> int:
        """Of the strategy with which the Deployment controller makes so many workers and then stops."""
        return self.workers - 1 if self.is_surging else self.workers

    def call_off(self) -> "Canary":
        """To begin anew once the stable revision's workers are what they have to be."""
        return Canary(self.spec, self.release, None, CanaryPhase.WAITING, said="the stable workers are replaced first")


def find_obstacle(facts: ServiceFacts) -> str:
    """Why a canary has no stable workers beside it, as a part of a sentence; empty where it has."""
    count = _count_wanted(facts)
    if count == 0:
        return "the service sleeps, so there is nothing to compare it with"
    if count == 1 and not may_surge(facts):
        return (
            "the service has one worker, and may start none beside it (rollout.surge, or a claim that one node has at "
            "a time)"
        )
    if read_trial(facts.worker_deployment) is not None:
        return ""
    if facts.spec.rollout.paused:
        return "rollout.paused is set"
    if not facts.ready_workers:
        return "no worker of the stable revision is ready"
    return ""


def find_canary(
    service: Json,
    facts: ServiceFacts,
    spec: StableDiffusionServiceSpec,
    release: Release,
    *,
    tally: Tally | None,
    is_surging: bool,
) -> Canary | None:
    """The canary of what the spec and the release ask workers to run; None where there is none, or is none any more.

    Args:
        service: with its history and the figures that were written down.
        facts: its pods and Deployments.
        spec: what is asked for.
        release: that the service is to have.
        tally: what the pods did in the step that is on, as far as was seen.
        is_surging: whether a worker is started before another is ended.
    """
    live, terms = facts.worker_deployment, spec.rollout.canary
    if live is None or terms is None:
        return None
    digest, trial = digest_of(spec, release), read_trial(live)
    stable = None if _has_passed(live, digest) else _find_stable(service, live, spec, release, trial)
    is_mended = trial is None and _is_broken(facts)
    if stable is None or is_mended or explain_impossible(stable[0], spec, release):
        return None
    obstacle = find_obstacle(facts)
    if obstacle:
        return Canary(*stable, None, CanaryPhase.WAITING, said=obstacle)
    if trial is None or trial.digest != digest:
        begun = CanaryRecord(digest, "", 1, facts.now)
        return _run(facts, stable, begun, terms, is_surging=is_surging, tally=None)
    trial = replace(trial, step=min(trial.step, len(terms.steps)))  # there may be fewer by now
    known = _choose_tally(service, StepKey(read_revision(live), trial.step), tally)
    running = _run(facts, stable, trial, terms, is_surging=is_surging, tally=known)
    if trial.outcome is Outcome.FAILED:
        return replace(running, phase=CanaryPhase.HELD)
    return _judge(service, facts, running, trial, terms, known)


def _is_broken(facts: ServiceFacts) -> bool:
    """Whether all workers are in trouble: what is to mend that has nothing to be compared with, and nothing to harm."""
    return bool(facts.workers) and all(pod.problem is not None and not pod.is_ready for pod in facts.workers)


def _has_passed(live: Json, digest: str) -> bool:
    record = read_record(live)
    return record is not None and (record.digest, record.outcome) == (digest, Outcome.PASSED)


def _run(
    facts: ServiceFacts,
    stable: tuple[StableDiffusionServiceSpec, Release],
    record: CanaryRecord,
    terms: CanarySpec,
    *,
    is_surging: bool,
    tally: Tally | None,
) -> Canary:
    count = _count_wanted(facts)
    surging = may_surge(facts) if count == 1 else is_surging  # in place, one worker would leave none to compare with
    workers = count_workers(count, terms.steps[record.step - 1], is_surging=surging)
    return Canary(*stable, record, CanaryPhase.RUNNING, workers, surging, said=record.said, tally=tally)


def count_workers(count: int, percent: int, *, is_surging: bool) -> int:
    """How many workers of ``count``, or of one more where it is surging, a share is: at least one, and never all."""
    total = count + 1 if is_surging else count
    return min(max(1, (total * percent + PERCENT // 2) // PERCENT), total - 1)


def _judge(
    service: Json, facts: ServiceFacts, canary: Canary, record: CanaryRecord, terms: CanarySpec, tally: Tally
) -> Canary:
    """What becomes of a step."""
    newest = tuple(pod for pod in facts.workers if pod.revision == tally.key.revision)
    deadline = timedelta(seconds=facts.spec.rollout.deadline_seconds)
    ends_at = record.since + timedelta(seconds=terms.max_step_seconds)
    is_time_up = facts.now >= ends_at
    broken = _find_broken(service, newest, facts, deadline, is_time_up=is_time_up)
    judged = judge(tally.canary, tally.stable, terms, is_time_up=is_time_up)
    if broken:
        judged = Judgement(Conclusion.FAIL, broken)
    name = f"step {record.step} of {len(terms.steps)}"
    said = f"In {name}, {judged.said}"[:MAX_SAID_CHARACTERS]
    looks = [at for at in (ends_at, record.since + deadline) if at > facts.now]
    canary = replace(canary, look_again_at=min(looks) if looks else None)
    if judged.conclusion is Conclusion.FAIL:
        failed = replace(record, outcome=Outcome.FAILED, said=said)
        return replace(canary, record=failed, phase=CanaryPhase.HELD, said=said)
    is_up = any(pod.is_ready for pod in newest) and not any(pod.problem for pod in newest)
    waits_for = _find_delay(judged, is_up=is_up, is_paused=facts.spec.rollout.paused)
    if waits_for:
        return replace(canary, waits_for=waits_for if is_time_up else "")
    if record.step < len(terms.steps):
        record = replace(record, step=record.step + 1, since=facts.now, said=said)
        surging = canary.is_surging
        count = _count_wanted(facts)
        workers = count_workers(count, terms.steps[record.step - 1], is_surging=surging)
        key = replace(tally.key, step=record.step)
        return replace(canary, record=record, workers=workers, said=said, tally=Tally(key))
    return replace(canary, record=replace(record, outcome=Outcome.PASSED, said=said), said=said)


def _find_delay(judged: Judgement, *, is_up: bool, is_paused: bool) -> str:
    """Why a step doesn't end yet; empty where it does."""
    if not is_up:
        return "no worker of it is ready, or one is in trouble"
    if judged.conclusion is Conclusion.WAIT:
        return "none of its jobs has ended, while those of the stable revision do"
    return "rollout.paused is set" if is_paused else ""


def _find_broken(
    service: Json, newest: Iterable[PodStatus], facts: ServiceFacts, deadline: timedelta, *, is_time_up: bool
) -> str:
    """That workers of the new revision don't come up for longer than a start may take, or end again and again. One
    that no node has room for is no failure, nor is a good one that just starts again."""
    pods = tuple(newest)
    late = tuple(
        pod
        for pod in pods
        if not pod.is_ready
        and pod.phase is not StartPhase.PLACING
        and (pod.created_at is None or facts.now - pod.created_at > deadline)
    )
    problem = find_problem(late)
    last = next(iter(read_revisions(service)[-1:]), None)
    was_good = last is not None and last.ready_at is not None
    are_some_up = any(pod.is_ready for pod in pods)
    if not late or (problem is None and was_good) or (are_some_up and not is_time_up):
        return ""
    met = f" ({problem.message.rstrip('.')})" if problem is not None else ""
    seconds = facts.spec.rollout.deadline_seconds
    return f"{len(late)} of {len(pods)} workers of the new revision weren't ready within {seconds} s{met}"


def _count_wanted(facts: ServiceFacts) -> int:
    fixed = facts.spec.replicas
    return fixed if fixed is not None else facts.wanted_workers or 0


def _find_stable(
    service: Json, live: Json, spec: StableDiffusionServiceSpec, release: Release, trial: CanaryRecord | None
) -> tuple[StableDiffusionServiceSpec, Release] | None:
    """What serves now and is to be compared with; None where nothing does that ever had a ready worker."""
    annotations = live["metadata"].get("annotations") or {}
    runs, good = (annotations.get(name, "") for name in (names.ANNOTATION_RUNS, names.ANNOTATION_LAST_GOOD))
    if trial is None:
        last = next(iter(read_revisions(service)[-1:]), None)
        is_good = last is not None and last.revision == read_revision(live) and last.ready_at is not None
        if not is_good and runs != good:
            return None
        good = runs
    stable = take_earlier(spec, release, good)
    is_same = stable is not None and digest_of(*stable) == digest_of(spec, release)
    return None if is_same else stable


def explain_impossible(stable: StableDiffusionServiceSpec, spec: StableDiffusionServiceSpec, release: Release) -> str:
    """Why a change can't be tried on a share of the jobs; empty where it can."""
    model, other = (
        (each.model.model_dump(exclude={"allow_pickles", "cache"}), each.worker.engine.kind) for each in (stable, spec)
    )
    if model != other:
        return (
            "there is no canary of another model, as gateways ask for one model and only its workers take the jobs; "
            "rollout.onFailure still goes back to the earlier one if no worker becomes ready"
        )
    if stable.model.cache != spec.model.cache:
        return "there is no canary of another model.cache, which is made and filled before workers have it"
    if len(describe_runs(spec, release)) > MAX_RUNS_CHARACTERS:
        return f"there is no canary of a spec.worker of more than {MAX_RUNS_CHARACTERS} characters"
    return ""


def explain_none(live: Json | None, spec: StableDiffusionServiceSpec, release: Release) -> str:
    """Why the roll-out that is under way isn't a canary though the spec asks for one; empty where nothing is said."""
    if live is None or spec.rollout.canary is None or read_record(live) is not None or not has_earlier_pods(live):
        return ""
    good = (live["metadata"].get("annotations") or {}).get(names.ANNOTATION_LAST_GOOD, "")
    stable = take_earlier(spec, release, good)
    return "" if stable is None else explain_impossible(stable[0], spec, release)


def recall_tally(service: Json) -> Tally | None:
    """The figures that were written down; None if there are none, or none that this version can read."""
    stored = read_canary_status(service)
    if stored is None or not stored.step:
        return None
    key = StepKey(stored.revision, stored.step)
    return Tally(key, recall_figures(stored.canary), recall_figures(stored.stable))


def read_canary_status(service: Json) -> CanaryStatus | None:
    """What the status says of a canary."""
    try:
        return CanaryStatus.model_validate((service.get("status") or {}).get("canary"))
    except ValidationError:
        return None


def _choose_tally(service: Json, key: StepKey, seen: Tally | None) -> Tally:
    for each in (seen, recall_tally(service)):
        if each is not None and each.key == key:
            return each
    return Tally(key)
