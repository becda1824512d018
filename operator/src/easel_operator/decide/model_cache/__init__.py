"""Which children wait for the cache of the model, and what to say meanwhile.

Workers of another model are made when its files are there: until then those of the one before go on serving, and no
GPU is held for a download. A Job that is gone since (a person's, or another release's image) is made anew, and holds
nobody up whose record is the one that runs.
"""

from collections.abc import Mapping
from typing import Final

from easel_contract import metrics, names

from easel_operator.decide.facts import ModelFetch, find_problem
from easel_operator.decide.pod_status import read_evictions, read_pods
from easel_operator.decide.snapshot import FetchProgress, Snapshot
from easel_operator.manifests.metadata import Owner
from easel_operator.objects import DEPLOYMENTS, HPAS, JOBS, Json, ObjectKey, find_condition, is_owned_by, to_object_key

PROGRESS_STEPS: Final = 20  # of a download, each of which is written to the status once


def read_progress(bytes_by_state: Mapping[str, float]) -> FetchProgress | None:
    """What a Job's pod reports, in whole steps; None where it doesn't know yet what it needs."""
    needed = int(bytes_by_state.get(metrics.STATE_NEEDED, 0))
    if needed == 0:
        return None

    def in_steps(state: str) -> int:
        done = min(needed, int(bytes_by_state.get(state, 0)))
        return needed * (done * PROGRESS_STEPS // needed) // PROGRESS_STEPS

    return FetchProgress(needed, in_steps(metrics.STATE_FETCHED), in_steps(metrics.STATE_VERIFIED))


def find_model_fetch(snapshot: Snapshot, owner: Owner, wanted: tuple[Json, ...]) -> ModelFetch | None:
    """What workers wait for; None where they don't."""
    job = next((child for child in wanted if child["kind"] == JOBS.kind), None)
    if job is None or _runs_already(snapshot, owner, job):
        return None
    live = snapshot.children.get(to_object_key(job))
    is_ours = live is not None and is_owned_by(live, owner.uid)
    complete = find_condition(live, "Complete") if live is not None and is_ours else None
    if complete is not None and complete["status"] == "True":
        return None
    pods = read_pods(snapshot.pods, names.COMPONENT_MODEL_CACHE, snapshot.now)
    evictions = read_evictions(snapshot.pods, names.COMPONENT_MODEL_CACHE, snapshot.now)
    problem = find_problem(pods) or next((each.problem for each in evictions), None)
    name = job["metadata"]["name"]
    progress = snapshot.fetch if pods else None
    begun = f"Job {name} fetches the model into its cache{_describe(progress)}"
    return ModelFetch(
        message=f"{begun}; workers start when it is done, and until then those of the model before go on."
        if pods
        else f"{begun}; its pod isn't there yet, see kubectl describe job {name}.",
        problem=problem,
        progress=progress,
    )


def _describe(progress: FetchProgress | None) -> str:
    if progress is None:
        return ""
    needed, fetched, verified = (
        f"{each / 1e9:.1f}" for each in (progress.needed_bytes, progress.fetched_bytes, progress.verified_bytes)
    )
    share = 100 * progress.fetched_bytes // progress.needed_bytes
    return f": {fetched} of {needed} GB are there ({share} %), {verified} GB compared with the Hub's hashes"


def is_held_back(child: Json, snapshot: Snapshot, fetch: ModelFetch | None) -> bool:
    """Whether a child waits for the cache: the workers, and an autoscaler that would find none."""
    if fetch is None or child["metadata"]["labels"][names.LABEL_COMPONENT] != names.COMPONENT_WORKER:
        return False
    if child["kind"] == HPAS.kind:
        key = ObjectKey(DEPLOYMENTS.kind, child["metadata"]["namespace"], child["metadata"]["name"])
        return key not in snapshot.children
    return bool(child["kind"] == DEPLOYMENTS.kind)


def _runs_already(snapshot: Snapshot, owner: Owner, job: Json) -> bool:
    """Whether the workers that there are have this record: it is there, whatever became of its Job."""
    live = snapshot.children.get(ObjectKey(DEPLOYMENTS.kind, owner.namespace, names.worker_name(owner.name)))
    if live is None:
        return False
    record = job["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_MODEL_CACHE]
    annotations = live["spec"]["template"].get("metadata", {}).get("annotations") or {}
    return bool(annotations.get(names.ANNOTATION_MODEL_CACHE) == record)
