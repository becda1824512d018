"""Which revision a service goes back to, and what that changes (docs/platform/rollouts.md)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from easel_cli.decide.service_view import RevisionView, build_view
from easel_cli.errors import UsageError

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RollbackPlan:
    """What is written, and what it means."""

    to_revision: int | None  # None: the spec counts again
    sentences: tuple[str, ...]

    @property
    def change(self) -> dict[str, Any]:
        """A merge patch of the service."""
        return {"spec": {"rollout": {"toRevision": self.to_revision}}}


def plan_rollback(service: Json, to: int | None) -> RollbackPlan:
    """To revision ``to``, or else to the newest before this one that a worker was ready of. Raises UsageError.

    What a service is held at is noted as a revision of its own; "before" counts from the one that it went back to.
    """
    name, named = service["metadata"]["name"], _named_revision(service)
    revisions = build_view(service).revisions
    if not revisions:
        raise UsageError(f"{name} has no revisions yet: none of its workers was started")
    runs = revisions[-1]
    target = _choose(name, revisions, to, before=runs.number if named is None else named)
    if named == target.number:
        raise UsageError(f"{name} is at revision {named} already; easel rollback {name} --clear lets its spec count")
    sentences = [
        f"{name} runs revision {runs.number} ({_describe(runs)}); its workers are replaced by those of revision "
        f"{target.number} ({_describe(target)}) at once, without a canary.",
        "Its model, worker, batching and release are then those of that revision, and stay so through edits of the "
        f"spec and newer releases, until easel rollback {name} --clear.",
    ]
    if not target.was_ready:
        sentences.append(f"No worker of revision {target.number} was ever ready: it may never have served.")
    return RollbackPlan(target.number, tuple(sentences))


def plan_clearing(service: Json) -> RollbackPlan:
    """That the spec and the release count again. Raises UsageError where they do."""
    name, named = service["metadata"]["name"], _named_revision(service)
    if named is None:
        raise UsageError(f"{name} isn't held at a revision: its spec counts")
    return RollbackPlan(
        None,
        (f"{name} is held at revision {named}; its workers are replaced by what its spec and the release say.",),
    )


def _choose(name: str, revisions: tuple[RevisionView, ...], to: int | None, *, before: int) -> RevisionView:
    if to is None:
        good = [each for each in revisions if each.was_ready and each.number < before]
        if not good:
            raise UsageError(f"{name} has no earlier revision that a worker was ready of; {_list(revisions)}")
        return good[-1]
    target = next((each for each in revisions if each.number == to), None)
    if target is None:
        raise UsageError(f"--to {to}: {name} keeps no such revision; {_list(revisions)}")
    if target.number == revisions[-1].number:
        raise UsageError(f"--to {to}: that is what {name} runs; {_list(revisions)}")
    return target


def _list(revisions: tuple[RevisionView, ...]) -> str:
    known = ", ".join(f"{each.number}{'' if each.was_ready else ' (never ready)'}" for each in revisions)
    return f"there are {known}"


def _describe(revision: RevisionView) -> str:
    return ", ".join(part for part in (revision.image, revision.model) if part) or "since " + revision.since


def _named_revision(service: Json) -> int | None:
    named: int | None = (service.get("spec", {}).get("rollout") or {}).get("toRevision")
    return named
