"""Ready: a list of checks, the first that has something to say wins."""

from datetime import datetime

from easel_contract import names
from easel_contract.conditions import Reason

from easel_operator.decide.conditions import ConditionState, no, yes
from easel_operator.decide.conditions.pods import (
    describe_start,
    find_cause,
    find_obstacle,
    format_clock,
    say_who_serves,
    say_why_not_ready,
)
from easel_operator.decide.facts import ServiceFacts, replicas_of
from easel_operator.decide.pod_status import StartPhase
from easel_operator.decide.scaling_mode import ScalingMode
from easel_operator.decide.snapshot import ApplyFailure
from easel_operator.manifests.exposure import service_url
from easel_operator.manifests.worker import build_worker_pod_selector_text


def decide_ready(facts: ServiceFacts, failures: tuple[ApplyFailure, ...]) -> ConditionState:
    """Whether clients get images from the service's address. What ails pods beside those that serve is said in it, and
    doesn't make it false."""
    return (
        _check_redis(facts)
        or _check_address(failures)
        or _check_guards(facts)
        or _check_gateways(facts, failures)
        or _check_workers(facts, failures)
        or _check_trouble_beside(facts, failures)
        or _check_asleep(facts)
        or yes(Reason.AVAILABLE, f"The service answers at {service_url(facts.owner)}.")
    )


def _check_redis(facts: ServiceFacts) -> ConditionState | None:
    if facts.scrape.is_redis_evicting:
        return no(
            Reason.REDIS_EVICTS,
            "Redis is there and isn't used: by its maxmemory-policy it would drop requests and results when its memory "
            "is full. Set it there: CONFIG SET maxmemory-policy noeviction, and in its configuration. The pods look "
            "again every second, and go on by themselves.",
        )
    if facts.scrape.is_broker_up is not False:
        return _check_redis_memory(facts)
    return no(
        Reason.REDIS_UNAVAILABLE,
        "No pod of the service reaches Redis, so no request can be queued. Check that Redis runs, and "
        f"that the address in Secret {facts.owner.namespace}/{facts.owner.name}-redis (set at installation) is right.",
    )


def _check_redis_memory(facts: ServiceFacts) -> ConditionState | None:
    if not facts.scrape.is_redis_full:
        return None
    return no(
        Reason.REDIS_FULL,
        "Redis has used its maxmemory, so new requests are refused (507); those under way go on. Raise its maxmemory "
        "(of the chart's own redis.maxMemory, and redis.resources with it), or lower gateway.results and gateway.cache "
        "of the services that share it.",
    )


def _check_address(failures: tuple[ApplyFailure, ...]) -> ConditionState | None:
    """Whether the service's address leads to somebody else."""
    taken = next(
        (each for each in failures if each.key.kind == "Service" and each.reason is Reason.CHILD_CONFLICT), None
    )
    return no(taken.reason, taken.message) if taken else None


def _check_guards(facts: ServiceFacts) -> ConditionState | None:
    """Whether gateways of an earlier spec let in whom the present one wouldn't."""
    missing = next((each for each in facts.missing if each.is_guard), None)
    if missing is None or not facts.earlier_ready_pods(missing.component):
        return None
    return no(
        Reason.REFERENCE_MISSING,
        f"{missing.describe()}. Until then gateways of the previous revision go on: by the keys that they have, or, "
        "without any, they refuse everybody as soon as they have read their new configuration.",
    )


def _check_gateways(facts: ServiceFacts, failures: tuple[ApplyFailure, ...]) -> ConditionState | None:
    if any(gateway.is_ready for gateway in facts.gateways):
        return None
    wanted = replicas_of(facts.gateway_deployment) or facts.spec.gateway.replicas
    return find_cause(facts, names.COMPONENT_GATEWAY, failures) or no(
        Reason.GATEWAY_UNAVAILABLE,
        f"None of {wanted} gateway pods is ready{say_why_not_ready(facts, names.COMPONENT_GATEWAY)}.",
    )


