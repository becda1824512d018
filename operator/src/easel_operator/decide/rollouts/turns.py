"""Who gets the installation's release when: services take a newer one in turns, a few at a time.

The release is what the installation gives to all services: the server's image, the overlays of all pods, and how this
operator builds them. A change of it would replace every worker of every namespace at once. What a service's own spec
changes is carried out at once, with the release that the service has.

All of it is read from the worker Deployments (annotations ``easel.dev/release``, ``…/worker-spec``,
``…/rollout-cause``), so that a restarted operator goes on where the one before was.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Final

from easel_contract import names
from easel_contract.resource import RolloutHold, RolloutStatus, StableDiffusionServiceSpec

from easel_operator.decide.conditions.progressing import is_settled
from easel_operator.decide.facts import ServiceFacts, has_earlier_pods
from easel_operator.decide.pod_status import PodStatus
from easel_operator.decide.rollouts.canary import find_obstacle
from easel_operator.decide.rollouts.going_back import GoingBack
from easel_operator.decide.snapshot import Stage, Standing
from easel_operator.manifests.metadata import (
    ChildContext,
    Release,
    read_json,
    read_revision,
    read_server_image,
    restore_images,
)
from easel_operator.manifests.worker import build_worker_deployment, describe_model, hash_worker_spec
from easel_operator.objects import Json, ServiceKey

CAUSE_RELEASE: Final = "Release"
CAUSE_SPEC: Final = "Spec"


def grant_turns(
    standings: Mapping[ServiceKey, Standing], granted: Set[ServiceKey], max_services: int
) -> frozenset[ServiceKey]:
    """The waiting services that may take the release now, those among them that had been ``granted`` it already.

    A service that moves counts until its pods are there: one that doesn't come up keeps its turn, so that a release
    which is no good is met by ``max_services`` services and no more.
    """
    waiting = {key: each.rank for key, each in standings.items() if each.stage is Stage.WAITING}
    moving = sum(each.stage in {Stage.MOVING, Stage.FAILED} for each in standings.values())
    kept = granted & waiting.keys()
    free = max(0, max_services - moving - len(kept))
    order = sorted(waiting.keys() - kept, key=lambda key: (waiting[key], key))
    return frozenset({*kept, *order[:free]})


@dataclass(frozen=True)
class RolloutDecision:
    """What a service's children are built from, and how it stands."""

    release: Release  # that its pods have, or are to have now
    cause: str  # of the last change of the workers' template
    keeps_deployment: bool  # the worker Deployment is left as it is, and waits
    standing: Standing
    status: RolloutStatus | None
    is_changing: bool = False  # workers are about to be replaced


def choose_release(facts: ServiceFacts, release: Release, *, has_turn: bool) -> Release:
    """The installation's release, or the one that the service has while it has no turn."""
    live = facts.worker_deployment
    if live is None or (has_turn and _find_hold(facts) is RolloutHold.WAITING):
        return release
    return _read_release(facts, live, release)


