"""What a condition says, before it is given its transition time."""

from dataclasses import dataclass

from easel_contract.conditions import ConditionStatus, Reason


@dataclass(frozen=True)
class Verdict:
    """Status, reason and message of a condition."""

    status: ConditionStatus
    reason: Reason
    message: str


def yes(reason: Reason, message: str) -> Verdict:
    """The condition holds."""
    return Verdict(ConditionStatus.TRUE, reason, message)


def no(reason: Reason, message: str) -> Verdict:
    """The condition doesn't hold."""
    return Verdict(ConditionStatus.FALSE, reason, message)


def unknown(message: str) -> Verdict:
    """Not known yet."""
    return Verdict(ConditionStatus.UNKNOWN, Reason.PENDING, message)
