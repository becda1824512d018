"""Worker pods as the planner counts them."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class WorkerPod:
    """A worker pod's life so far."""

    name: str
    created_at: datetime
    ready_at: datetime | None  # None while it isn't ready
    is_scheduled: bool = True


@dataclass(frozen=True, slots=True)
class PodCounts:
    """Worker pods, as the API server has them."""

    desired: int  # spec.replicas of the worker Deployment
    existing: int  # pods that are not being deleted
    ready: int
    starting: int  # scheduled, not yet ready
    unschedulable: int  # Pending with PodScheduled=False, reason Unschedulable
    workers: tuple[WorkerPod, ...] = ()  # the existing ones
    is_rolling_out: bool = False  # pods are being replaced by those of another template


@dataclass(frozen=True, slots=True)
class StartUp:
    """How long a pod's start takes, and how long one is waited for before it is written off."""

    cold_start_seconds: float
    timeout_seconds: float
    slow_seconds: float  # what nine of ten starts stay below

    def list_starting_ages_seconds(self, pods: PodCounts, now: datetime) -> list[float]:
        """Of the pods that can be counted on, oldest first; 0 for each that was only ordered, or of unknown age."""
        started_at = [worker.created_at for worker in pods.workers if worker.ready_at is None and worker.is_scheduled]
        ages = sorted((max(0.0, (now - at).total_seconds()) for at in started_at), reverse=True)
        of_unknown_age = max(0, pods.starting - len(ages)) + max(0, pods.desired - pods.existing)
        return [age for age in ages if age <= self.timeout_seconds] + [0.0] * of_unknown_age
