"""What a service's children are built from: what the spec and the release ask for, or an earlier revision in its place,
or both beside each other while a canary is on trial."""

from dataclasses import dataclass, replace

from easel_contract import names
from easel_contract.resource import OnFailure, StableDiffusionServiceSpec

from easel_operator.decide.facts import ServiceFacts
from easel_operator.decide.grace import GraceDecision, decide_grace, recall_longest_job_seconds
from easel_operator.decide.rollouts.canary import Canary, find_canary
from easel_operator.decide.rollouts.going_back import GoingBack, digest_of, find_way_back, go_back, take_earlier
from easel_operator.decide.rollouts.record import Outcome, read_record, read_trial
from easel_operator.decide.rollouts.surge import decide_surge, decide_unavailable
from easel_operator.decide.rollouts.turns import choose_release
from easel_operator.decide.snapshot import Snapshot
from easel_operator.manifests.metadata import ChildContext, Release, read_revision, read_worker_file
from easel_operator.manifests.worker import build_worker_deployment
from easel_operator.objects import Json


@dataclass(frozen=True)
class Source:
    """What the children are built from."""

    spec: StableDiffusionServiceSpec  # of the workers; and of the rest unless a canary is on trial
    release: Release
    back: GoingBack | None
    to_revision: int | None  # that the spec names, and that is there
    is_lost: bool  # it names one that isn't
    canary: Canary | None = None  # that waits, or is on trial
    annotation: str = ""  # that the worker Deployment is to remember of a canary
    is_called_off: bool = False  # workers are on trial, and are to go

    @property
    def is_on_trial(self) -> bool:
        """Whether workers of a new revision are beside those of the stable one."""
        return self.canary is not None and self.canary.is_on_trial


def choose_source(snapshot: Snapshot, facts: ServiceFacts) -> Source:
    """The spec and the release, or those of an earlier revision: one that is asked for, or the last good one."""
    spec, newest = facts.spec, snapshot.release
    releases: tuple[Release, ...] = (choose_release(facts, newest, has_turn=snapshot.has_turn), newest)
    wanted = spec.rollout.to_revision
    earlier = None
    if wanted is not None and facts.worker_deployment is not None:
        earlier = take_earlier(spec, newest, snapshot.earlier_runs)
    if earlier is not None:
        spec, releases = earlier[0], earlier[1:]
    to_revision = wanted if earlier is not None else None
    back = find_way_back(snapshot.service, facts, spec, releases)
    source = Source(spec, releases[0], back, to_revision, is_lost=wanted is not None and earlier is None)
    if back is not None or to_revision is not None or spec.rollout.canary is None:
        return _remember(facts, source)
    return _try(snapshot, facts, source)


def _try(snapshot: Snapshot, facts: ServiceFacts, source: Source) -> Source:
    """With the canary of what is asked for, where there is one."""
    trial, spec, release = read_trial(facts.worker_deployment), source.spec, source.release
    is_begun = trial is not None and trial.digest == digest_of(spec, release)
    canary = find_canary(
        snapshot.service,
        facts,
        spec,
        release,
        tally=snapshot.tally,
        is_surging=decide_surge(facts, is_changing=not is_begun),
    )
    if canary is None:
        return _remember(facts, source)
    if canary.record is None:
        return _remember(facts, replace(source, spec=canary.spec, release=canary.release, canary=canary))
    annotation = canary.record.to_annotation()
    if canary.record.outcome is Outcome.PASSED:
        return replace(source, annotation=annotation)
    if canary.record.outcome is Outcome.FAILED and spec.rollout.on_failure is OnFailure.ROLLBACK:
        back = go_back(snapshot.service, facts, spec, release, said=canary.said)
        if back is not None:
            return replace(
                source,
                spec=back.spec,
                release=back.release,
                back=back,
                annotation=annotation,
                is_called_off=True,
            )
    return replace(source, canary=canary, annotation=annotation)


