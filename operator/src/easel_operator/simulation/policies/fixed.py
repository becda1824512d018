"""``fixed-N``: always the same number of pods."""

import math

from easel_operator.simulation.fleet import Fleet


class FixedPolicy:
    """N pods from beginning to end."""

    def __init__(self, replicas: int) -> None:
        self.name = f"fixed-{replicas}"
        self.initial_replicas = replicas
        self.next_tick_at = math.inf

    def tick(self, _fleet: Fleet, _now: float) -> int | None:
        """Never called."""
        return None
