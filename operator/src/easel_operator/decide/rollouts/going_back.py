"""Back to an earlier revision: the last good one, where a newer one doesn't become ready within its time, or the one
that ``spec.rollout.toRevision`` names.

What goes back is what the workers run (``model``, ``worker`` and ``batching`` of the spec, and the release), and with
it what gateways are told of it: the pods' template alone would leave workers of one model behind gateways of another.

The worker Deployment remembers it in annotations: ``easel.dev/runs`` what its own template is made of,
``easel.dev/last-good`` the same of the last template that a worker became ready of, ``easel.dev/failed`` what was tried
after it in vain. Another spec or release than that one is tried anew.
"""

import json
from dataclasses import dataclass

from easel_contract import names
from easel_contract.conditions import ConditionType, Reason
from easel_contract.resource import OnFailure, StableDiffusionServiceSpec
from pydantic import ValidationError

from easel_operator.decide.facts import ServiceFacts, find_problem
from easel_operator.decide.pod_status import StartPhase
from easel_operator.decide.rollouts.record import Outcome, read_record, read_trial
from easel_operator.decide.status import read_revisions
from easel_operator.manifests.metadata import Release, read_json, read_revision, restore_images
from easel_operator.manifests.worker import describe_runs, digest_runs
from easel_operator.objects import Json, find_condition

FIELDS = ("model", "worker", "batching")
OF_CLAIM = ("size", "storageClassName", "accessModes")  # of a model's cache: a claim can't shrink, nor change otherwise


@dataclass(frozen=True)
class GoingBack:
    """What children are built from in place of the spec and the release that failed."""

    spec: StableDiffusionServiceSpec
    release: Release
    failed: str  # digest of what failed; goes into the annotation
    is_of_release: bool  # the release failed, with a spec that was good
    message: str


def take_earlier(
    spec: StableDiffusionServiceSpec, release: Release, runs: str
) -> tuple[StableDiffusionServiceSpec, Release] | None:
    """Spec and release with what an earlier revision ran; None where ``runs`` is empty, or doesn't go with the rest.

    Args:
        spec: what is asked for.
        release: the installation's.
        runs: of that revision, as describe_runs() has it.
    """
    known = read_runs(runs)
    earlier = _restore(spec, known["spec"]) if known else None
    return None if earlier is None else (earlier, restore_images(release, known))


def read_runs(text: str) -> Json:
    """What describe_runs() wrote; empty where there is none, or where somebody has written something else."""
    known = read_json(text)
    spec = known.get("spec")
    if not isinstance(spec, dict) or not known.keys() >= {"image", "pullPolicy"}:
        return {}
    return known if all(isinstance(spec.get(field, {}), dict) for field in FIELDS) else {}


def find_way_back(
    service: Json, facts: ServiceFacts, spec: StableDiffusionServiceSpec, releases: tuple[Release, ...]
) -> GoingBack | None:
    """The last good revision, where what the spec asks for has failed; None where it hasn't, where there is none, or
    where the service isn't to go back.

    Args:
        service: with its history.
        facts: its pods and Deployments.
        spec: what is asked for.
        releases: the one that the service is to have, and the installation's.
    """
    live = facts.worker_deployment
    if live is None or spec.rollout.on_failure is not OnFailure.ROLLBACK:
        return None
    annotations = live["metadata"].get("annotations") or {}
    good: str = annotations.get(names.ANNOTATION_LAST_GOOD, "")
    for release in releases if good else ():
        tried = digest_of(spec, release)
        if annotations.get(names.ANNOTATION_FAILED) == tried or _fails_now(service, facts, live, spec, release):
            return go_back(service, facts, spec, release, said=_recall_canary(live, tried))
    return None


def go_back(
    service: Json,
    facts: ServiceFacts,
    spec: StableDiffusionServiceSpec,
    release: Release,
    *,
    said: str = "",
) -> GoingBack | None:
    """To the last good revision; None if there is none that goes with the rest of the spec, or if it is this one.

    Args:
        service: with its history.
        facts: its pods and Deployments.
        spec: what failed.
        release: likewise.
        said: the figures by which it failed as a canary; empty where it did otherwise.
    """
    live = facts.worker_deployment or {}
    text: str = (live.get("metadata", {}).get("annotations") or {}).get(names.ANNOTATION_LAST_GOOD, "")
    good = read_runs(text)
    earlier = _restore(spec, good["spec"]) if good else None
    if earlier is None:
        return None
    before, tried = restore_images(release, good), digest_of(spec, release)
    if digest_of(earlier, before) == tried:
        return None
    is_of_release = before != release and describe_runs(earlier, release) == describe_runs(spec, release)
    message = (not said and _recall(service)) or _say(facts, good, spec, release, said, is_of_release=is_of_release)
    return GoingBack(earlier, before, tried, is_of_release, message)


