"""What an earlier revision ran: a worker Deployment remembers it of the one that it has, its ReplicaSets of the others.

The Deployment controller copies a Deployment's annotations to the ReplicaSet of its template, and keeps as many of
those as ``revisionHistoryLimit`` says, so the history costs no write and no watch.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from easel_contract import names

from easel_operator.decide.status import read_revisions
from easel_operator.manifests.metadata import read_revision
from easel_operator.objects import Json, is_owned_by


@dataclass(frozen=True)
class RevisionQuery:
    """Which ReplicaSet has what is looked for."""

    deployment_uid: str
    revision: str


def find_runs(service: Json, live: Json | None) -> str | RevisionQuery:
    """What the revision ran that ``spec.rollout.toRevision`` names, as describe_runs() has it, or where to look for it;
    empty where none is named, or it isn't in the history.

    Args:
        service: with its history.
        live: its worker Deployment.
    """
    number = ((service.get("spec") or {}).get("rollout") or {}).get("toRevision")
    if number is None or live is None:
        return ""
    annotations = live["metadata"].get("annotations") or {}
    runs: str = annotations.get(names.ANNOTATION_RUNS, "")
    if annotations.get(names.ANNOTATION_TO_REVISION) == str(number) and names.ANNOTATION_FAILED not in annotations:
        return runs
    entry = next((each for each in read_revisions(service) if each.number == number), None)
    if entry is None:
        return ""
    if entry.revision == read_revision(live):
        return runs
    return RevisionQuery(live["metadata"]["uid"], entry.revision)


def read_runs(replica_sets: Iterable[Json], query: RevisionQuery) -> str:
    """What the revision ran, by its ReplicaSet among these; empty if there is none any more."""
    for each in replica_sets:
        if is_owned_by(each, query.deployment_uid) and read_revision(each) == query.revision:
            return str((each["metadata"].get("annotations") or {}).get(names.ANNOTATION_RUNS, ""))
    return ""
