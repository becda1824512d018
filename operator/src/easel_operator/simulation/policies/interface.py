"""What the simulation asks of a policy, and how a policy's name and parameters are written."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from easel_operator.simulation.fleet import Fleet

FIRST_TICK_SECONDS: Final = 0.0


class PolicyError(Exception):
    """A policy or a parameter that doesn't exist, or a value that isn't allowed."""


class Policy(Protocol):
    """Decides the number of pods, now and then. Used for one simulation."""

    @property
    def name(self) -> str:
        """As the user wrote it."""
        ...

    @property
    def initial_replicas(self) -> int:
        """Ready pods at second 0."""
        ...

    @property
    def next_tick_at(self) -> float:
        """The second of the next tick, later than the last one; infinity for none."""
        ...

    def tick(self, fleet: Fleet, now: float) -> int | None:
        """The number of pods from now on; None to leave it."""
        ...


@dataclass(frozen=True, slots=True)
class PolicyName:
    """``hpa-queue:target=1.5,downWindow=120``, taken apart."""

    text: str
    kind: str
    parameters: Mapping[str, str]


class Parameters:
    """A policy's parameters as numbers; what nobody took is an error."""

    def __init__(self, name: PolicyName) -> None:
        self._kind = name.kind
        self._left = dict(name.parameters)
        self._known: list[str] = []

    def take(self, key: str, default: float, *, least: float = 0.0, most: float = math.inf) -> float:
        """A parameter's value, or its default. PolicyError if it isn't a number between ``least`` and ``most``."""
        self._known.append(key)
        text = self._left.pop(key, None)
        if text is None:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise PolicyError(f"{self._kind}: {key} is {text!r}; a number from {least:g} to {most:g} is allowed")
        return value

    def take_rest(self) -> dict[str, str]:
        """All that is left, as it was written."""
        rest, self._left = self._left, {}
        return rest

    def finish(self) -> None:
        """PolicyError if a parameter was given that the policy doesn't have."""
        if self._left:
            known = ", ".join(sorted(self._known)) or "none"
            raise PolicyError(f"{self._kind} has no parameter {next(iter(self._left))!r}; it has {known}")


def parse_policy_name(text: str) -> PolicyName:
    """``KIND[:KEY=VALUE,KEY=VALUE…]``. Raises PolicyError."""
    kind, _, rest = text.strip().partition(":")
    parameters: dict[str, str] = {}
    for part in rest.split(",") if rest else ():
        key, equals, value = part.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise PolicyError(f"{kind}: {part!r} is no parameter; KEY=VALUE is expected")
        parameters[key.strip()] = value.strip()
    return PolicyName(text.strip(), kind, parameters)


def split_policy_names(text: str) -> list[str]:
    """A list of policies, split at commas; a part of the form KEY=VALUE belongs to the policy before it."""
    names: list[str] = []
    for part in text.split(","):
        is_parameter = "=" in part and ":" not in part
        if is_parameter and names:
            names[-1] += f",{part.strip()}"
        elif part.strip():
            names.append(part.strip())
    return names


def next_multiple(period_seconds: float, phase_seconds: float, now: float) -> float:
    """The first moment after ``now`` that is ``phase`` plus a whole number of periods."""
    periods = math.floor((now - phase_seconds) / period_seconds) + 1
    at = periods * period_seconds + phase_seconds
    return at if at > now else at + period_seconds
