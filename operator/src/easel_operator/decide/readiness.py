"""The conditions Ready and ModelLoaded: each a list of checks, the first that has something to say wins."""

from easel_contract import names
from easel_contract.conditions import Reason

from easel_operator.decide.facts import ServiceFacts, find_problem
from easel_operator.decide.pods import PodFacts
from easel_operator.decide.scaling_mode import ScalingMode
from easel_operator.decide.snapshot import ApplyFailure
from easel_operator.decide.verdict import Verdict, no, unknown, yes
from easel_operator.manifests.gateway import service_url


def decide_ready(facts: ServiceFacts, failures: tuple[ApplyFailure, ...]) -> Verdict:
    """Whether clients get images from the service's address."""
    return (
        _check_applied(failures)
        or _check_redis(facts)
        or _check_problems(facts)
        or _check_gateways(facts)
        or _check_workers(facts)
        or yes(Reason.AVAILABLE, f"The service answers at {service_url(facts.owner)}.")
    )


def _check_applied(failures: tuple[ApplyFailure, ...]) -> Verdict | None:
    return no(failures[0].reason, failures[0].message) if failures else None


def _check_redis(facts: ServiceFacts) -> Verdict | None:
    if facts.scrape.is_broker_up is not False:
        return None
    return no(
        Reason.REDIS_UNAVAILABLE,
        "No pod of the service reaches Redis, so no request can be queued. Check that Redis runs, and "
        f"that the address in Secret {facts.owner.namespace}/{facts.owner.name}-redis (set at installation) is right.",
    )


def _check_problems(facts: ServiceFacts) -> Verdict | None:
    problem = find_problem(facts.workers) or find_problem(facts.gateways)
    return no(problem.reason, problem.message) if problem else None


def _check_gateways(facts: ServiceFacts) -> Verdict | None:
    if any(gateway.is_ready for gateway in facts.gateways):
        return None
    wanted = facts.spec.gateway.replicas
    return no(
        Reason.GATEWAY_UNAVAILABLE,
        f"None of {wanted} gateway pods is ready{_why_not_placed(facts.gateways)}.",
    )


def _check_workers(facts: ServiceFacts) -> Verdict | None:
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
    # While the first worker wakes, requests wait in the queue: the service keeps its promise.
    is_waking = facts.was_scaled_to_zero and not facts.unschedulable_workers
    if wanted == 0 or (is_waking and wanted is not None):
        return yes(
            Reason.SCALED_TO_ZERO,
            "No worker runs while there is no work; the next request starts one and waits in the queue for it.",
        )
    return no(
        Reason.WORKERS_UNAVAILABLE,
        f"None of {wanted if wanted is not None else 'the'} worker pods is ready{_why_not_placed(facts.workers)}.",
    )


def _why_not_placed(pods: tuple[PodFacts, ...]) -> str:
    messages = sorted(pod.unschedulable_message for pod in pods if pod.unschedulable_message is not None)
    return f": no node takes them ({messages[0]})" if messages else ""


def decide_model_loaded(facts: ServiceFacts) -> Verdict:
    """Whether some worker holds the model, and none has failed to load it."""
    problem = find_problem(facts.workers)
    if problem is not None:
        return no(problem.reason, problem.message)
    if facts.ready_workers > 0:
        return yes(Reason.LOADED, "Every ready worker holds the model.")
    if facts.workers:
        return no(Reason.LOADING, "The workers are being placed, or are fetching and loading the model.")
    if facts.wanted_workers == 0:
        return no(Reason.SCALED_TO_ZERO, "No worker runs, so none holds the model.")
    return unknown("No worker pod exists yet.")
