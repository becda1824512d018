"""What doesn't keep a service from serving, and is worth saying: add-ons, and its user of Redis."""

from collections.abc import Iterator
from typing import Final

from easel_contract.add_ons import AddOnConfig
from easel_contract.conditions import ConditionStatus, ConditionType, Reason
from easel_contract.resource import StableDiffusionServiceSpec

from easel_operator.decide.conditions import ConditionState, no, unknown, yes
from easel_operator.decide.facts import ServiceFacts
from easel_operator.manifests.configuration import build_add_ons
from easel_operator.objects import Json, find_condition

SHOWN_PROBLEMS: Final = 8


def decide_add_ons_available(facts: ServiceFacts, service: Json) -> ConditionState | None:
    """Whether requests can have each add-on, by what workers found; None where the spec lists none.

    Plain requests are no matter of it, so Ready stays as it is.
    """
    if not facts.spec.add_ons:
        return None
    found = facts.scrape.add_on_problems
    if found is None:
        return _recall(service) or unknown("No worker has looked for the add-ons yet.")
    listed = list(_list_add_ons(facts.spec))
    problems = [(kind, each, found[each.key]) for kind, each in listed if each.key in found]
    if not problems:
        return yes(
            Reason.AVAILABLE,
            f"No worker has found fault with any of {_count(len(listed))}: what is on a volume is looked for each "
            "minute, and what is fetched when a request asks for it.",
        )
    named = [f"{kind} {message or each.name}" for kind, each, message in problems[:SHOWN_PROBLEMS]]
    more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
    return no(
        Reason.ADD_ON_UNAVAILABLE,
        f"Requests that ask for {len(problems)} of {_count(len(listed))} fail, others don't: {'; '.join(named)}{more}. "
        "Correct the source in the spec, or what is there; workers look again within a minute, or as a request asks.",
    )


def decide_redis_user(refusal: str) -> ConditionState | None:
    """That a service shares its user of Redis with others; None where it has its own, or nobody said it should."""
    if not refusal:
        return None
    return no(
        Reason.SHARED_USER,
        "The service works, and logs into Redis with the user that all services share, so that one that is broken "
        f"into can read and disturb the others. Redis took no user for it: {refusal}. Give the user in Redis' URL the "
        "right to the commands ACL and INFO (+acl +info), or have the chart install a Redis; it is tried again every "
        "few seconds.",
    )


def _list_add_ons(spec: StableDiffusionServiceSpec) -> Iterator[tuple[str, AddOnConfig]]:
    """Each with what it is called by its kind."""
    configured = build_add_ons(spec)
    yield from (("adapter", each) for each in configured.adapters)
    yield from (("ControlNet", each) for each in configured.control_nets)
    yield from (("upscaler", each) for each in configured.upscalers)
    yield from (("preprocessor", each) for each in configured.preprocessors)


def _count(listed: int) -> str:
    return "1 add-on" if listed == 1 else f"{listed} add-ons"


def _recall(service: Json) -> ConditionState | None:
    """What was said last: a restart of the operator is no news. Only where it was said of this very spec."""
    last = find_condition(service, ConditionType.ADD_ONS_AVAILABLE)
    generation = service["metadata"].get("generation", 0)
    if last is None or last.get("observedGeneration") != generation or last["reason"] not in set(Reason):
        return None
    return ConditionState(ConditionStatus(last["status"]), Reason(last["reason"]), last.get("message", ""))
