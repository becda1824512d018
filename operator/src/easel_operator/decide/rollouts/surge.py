"""Whether a roll-out starts a worker before it ends one, and how many it ends at once."""

from easel_contract.resource import Surge

from easel_operator.decide.facts import ServiceFacts, has_earlier_pods
from easel_operator.manifests.metadata import read_revision
from easel_operator.manifests.worker import IN_PLACE, SURGE
from easel_operator.objects import Json, find_condition


def may_surge(facts: ServiceFacts) -> bool:
    """Whether a worker more than the service has may be started, if a node takes it."""
    return facts.spec.rollout.surge is not Surge.NEVER and not facts.has_exclusive_claims


def decide_surge(facts: ServiceFacts, *, is_changing: bool) -> bool:
    """Whether the worker Deployment starts a pod before it ends one.

    Each roll-out begins so where it may; once a new pod finds no place, it goes on in place to its end, which the live
    strategy remembers. Between roll-outs that one stays as it is, since another would be a write for nothing.
    """
    live = facts.worker_deployment
    if not may_surge(facts):
        return False
    if live is None or is_changing:
        return True
    is_surging = bool(_read_strategy(live).get("maxSurge") == SURGE["maxSurge"])
    if not is_surging or not has_earlier_pods(live):
        return is_surging
    refused = find_condition(live, "ReplicaFailure")
    newest = [pod for pod in facts.workers if pod.revision == read_revision(live)]
    return not any(pod.unschedulable_message for pod in newest) and (refused is None or refused["status"] != "True")


def decide_unavailable(facts: ServiceFacts, *, is_called_off: bool) -> int | None:
    """How many workers a roll-out that is no canary ends at once; None: as usual.

    Those of a canary that is called off all go at once, as they may do harm; the others serve meanwhile. It stays so
    until the next roll-out, since another strategy would be a write for nothing.
    """
    live = facts.worker_deployment
    if live is None:
        return None
    if is_called_off:
        return max(1, sum(pod.revision == read_revision(live) for pod in facts.workers))
    strategy = _read_strategy(live)
    ends: int = strategy.get("maxUnavailable", 0)
    is_usual = strategy in ({}, SURGE, IN_PLACE) or strategy.get("maxSurge") == SURGE["maxSurge"]
    return None if is_usual else ends


def _read_strategy(live: Json) -> Json:
    found: Json = live["spec"].get("strategy", {}).get("rollingUpdate") or {}
    return found
