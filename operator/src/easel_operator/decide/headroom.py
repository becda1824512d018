"""What the status says of headroom: the setting in use and why, what would help where too many are late, and what a
restarted operator needs."""

from easel_contract.resource import HeadroomStatus
from pydantic import ValidationError

from easel_operator.autoscaling.explanation import advise, explain_choice
from easel_operator.autoscaling.replay.bank import Bank, Memory
from easel_operator.autoscaling.replay.setting import Setting
from easel_operator.decide.snapshot import EventPlan, EventType, ScalingDecision
from easel_operator.objects import Json


def recall_headroom(service: Json, cold_start_seconds: float) -> Memory | None:
    """What was found by replay before a restart; None where nothing is stored, or nothing that makes sense."""
    known = {field.alias or name for name, field in HeadroomStatus.model_fields.items()}
    values = {name: value for name, value in _read(service).items() if name in known}  # a later release says more
    try:
        stored = HeadroomStatus.model_validate(values)
    except ValidationError:
        return None
    return Memory(
        Setting(
            stored.margin_percent / 100,
            max(1.0, stored.hold_seconds) / cold_start_seconds,
            max(1.0, stored.last_pod_seconds) / cold_start_seconds,
            stored.expected_arrivals_percent / 100,
        ),
        seen_seconds=60.0 * stored.seen_minutes,
        debt_jobs=float(stored.debt_requests),
        debt_of_jobs=float(stored.debt_of_requests),
    )


def build_headroom_status(bank: Bank, service: Json, cold_start_seconds: float) -> HeadroomStatus:
    """The setting in use. Until one was chosen anew after a restart, what was advised before it stands."""
    memory, choice = bank.memory, bank.choice
    return HeadroomStatus(
        margin_percent=round(100 * choice.setting.margin),
        hold_seconds=round(choice.setting.hold_cold_starts * cold_start_seconds),
        last_pod_seconds=round(choice.setting.last_pod_cold_starts * cold_start_seconds),
        expected_arrivals_percent=round(100 * choice.setting.expected_arrivals),
        reason=explain_choice(choice),
        advice=str(_read(service).get("advice", "")) if choice.tally is None else advise(choice, cold_start_seconds),
        seen_minutes=round(memory.seen_seconds / 60),
        debt_requests=round(memory.debt_jobs),
        debt_of_requests=round(memory.debt_of_jobs),
    )


def is_advised_before(service: Json, known: ScalingDecision | None) -> bool:
    """Whether it was said already that the error budget isn't kept."""
    if known is not None and known.headroom is not None:
        return bool(known.headroom.advice)
    return bool(_read(service).get("advice"))


def build_headroom_events(service: Json, decision: ScalingDecision | None) -> tuple[EventPlan, ...]:
    """An event when the error budget turns out too dear; the status keeps the advice for as long as it holds."""
    headroom = None if decision is None else decision.headroom
    if headroom is None or not headroom.advice or _read(service).get("advice"):
        return ()
    return (EventPlan(EventType.NORMAL, "LateBudgetExceeded", "Scale", headroom.advice),)


def _read(service: Json) -> Json:
    stored: Json = (service.get("status", {}).get("scaling") or {}).get("headroom") or {}
    return stored
