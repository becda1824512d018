"""What a signal asks for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Proposal:
    """A number of pods and the figures behind it."""

    replicas: int
    because: str


NOTHING = Proposal(0, "nothing waits or runs")
