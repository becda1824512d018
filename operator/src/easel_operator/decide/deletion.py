"""What becomes of a deleted service's jobs and keys in Redis, and how long that may take.

Nothing keeps the resource for it: services are registered in Redis while they live, and one that is registered and
lives no more is ended by its prefix alone. Its pods answer who waits, in the time that they have to stop.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from easel_contract import names
from easel_contract.resource import StableDiffusionServiceSpec
from pydantic import ValidationError

from easel_operator.decide.snapshot import EventPlan, EventType
from easel_operator.objects import Json, ServiceKey, is_living

REASON: Final = "the service was deleted"  # clients read it as their job's error

ENDING_SECONDS: Final = (
    20.0  # for jobs to end; more than the server's RUNNING_GRACE_SECONDS and a second for its reaper
)
UNREACHABLE_SECONDS: Final = 30.0  # that Redis may be away
QUIET_SECONDS: Final = 2.0  # between the last job's end and its deletion, in which gateways read it for their clients


@dataclass(frozen=True)
class WorkLeft:
    """What of a service somebody still waits for."""

    waiting: int
    running: int
    deliveries: int  # hosts that webhooks are still to be delivered to

    @property
    def is_none(self) -> bool:
        """Whether nobody waits for anything."""
        return not (self.waiting or self.running or self.deliveries)

    def describe(self) -> str:
        """As part of a sentence."""
        return f"{self.waiting} waiting and {self.running} running requests, webhooks to {self.deliveries} hosts"


@dataclass(frozen=True)
class Ending:
    """How far the end of a service has come."""

    elapsed_seconds: float  # since the operator began with it
    work: WorkLeft | None  # None: Redis doesn't answer
    quiet_seconds: float  # since work was seen last; as long as the whole if none was
    has_pods: bool  # that run, so that somebody ends the jobs


class EndingStep(StrEnum):
    """What to do next."""

    WAIT = "Wait"  # and look again
    DELETE_KEYS = "DeleteKeys"
    GIVE_UP = "GiveUp"  # for now: leave its keys to the sweep


def decide_ending(ending: Ending) -> EndingStep:
    """The next step; WAIT is never the answer for longer than the bounds."""
    if ending.work is None:
        return EndingStep.WAIT if ending.elapsed_seconds < UNREACHABLE_SECONDS else EndingStep.GIVE_UP
    is_answered = ending.work.is_none and ending.quiet_seconds >= min(QUIET_SECONDS, ending.elapsed_seconds)
    if is_answered or not ending.has_pods or ending.elapsed_seconds >= ENDING_SECONDS:
        return EndingStep.DELETE_KEYS
    return EndingStep.WAIT


def find_surplus_finalizer(service: Json) -> tuple[str, ...] | None:
    """All finalizers but that of earlier releases, which keeps a service while no operator runs; None without it."""
    finalizers = service["metadata"].get("finalizers", [])
    if names.FINALIZER not in finalizers:
        return None
    return tuple(name for name in finalizers if name != names.FINALIZER)


def find_prefix(service: Json) -> str:
    """The service's prefix in Redis."""
    metadata = service["metadata"]
    return names.redis_prefix(metadata["namespace"], metadata["name"], metadata["uid"])


def recall_service(prefix: str, key: ServiceKey) -> Json:
    """What the registry says of a service of which nothing else is known."""
    uid = prefix.removesuffix("}:").rpartition("/")[2]
    return {"metadata": {"namespace": key.namespace, "name": key.name, "uid": uid}}


def find_orphans(
    registry: Mapping[str, str], services: Iterable[Json], watched_namespaces: tuple[str, ...]
) -> dict[str, ServiceKey]:
    """Registered prefixes of no service that lives, with the namespace and name that each had.

    Services of namespaces that aren't watched are another operator's, and never orphans.
    """
    living = {find_prefix(service) for service in services if is_living(service)}
    places = {prefix: place.partition("/") for prefix, place in registry.items() if prefix not in living}
    return {
        prefix: ServiceKey(namespace, name)
        for prefix, (namespace, _, name) in places.items()
        if not watched_namespaces or namespace in watched_namespaces
    }


def build_ended_event(service: Json, left: WorkLeft | None) -> EventPlan:
    """The keys are deleted; ``left``: what somebody still waited for."""
    note = f"The keys of {find_prefix(service)} are deleted from Redis."
    if left is not None and not left.is_none:
        note = f"{note} Not all was answered within {ENDING_SECONDS:.0f} s: {left.describe()}."
    return _build_event(EventType.NORMAL, "CleanedUp", note + _describe_bucket(service))


def build_left_event(service: Json, error: str) -> EventPlan:
    """The keys are left, since Redis couldn't be asked to delete them."""
    return _build_event(
        EventType.WARNING,
        "CleanupIncomplete",
        f"Redis could not be used for {UNREACHABLE_SECONDS:.0f} s ({error}), so the keys of {find_prefix(service)} "
        "are left there. The operator deletes them once Redis is back; nothing else will run them."
        + _describe_bucket(service),
    )


def _build_event(kind: EventType, reason: str, note: str) -> EventPlan:
    return EventPlan(kind, reason, "Delete", note)


def _describe_bucket(service: Json) -> str:
    try:
        bucket = StableDiffusionServiceSpec.model_validate(service.get("spec", {})).gateway.results.bucket
    except ValidationError:
        return ""
    if bucket is None:
        return ""
    metadata = service["metadata"]
    folder = f"{bucket.prefix}{metadata['namespace']}/{metadata['name']}/{metadata['uid']}/"
    return f" Its images stay in the bucket {bucket.name} under {folder}; delete them there, or by a lifecycle rule."
