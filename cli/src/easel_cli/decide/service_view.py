"""How a service stands, from its resource: why so many pods, what is wrong, what to do.

What the operator wrote is read leniently: it may be of a newer release, with reasons that this one doesn't know.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from easel_contract.conditions import ConditionType, Reason

Json = Mapping[str, Any]

# A condition that isn't True for one of these reasons is as somebody wanted it, or passes by itself.
HARMLESS: Final = frozenset(
    {Reason.PENDING, Reason.LOADING, Reason.SCALED_TO_ZERO, Reason.FIXED_REPLICAS, Reason.RECOMMENDING}
)
SERVING_BADLY: Final = frozenset({Reason.DEGRADED, Reason.SERVING_PREVIOUS_REVISION})  # Ready=True all the same
# Said again in others' words: of Progressing.
REPEATED: Final = frozenset({ConditionType.RECONCILING, ConditionType.STALLED})

# Of a model's source, what names it.
NAMING: Final = ("repository", "file", "claimName", "path", "reference", "uri")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, in the operator's sentence, which ends with what to do."""

    conditions: tuple[str, ...]  # that say it, such as Ready
    reason: str
    message: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class RevisionView:
    """What workers run, or ran."""

    number: int
    since: str
    was_ready: bool
    image: str
    model: str
    is_newest: bool


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A service at one moment."""

    namespace: str
    name: str
    url: str | None
    ready: str  # True, False or Unknown
    reason: str
    message: str
    ready_workers: int
    workers: int
    desired_workers: int | None  # None: not decided yet, or a fixed number
    why: str  # this many
    decided_at: datetime | None
    problems: tuple[Problem, ...]
    advice: tuple[str, ...]  # what would help, though nothing is wrong
    rollout: str
    canary: str
    revisions: tuple[RevisionView, ...]


def build_view(service: Json) -> ServiceView:
    """Of a StableDiffusionService as the API server has it."""
    status: Json = service.get("status") or {}
    ready = _find(status, ConditionType.READY)
    scaling: Json = status.get("scaling") or {}
    fixed = service.get("spec", {}).get("replicas")
    return ServiceView(
        namespace=service["metadata"]["namespace"],
        name=service["metadata"]["name"],
        url=status.get("url"),
        ready=ready.get("status", "Unknown"),
        reason=ready.get("reason", Reason.PENDING),
        message=ready.get("message", "") or "The operator hasn't looked at it yet; see easel doctor.",
        ready_workers=status.get("readyReplicas", 0),
        workers=status.get("replicas", 0),
        desired_workers=scaling.get("desiredReplicas", fixed),
        why=scaling.get("reason") or _explain_without_decision(fixed),
        decided_at=_parse_time(scaling.get("decidedAt")),
        problems=find_problems(status),
        advice=_find_advice(status),
        rollout=(status.get("rollout") or {}).get("message", ""),
        canary=_describe_canary(status.get("canary")),
        revisions=_list_revisions(status.get("revisions") or ()),
    )


def find_problems(status: Json) -> tuple[Problem, ...]:
    """What isn't as it should be; conditions that say the same are one."""
    found: dict[str, Problem] = {}
    for condition in status.get("conditions") or ():
        if not _is_problem(condition):
            continue
        message = condition.get("message", "")
        before = found.get(message)
        found[message] = Problem(
            (*(before.conditions if before else ()), condition["type"]),
            condition.get("reason", ""),
            message,
            _parse_time(condition.get("lastTransitionTime")),
        )
    return tuple(found.values())


def _is_problem(condition: Json) -> bool:
    kind, status, reason = condition["type"], condition["status"], condition.get("reason")
    if kind in REPEATED or reason in HARMLESS:
        return False
    if status == "True":
        return kind == ConditionType.READY and reason in SERVING_BADLY
    return status == "False" or reason == Reason.OPERATOR_GONE


def _explain_without_decision(fixed: int | None) -> str:
    if fixed is not None:
        return f"spec.replicas is {fixed}"
    return "nothing was decided yet"


def _find_advice(status: Json) -> tuple[str, ...]:
    headroom = ((status.get("scaling") or {}).get("headroom") or {}).get("advice", "")
    return tuple(text for text in (headroom, (status.get("termination") or {}).get("advice", "")) if text)


def _describe_canary(canary: Json | None) -> str:
    if not canary:
        return ""
    parts = [f"{canary.get('phase', '')}, step {canary.get('step', 0)} at {canary.get('percent', 0)} %"]
    parts += [message] if (message := canary.get("message")) else []
    for name, label in (("canary", "new"), ("stable", "stable")):
        figures: Json = canary.get(name) or {}
        if figures:
            p95 = figures.get("p95Seconds")
            parts.append(
                f"{label}: {figures.get('failures', 0)} of {figures.get('jobs', 0)} jobs failed"
                + (f", p95 {p95:g} s" if p95 is not None else "")
            )
    return "; ".join(parts)


def _list_revisions(revisions: Sequence[Json]) -> tuple[RevisionView, ...]:
    return tuple(
        RevisionView(
            number=each.get("number", 0),
            since=each.get("since", ""),
            was_ready=bool(each.get("readyAt")),
            image=each.get("image", ""),
            model=describe_model(each.get("model", "")),
            is_newest=position == len(revisions) - 1,
        )
        for position, each in enumerate(revisions)
    )


def describe_model(text: str) -> str:
    """Where a model comes from, of ``spec.model`` as JSON; the text itself where it is none."""
    try:
        (source,) = json.loads(text)["source"].values()
        return "/".join(str(source[key]) for key in NAMING if key in source) or text
    except (ValueError, KeyError, TypeError, AttributeError):
        return text


def _find(status: Json, kind: ConditionType) -> Json:
    return next((each for each in status.get("conditions") or () if each["type"] == kind), {})


def _parse_time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