def decide_rollout(
    facts: ServiceFacts,
    context: ChildContext,
    newest: Release,
    *,
    has_turn: bool,
    back: GoingBack | None,
    is_called_off: bool,
) -> RolloutDecision:
    """Whether the worker Deployment of ``context`` is written now.

    Args:
        facts: the service and its pods.
        context: with the release that ``choose_release`` gave.
        newest: the installation's release.
        has_turn: whether the service may take it.
        back: where the service went back to its last good revision.
        is_called_off: workers are on trial, and the Deployment is to have those of the stable revision alone.
    """
    live = facts.worker_deployment
    if live is None:
        return RolloutDecision(newest, "", keeps_deployment=False, standing=Standing(), status=None)
    hold = _find_hold(facts)
    is_free = has_turn and hold is RolloutHold.WAITING
    built = build_worker_deployment(context, replicas=facts.spec.replicas)
    is_going = read_going(live) != (context.to_revision or 0)  # to an earlier revision, or away from one
    cause = CAUSE_SPEC if is_going else _decide_cause(live, built)
    is_changing = read_revision(live) != read_revision(built)
    if back is not None:
        # A pin frees the turn: what fails for a reason of its own needn't keep the others waiting.
        stage = _stage_of(hold, Stage.FAILED) if back.is_of_release else Stage.CURRENT
        return RolloutDecision(
            context.release,
            cause,
            keeps_deployment=False,
            standing=Standing(stage),
            status=None,
            is_changing=is_changing,
        )
    keeps = not (is_free or is_going or is_called_off) and _is_only_of_release(facts, live, built, context)
    if context.to_revision is not None:
        standing, said = Standing(Stage.HELD), _say_earlier(context)
        changes = is_changing and not keeps
        return RolloutDecision(context.release, cause, keeps, standing, said, is_changing=changes)
    is_behind = keeps or (context.release != newest and _uses_release(facts.spec))
    if is_behind:
        return RolloutDecision(
            context.release,
            cause,
            keeps,
            Standing(_stage_of(hold, Stage.WAITING), _rank(facts)),
            _say_held(context.release, newest, hold),
            is_changing=is_changing and not keeps,
        )
    is_moving = cause == CAUSE_RELEASE and not facts.spec.rollout.paused and _is_moving(facts, live, built)
    if context.is_on_trial and _has_no_place(live, facts.workers):
        is_moving = False  # a canary that waits for a node waits for ever, perhaps
    return RolloutDecision(
        context.release,
        cause,
        keeps_deployment=False,
        standing=Standing(Stage.MOVING if is_moving else Stage.CURRENT),
        status=None,
        is_changing=is_changing,
    )


def read_going(live: Json) -> int:
    """The number of the earlier revision that a worker Deployment was told to run; 0: none."""
    text = _annotations(live).get(names.ANNOTATION_TO_REVISION, "0")
    return int(text) if text.isdecimal() else 0


def _find_hold(facts: ServiceFacts) -> RolloutHold:
    spec = facts.spec
    if spec.rollout.paused:
        return RolloutHold.PAUSED
    if spec.rollout.to_revision is not None:
        return RolloutHold.REVISION
    if spec.rollout.pinned:
        return RolloutHold.PINNED
    return RolloutHold.CANARY if spec.rollout.canary and find_obstacle(facts) else RolloutHold.WAITING


def _say_earlier(context: ChildContext) -> RolloutStatus:
    """What a service that was told to go back runs."""
    message = (
        f"The workers run revision {context.to_revision}, by spec.rollout.toRevision: image "
        f"{context.release.worker_image}, model {describe_model(context.spec)}. Take toRevision out of the spec to "
        "have its model, worker and batching, and the installation's release, count again."
    )
    return RolloutStatus(hold=RolloutHold.REVISION, message=message)


def say_lost(spec: StableDiffusionServiceSpec) -> RolloutStatus:
    """That the revision to go back to isn't there."""
    message = (
        f"Revision {spec.rollout.to_revision}, which spec.rollout.toRevision names, isn't kept or doesn't go with the "
        "rest of the spec, so the spec counts as it is. Name another one of status.revisions, or none."
    )
    return RolloutStatus(hold=RolloutHold.REVISION, message=message)


def _uses_release(spec: StableDiffusionServiceSpec) -> bool:
    return spec.worker.image is None or spec.gateway.image is None


def _read_release(facts: ServiceFacts, live: Json, newest: Release) -> Release:
    """The release that a service's Deployments have; of an operator that wrote no annotation it is seen from their
    containers."""
    known = read_json(_annotations(live).get(names.ANNOTATION_RELEASE))
    if known.keys() >= {"image", "pullPolicy"}:
        return restore_images(newest, known)
    spec, gateways = facts.spec, facts.gateway_deployment
    worker_image = None if spec.worker.image is not None else read_server_image(live)
    gateway_image = None if spec.gateway.image is not None or gateways is None else read_server_image(gateways)
    return replace(
        newest,
        worker_image=worker_image or newest.worker_image,
        gateway_image=gateway_image or newest.gateway_image,
    )


def _annotations(live: Json) -> dict[str, str]:
    return live["metadata"].get("annotations") or {}