def _remember(facts: ServiceFacts, source: Source) -> Source:
    """With what is to be remembered of a canary that has ended, and whether one is called off."""
    live, back = facts.worker_deployment, source.back
    digest = back.failed if back is not None else digest_of(source.spec, source.release)
    record, trial = read_record(live), read_trial(live)
    # One that failed and is rolled out all the same, without a canary, is like any other from then on.
    ended = Outcome.PASSED if back is None else Outcome.FAILED
    is_ended = record is not None and (record.digest, record.outcome) == (digest, ended)
    has_other = trial is not None and (back is not None or trial.digest != digest)
    return replace(
        source,
        spec=source.spec if back is None else back.spec,
        release=source.release if back is None else back.release,
        annotation=record.to_annotation() if record is not None and is_ended else "",
        is_called_off=has_other,
    )


def prepare(
    snapshot: Snapshot, facts: ServiceFacts, source: Source
) -> tuple[Source, ServiceFacts, GraceDecision, ChildContext]:
    """What the worker Deployment is built from. A canary is called off where the stable revision's own template is
    another by now (Redis has moved, say): its pods have to follow first."""
    facts = replace(facts, spec=source.spec)
    context = _build_context(facts, source)
    grace = _decide_grace(snapshot, facts, context)
    context = replace(context, grace_seconds=grace.seconds)
    canary = source.canary
    if canary is None or canary.record is None or not context.is_on_trial:
        return source, facts, grace, context
    stable = read_revision(build_worker_deployment(build_stable_context(context, source), replicas=None))
    if canary.record.stable not in {"", stable}:
        called_off = replace(source, spec=canary.spec, release=canary.release, canary=canary.call_off(), annotation="")
        return prepare(snapshot, facts, replace(called_off, is_called_off=True))
    return source, facts, grace, replace(context, canary=replace(canary.record, stable=stable).to_annotation())


def _build_context(facts: ServiceFacts, source: Source) -> ChildContext:
    """All but what is decided by it: the grace period, the roll-out's cause, and what is remembered as good."""
    live, canary = facts.worker_deployment, source.canary if source.is_on_trial else None
    return ChildContext(
        facts.owner,
        source.spec,
        source.release,
        0,
        facts.cold_start_seconds,
        to_revision=source.to_revision,
        failed="" if source.back is None else source.back.failed,
        canary=source.annotation,
        is_on_trial=canary is not None,
        is_surging=canary is not None and canary.is_surging,
        max_unavailable=(
            decide_unavailable(facts, is_called_off=source.is_called_off) if canary is None else canary.max_unavailable
        ),
        worker_file=_choose_worker_file(live, source.spec, source.release, is_on_trial=canary is not None),
    )


def build_stable_context(context: ChildContext, source: Source) -> ChildContext:
    """What all but the worker Deployment is built from."""
    canary = source.canary
    if canary is None or not context.is_on_trial:
        return context
    return replace(
        context,
        spec=canary.spec,
        release=canary.release,
        is_on_trial=False,
        canary="",
        worker_file=_other_worker_file(context.worker_file),
    )


def _decide_grace(snapshot: Snapshot, facts: ServiceFacts, context: ChildContext) -> GraceDecision:
    def build_template(seconds: int) -> Json:
        wanted = replace(context, grace_seconds=seconds)
        template: Json = build_worker_deployment(wanted, replicas=None)["spec"]["template"]
        return template

    return decide_grace(
        facts.spec.worker.termination_grace_period_seconds,
        max(facts.scrape.longest_job_seconds, recall_longest_job_seconds(snapshot.service)),
        facts.worker_deployment,
        build_template,
        has_workers=bool(facts.workers),
    )


def _choose_worker_file(
    live: Json | None, spec: StableDiffusionServiceSpec, release: Release, *, is_on_trial: bool
) -> str:
    """Which file of the ConfigMap workers have: two revisions side by side have one each, so that a worker that is
    started again doesn't get the other's. What was promoted keeps its own, as another file would be another template.

    Args:
        live: the worker Deployment as it is.
        spec: what it is to run.
        release: likewise.
        is_on_trial: whether that is beside a stable revision.
    """
    if live is None:
        return names.CONFIG_KEY_WORKER
    file, trial = read_worker_file(live), read_trial(live)
    if trial is None:
        return _other_worker_file(file) if is_on_trial else file
    keeps = is_on_trial or trial.digest == digest_of(spec, release)
    return file if keeps else _other_worker_file(file)


def _other_worker_file(file: str) -> str:
    """The one of the two that isn't ``file``."""
    two = (names.CONFIG_KEY_WORKER, names.CONFIG_KEY_OTHER_WORKER)
    return two[1] if file == two[0] else two[0]
