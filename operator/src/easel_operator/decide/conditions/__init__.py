"""The conditions of a service, a file for what belongs together; what each of them says."""

from dataclasses import dataclass

from easel_contract.conditions import ConditionStatus, Reason


@dataclass(frozen=True)
class ConditionState:
    """Status, reason and message of a condition."""

    status: ConditionStatus
    reason: Reason
    message: str


def yes(reason: Reason, message: str) -> ConditionState:
    """The condition holds."""
    return ConditionState(ConditionStatus.TRUE, reason, message)


def no(reason: Reason, message: str) -> ConditionState:
    """The condition doesn't hold."""
    return ConditionState(ConditionStatus.FALSE, reason, message)


def unknown(message: str) -> ConditionState:
    """Not known yet."""
    return ConditionState(ConditionStatus.UNKNOWN, Reason.PENDING, message)
