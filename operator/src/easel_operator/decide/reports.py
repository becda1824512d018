"""Plans that say something of a service and touch nothing else: what can't be carried out, and that nobody looks."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from easel_contract import names
from easel_contract.conditions import ConditionStatus, ConditionType, Reason, build_condition
from pydantic import ValidationError

from easel_operator.decide.conditions import ConditionState, no, unknown, yes
from easel_operator.decide.conditions.progressing import decide_reconciling, decide_stalled
from easel_operator.decide.pod_status import read_pods
from easel_operator.decide.snapshot import ReconcilePlan, Snapshot
from easel_operator.decide.status import build_condition_events, build_conditions, build_status_patch, read_conditions
from easel_operator.objects import Json

WATCHED_CONDITIONS: Final = (
    ConditionType.READY,
    ConditionType.MODEL_LOADED,
    ConditionType.SCALING_ACTIVE,
    ConditionType.CAPACITY_AVAILABLE,
)


def report_invalid_spec(snapshot: Snapshot, error: ValidationError) -> ReconcilePlan:
    """Say what is wrong and leave the children as they are: what serves now goes on serving."""
    problem = no(Reason.INVALID_SPEC, describe_validation_error(error))
    news = {ConditionType.READY: _say_who_serves_meanwhile(snapshot, problem), ConditionType.PROGRESSING: problem}
    return _report_only(snapshot.service, news, unknown("Waits for a valid spec."), snapshot.now)


def report_fault(service: Json, error: Exception, now: datetime) -> ReconcilePlan:
    """Say that the operator met a fault of its own with this service; an empty plan if it has said so of this spec.

    Once, since the words of an error may differ each time, and a status that changes has the service looked at anew.
    """
    reported = read_conditions(service).get(ConditionType.PROGRESSING)
    generation = service["metadata"].get("generation", 0)
    if reported is not None and (reported.reason, reported.observed_generation) == (Reason.OPERATOR_FAULT, generation):
        return ReconcilePlan()
    problem = no(
        Reason.OPERATOR_FAULT,
        f"The operator met a fault of its own with this service ({type(error).__name__}: {error}) and tries again each "
        "minute; what runs goes on running, and this spec isn't carried out until then. The operator's log has the "
        "traceback; please report it.",
    )
    return _report_only(service, {ConditionType.PROGRESSING: problem}, unknown("Not looked at yet."), now)


def report_forbidden(service: Json, message: str, now: datetime) -> ReconcilePlan:
    """Say that the operator may not read or write the service's Secrets, in the API server's own words."""
    problem = no(
        Reason.APPLY_FAILED,
        f"The operator has no right to Secrets in this namespace, and this spec isn't carried out until it has: "
        f"{message}. Apply the chart again, or see whether a policy of the cluster refuses the operator's RoleBinding.",
    )
    return _report_only(service, {ConditionType.PROGRESSING: problem}, unknown("Not looked at yet."), now)


def report_gone(service: Json, now: datetime) -> ReconcilePlan:
    """Say that nobody looks at the service any more: what was said of its pods may be false at any moment.

    An empty plan where it has been said, and of a service that nobody has looked at yet.
    """
    previous = read_conditions(service)
    gone = ConditionState(
        ConditionStatus.UNKNOWN,
        Reason.OPERATOR_GONE,
        "The operator was uninstalled or scaled to none. What runs goes on running; nobody follows the spec, mends or "
        "scales, and this status isn't kept up. It is once an operator is installed again.",
    )
    said = [
        build_condition(
            kind, gone.status, gone.reason, gone.message, previous=old, generation=old.observed_generation, now=now
        )
        if kind in WATCHED_CONDITIONS
        else old
        for kind, old in previous.items()
    ]
    wire = [condition.to_wire() for condition in said]
    patch = build_status_patch(service, {**service.get("status", {}), "conditions": wire}) if said else None
    return ReconcilePlan(status_patch=patch)


def _report_only(
    service: Json, news: Mapping[ConditionType, ConditionState], waiting: ConditionState, now: datetime
) -> ReconcilePlan:
    """A plan that changes these conditions, Progressing among them, and nothing else; those that aren't there yet are
    ``waiting``."""
    previous = read_conditions(service)
    states = {kind: ConditionState(old.status, old.reason, old.message) for kind, old in previous.items()}
    progressing = news[ConditionType.PROGRESSING]
    news = {
        **news,
        ConditionType.RECONCILING: decide_reconciling(progressing),
        ConditionType.STALLED: decide_stalled(progressing),
    }
    everywhere = set(ConditionType) - {ConditionType.ADD_ONS_AVAILABLE, ConditionType.REDIS_USER}
    states = {**dict.fromkeys(everywhere, waiting), **states, **news}
    generation = service["metadata"].get("generation", 0)
    built = build_conditions(states, previous, generation=generation, is_rolled_out=False, now=now)
    # What wasn't looked at is left with the generation of which it was said.
    conditions = tuple(each if each.type in news else previous.get(each.type, each) for each in built)
    wire = [condition.to_wire() for condition in conditions]
    status = {**service.get("status", {}), "observedGeneration": generation, "conditions": wire}
    return ReconcilePlan(
        status_patch=build_status_patch(service, status), events=build_condition_events(previous, conditions)
    )


def _say_who_serves_meanwhile(snapshot: Snapshot, problem: ConditionState) -> ConditionState:
    roles = (names.COMPONENT_GATEWAY, names.COMPONENT_WORKER)
    pods = [read_pods(snapshot.pods, role, snapshot.now) for role in roles]
    if not all(any(pod.is_ready for pod in of_role) for of_role in pods):
        return problem
    return yes(Reason.SERVING_PREVIOUS_REVISION, f"The pods of the last valid spec go on serving. {problem.message}")


def describe_validation_error(error: ValidationError) -> str:
    """Every fault with its path in the resource and the value seen."""
    faults = [
        f"{'.'.join(['spec', *(str(part) for part in fault['loc'])])}: {fault['msg']} (value seen: {fault['input']!r})"
        for fault in error.errors()
    ]
    return f"The spec isn't valid and nothing was changed; correct {'; '.join(faults)}"
