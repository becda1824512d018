"""What a simulation looked like over time, sampled at equal steps: for plots, and for comparing with a real cluster."""

from dataclasses import dataclass, field

from easel_operator.simulation.fleet import Fleet


@dataclass(slots=True)
class Timeline:
    """Columns of equal length."""

    step_seconds: float
    at_seconds: list[float] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)  # pods; those that drain among them
    starting: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)  # requests
    running: list[int] = field(default_factory=list)
    backlog_seconds: list[float] = field(default_factory=list)  # GPU-seconds waiting and left of what runs

    @property
    def next_at(self) -> float:
        """When the next sample is due."""
        return len(self.at_seconds) * self.step_seconds

    def sample(self, fleet: Fleet, now: float) -> None:
        """Add one row."""
        self.at_seconds.append(now)
        self.ready.append(fleet.ready + len(fleet.draining))
        self.starting.append(fleet.starting)
        self.waiting.append(len(fleet.waiting))
        self.running.append(fleet.running)
        self.backlog_seconds.append(fleet.waiting_work_seconds + fleet.measure_running_work_seconds(now))