def _decide_cause(live: Json, built: Json) -> str:
    before, after = _annotations(live), built["metadata"]["annotations"]
    if read_revision(live) == read_revision(built):
        return before.get(names.ANNOTATION_ROLLOUT_CAUSE, "")
    is_of_spec = before.get(names.ANNOTATION_WORKER_SPEC) not in {None, after[names.ANNOTATION_WORKER_SPEC]}
    is_of_release = before.get(names.ANNOTATION_RELEASE) != after[names.ANNOTATION_RELEASE]
    return CAUSE_SPEC if is_of_spec and not is_of_release else CAUSE_RELEASE


def _is_only_of_release(facts: ServiceFacts, live: Json, built: Json, context: ChildContext) -> bool:
    """Whether writing the Deployment would replace workers for no change of the spec, nor of what they must know to
    work (where Redis is)."""
    if read_revision(live) == read_revision(built):
        return False
    template = live["spec"]["template"]
    hashes = [
        each["metadata"].get("annotations", {}).get(names.ANNOTATION_CONFIG_HASH)
        for each in (template, built["spec"]["template"])
    ]
    if hashes[0] != hashes[1] or not _is_of_this_spec(facts, live):
        return False
    if bool(live["spec"].get("paused")) != facts.spec.rollout.paused:
        return False
    grace = template.get("spec", {}).get("terminationGracePeriodSeconds", context.grace_seconds)
    same_grace = build_worker_deployment(replace(context, grace_seconds=grace), replicas=None)
    return read_revision(live) != read_revision(same_grace)


def _is_of_this_spec(facts: ServiceFacts, live: Json) -> bool:
    stored = _annotations(live).get(names.ANNOTATION_WORKER_SPEC)
    return facts.was_complete if stored is None else stored == hash_worker_spec(facts.spec)


def _is_moving(facts: ServiceFacts, live: Json, built: Json) -> bool:
    if read_revision(live) != read_revision(built):
        return True
    both = ((live, facts.workers), (facts.gateway_deployment, facts.gateways))
    return any(has_earlier_pods(each) or not _has_shown(each, pods) for each, pods in both if each is not None)


def _has_shown(deployment: Json, pods: tuple[PodStatus, ...]) -> bool:
    """Whether a Deployment without earlier pods has shown that its template works, or can't: nodes are full.

    Not all of its pods: those of a service that asks for more GPUs than there are would never all be there.
    """
    newest = [pod for pod in pods if pod.revision == read_revision(deployment)]
    return is_settled(deployment) or _has_no_place(deployment, pods) or any(pod.is_ready for pod in newest)


def _has_no_place(deployment: Json, pods: tuple[PodStatus, ...]) -> bool:
    newest = [pod for pod in pods if pod.revision == read_revision(deployment)]
    return bool(newest) and all(pod.unschedulable_message for pod in newest)


def _stage_of(hold: RolloutHold, stage: Stage) -> Stage:
    return stage if hold is RolloutHold.WAITING else Stage.HELD


def _rank(facts: ServiceFacts) -> tuple[int, int]:
    """Those that show whether a release is good go first, with few workers before many; then those that sleep, which
    show nothing; last those that serve nobody anyway, which would keep a turn and show nothing either."""
    wanted = facts.wanted_workers or 0
    if facts.ready_workers:
        return (0, facts.ready_workers)
    return (1, 0) if wanted == 0 else (2, wanted)


def _say_held(has: Release, newest: Release, hold: RolloutHold) -> RolloutStatus:
    what = "how pods are built" if has.worker_image == newest.worker_image else f"image {newest.worker_image}"
    why = {
        RolloutHold.WAITING: "its turn comes when others have it (rollout.maxServicesAtOnce of the installation)",
        RolloutHold.PINNED: "rollout.pinned keeps it from that",
        RolloutHold.PAUSED: "rollout.paused keeps it from that",
        RolloutHold.REVISION: "rollout.toRevision keeps it from that",
        RolloutHold.CANARY: "its canary has nothing to be compared with: the service sleeps, or has too few workers",
    }
    return RolloutStatus(
        hold=hold, message=f"The workers run image {has.worker_image}; the installation has {what}, and {why[hold]}."
    )
