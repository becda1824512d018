"""Services outside of the namespaces that are watched. Pure."""

from collections.abc import Collection, Iterable

from easel_operator.decide.snapshot import EventPlan, EventType
from easel_operator.objects import Json, ServiceKey, is_living, to_service_key

MAX_NAMED = 5  # namespaces in one sentence


def find_unattended(services: Iterable[Json], watched: Collection[str]) -> dict[ServiceKey, tuple[str, int]]:
    """Living services outside of ``watched`` that nobody has looked at since their spec changed: uid and generation.

    Another release's operator may be about to: only one that is found so twice running is looked after by none.
    """
    return {
        to_service_key(body): (body["metadata"]["uid"], body["metadata"].get("generation", 0))
        for body in services
        if body["metadata"]["namespace"] not in watched
        and is_living(body)
        and body.get("status", {}).get("observedGeneration") != body["metadata"].get("generation", 0)
    }


def build_unwatched_event(key: ServiceKey, watched: Collection[str], operator_namespace: str) -> EventPlan:
    """For the team whose service nothing happens to."""
    return EventPlan(
        EventType.WARNING,
        "NotWatched",
        "Watch",
        f"No operator carries this spec out. The one in namespace {operator_namespace} watches {list_some(watched)}, "
        f"and not {key.namespace}: add it to the chart's operator.watchNamespaces, or move the service.",
    )


def list_some(namespaces: Collection[str]) -> str:
    """The first few, as part of a sentence."""
    first = sorted(namespaces)[:MAX_NAMED]
    more = len(namespaces) - len(first)
    return ", ".join(first) + (f" and {more} more" if more else "")
