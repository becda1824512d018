"""What a signal asks for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Proposal:
    """A number of pods and the figures behind it."""

    replicas: int
    because: str
    passing: int = 0  # pods for this moment alone: none is kept for the time that one without need of it is kept

    @property
    def most(self) -> int:
        """What it asks for now."""
        return max(self.replicas, self.passing)


NOTHING = Proposal(0, "nothing waits or runs")