def _recall_canary(live: Json, tried: str) -> str:
    """By what figures it failed as a canary; empty where it didn't."""
    record = read_record(live)
    return record.said if record is not None and (record.digest, record.outcome) == (tried, Outcome.FAILED) else ""


def digest_of(spec: StableDiffusionServiceSpec, release: Release) -> str:
    """Changes with what workers are to run."""
    return digest_runs(describe_runs(spec, release))


def decide_last_good(service: Json, live: Json | None, *, is_changing: bool) -> str:
    """What the worker Deployment is to remember as good: what it runs now if a worker of it was ready and it's about to
    change, else what it remembers already."""
    if live is None:
        return ""
    annotations = live["metadata"].get("annotations") or {}
    kept: str = annotations.get(names.ANNOTATION_LAST_GOOD, "")
    if read_trial(live) is not None:
        return kept  # a ready worker makes no canary good
    last = next(iter(read_revisions(service)[-1:]), None)
    is_good = last is not None and last.revision == read_revision(live) and last.ready_at is not None
    return annotations.get(names.ANNOTATION_RUNS, kept) if is_changing and is_good else kept


def _fails_now(
    service: Json, facts: ServiceFacts, live: Json, spec: StableDiffusionServiceSpec, release: Release
) -> bool:
    """Whether the newest template, of this spec and release, is past its time without a ready worker, and not for want
    of a place: nodes, quotas and volumes would keep an earlier one from starting as well."""
    annotations = live["metadata"].get("annotations") or {}
    if annotations.get(names.ANNOTATION_RUNS) != describe_runs(spec, release):
        return False
    progress = find_condition(live, "Progressing")
    if progress is None or (progress["status"], progress.get("reason")) != ("False", Reason.DEADLINE_EXCEEDED):
        return False
    last = next(iter(read_revisions(service)[-1:]), None)
    revision = read_revision(live)
    if last is None or last.revision != revision or last.ready_at is not None:
        return False
    newest = [pod for pod in facts.workers if pod.revision == revision]
    return any(pod.phase is not StartPhase.PLACING for pod in newest) and not any(pod.is_ready for pod in newest)


def _restore(spec: StableDiffusionServiceSpec, good: Json) -> StableDiffusionServiceSpec | None:
    """The spec with what ran before; None if both don't go together."""
    wire = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    worker = {**good.get("worker", {})}
    for name in ("disruptionBudget", "terminationGracePeriodSeconds"):
        if name in wire.get("worker", {}):
            worker[name] = wire["worker"][name]
    model = _keep_claim(good.get("model", {}), wire["model"])
    kept = {name: value for name, value in wire.items() if name not in FIELDS}
    try:
        return StableDiffusionServiceSpec.model_validate({**kept, **good, "model": model, "worker": worker})
    except ValidationError:
        return None


def _keep_claim(model: Json, newest: Json) -> Json:
    """An earlier model, with the claim of its own cache as it is by now."""
    caches = [each.get("cache", {}) for each in (model, newest)]
    if not all("size" in cache for cache in caches):
        return model
    others, claim = (
        {name: value for name, value in cache.items() if (name in OF_CLAIM) is is_of_claim}
        for cache, is_of_claim in zip(caches, (False, True), strict=True)
    )
    return {**model, "cache": {**others, **claim}}


def _recall(service: Json) -> str:
    """What was said when the service went back, if that is of this very spec: what its pods met is gone with them."""
    last = find_condition(service, ConditionType.PROGRESSING)
    generation = service["metadata"].get("generation", 0)
    is_of_this = last is not None and (last["reason"], last.get("observedGeneration")) == (
        Reason.ROLLED_BACK,
        generation,
    )
    return str(last.get("message", "")) if last is not None and is_of_this else ""


def _say(
    facts: ServiceFacts,
    good: Json,
    spec: StableDiffusionServiceSpec,
    release: Release,
    said: str,
    *,
    is_of_release: bool,
) -> str:
    """What failed, by what was ``said`` of it as a canary or else by its time, and what follows."""
    what = f"Image {release.worker_image} of the installation" if is_of_release else "What the spec asks workers to run"
    step = "take that release back" if is_of_release else "correct the spec"
    problem = find_problem(facts.workers)
    met = f" ({problem.message.rstrip('.')})" if problem is not None else ""
    failed = (
        f"did worse than the stable revision beside it. {said}. So"
        if said
        else f"had no ready worker within {spec.rollout.deadline_seconds} s{met}, so"
    )
    model = json.dumps(good["spec"].get("model", {}), separators=(",", ":"))
    return (
        f"{what} {failed} the service runs its last good revision again: image {good['image']}, model {model}. To go "
        f"on, {step}, or have it tried again with spec.rollout.onFailure Hold."
    )