def _check_workers(facts: ServiceFacts, failures: tuple[ApplyFailure, ...]) -> ConditionState | None:
    if facts.ready_workers > 0:
        return None
    wanted = facts.wanted_workers
    if wanted == 0 and facts.mode.mode is ScalingMode.FIXED:
        return no(
            Reason.WORKERS_UNAVAILABLE,
            "spec.replicas is 0, so nothing makes images; set it to 1 or more, or use spec.scaling instead.",
        )
    if wanted == 0 and facts.mode.mode is ScalingMode.RECOMMEND:
        name = names.worker_name(facts.owner.name)
        return no(
            Reason.WORKERS_UNAVAILABLE,
            f"Deployment {name} has 0 replicas and spec.scaling.mode is Recommend, so nothing makes images; set "
            f"them with kubectl scale deployment {name}, or let spec.scaling.mode be Automatic.",
        )
    # What can't be written may still leave a worker to wake; what its pods lack doesn't.
    cause = find_cause(facts, names.COMPONENT_WORKER, failures if wanted != 0 else ())
    if cause is None and facts.model_fetch is not None and facts.worker_deployment is None:
        return no(Reason.LOADING, facts.model_fetch.message)
    return cause or _check_waking(facts) or (None if wanted == 0 else _say_workers_unavailable(facts))


def _say_workers_unavailable(facts: ServiceFacts) -> ConditionState:
    wanted = facts.wanted_workers
    return no(
        Reason.WORKERS_UNAVAILABLE,
        f"None of {wanted if wanted is not None else 'the'} worker pods is ready"
        f"{say_why_not_ready(facts, names.COMPONENT_WORKER)}.{_advise_on_late_start(facts)}",
    )


def _advise_on_late_start(facts: ServiceFacts) -> str:
    starting = [worker.created_at for worker in facts.workers if worker.phase not in (None, StartPhase.PLACING)]
    begun = min([each for each in starting if each is not None], default=facts.now)
    if (facts.now - begun).total_seconds() <= facts.start_timeout_seconds:
        return ""
    return (
        f" That is longer than the {facts.start_timeout_seconds:.0f} s that a start may take; {_where_to_look(facts)}."
    )


def _where_to_look(facts: ServiceFacts) -> str:
    return f"see kubectl describe pod -l {build_worker_pod_selector_text(facts.owner)} and the workers' log"


def find_waking_since(facts: ServiceFacts) -> datetime | None:
    """Since when requests wait for the first worker; None if the service isn't waking up.

    While it wakes, requests wait in the queue, so the service keeps its promise; a worker that no node takes, or that
    the cluster refuses, is another matter.
    """
    if facts.ready_workers > 0 or facts.mode.mode in (ScalingMode.FIXED, ScalingMode.RECOMMEND):
        return None
    if facts.wanted_workers == 0:
        return facts.scrape.waiting_since
    if not facts.was_asleep or facts.wanted_workers is None or find_obstacle(facts, names.COMPONENT_WORKER):
        return None
    begun = [worker.created_at for worker in facts.workers if worker.created_at is not None]
    return min((*begun, facts.scrape.waiting_since or facts.now))


def _check_waking(facts: ServiceFacts) -> ConditionState | None:
    since = find_waking_since(facts)
    if since is None:
        return None
    if facts.wanted_workers == 0:
        what = "no worker is ordered yet"
        advice = "see the condition ScalingActive"
    else:
        what = describe_start(facts.workers) or "its pod isn't there yet"
        advice = _where_to_look(facts)
    begun = f"Requests wait for the first worker since {format_clock(since)}: {what}."
    if (facts.now - since).total_seconds() <= facts.start_timeout_seconds:
        return yes(Reason.WAKING, begun)
    return no(
        Reason.WORKERS_UNAVAILABLE,
        f"{begun} That is longer than the {facts.start_timeout_seconds:.0f} s that a start may take; {advice}.",
    )


def _check_asleep(facts: ServiceFacts) -> ConditionState | None:
    if facts.ready_workers > 0:
        return None
    return yes(
        Reason.SCALED_TO_ZERO,
        "No worker runs while there is no work; the next request starts one and waits in the queue for it.",
    )


def _check_trouble_beside(facts: ServiceFacts, failures: tuple[ApplyFailure, ...]) -> ConditionState | None:
    """What ails pods, or keeps new ones from starting, while others serve."""
    for component in (names.COMPONENT_WORKER, names.COMPONENT_GATEWAY):
        trouble = find_cause(facts, component, failures)
        if trouble is not None:
            return yes(*say_who_serves(facts, component, trouble))
    return None
