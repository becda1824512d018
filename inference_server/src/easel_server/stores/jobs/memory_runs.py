"""What the broker of one process keeps of a job, and of the run that it waits for. No transition is made here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from easel_server.generation.job import Job, JobState
from easel_server.stores.jobs.fair_queue import Entry


@dataclass(eq=False)
class Run:
    """Work that one job waits for, or several equal ones: a flight."""

    entry: Entry
    members: list["Record"]  # the first leads
    flight_key: str | None = None  # while equal jobs may join
    inputs: Mapping[str, bytes] = field(default_factory=dict)
    state: JobState = JobState.WAITING
    attempts: int = 0
    steps_done: int = 0
    started_at: datetime | None = None
    worker: str | None = None
    cancel_requested: bool = False
    previews: tuple[bytes, ...] = ()
    token: str | None = None
    lease: timedelta = timedelta()
    lease_ends_at: datetime | None = None

    @property
    def leader(self) -> "Record":
        """Whose job a worker is given."""
        return self.members[0]

    @property
    def remaining_gpu_seconds(self) -> float:
        """Predicted, of the steps that aren't done."""
        steps = self.leader.content.parameters.steps  # what progress is told in, however few of them are drawn
        return self.entry.gpu_seconds * max(0.0, 1 - self.steps_done / steps)

    def progress(self) -> dict[str, Any]:
        """Fields of a job that are its run's, besides the state."""
        return {
            "attempts": self.attempts,
            "steps_done": self.steps_done,
            "started_at": self.started_at,
            "worker": self.worker,
            "cancel_requested": self.cancel_requested,
            "previews": len(self.previews),
        }


@dataclass(eq=False)
class Record:
    """A job: its content, and either its run or how it ended."""

    content: Job
    fingerprint: str
    run: Run | None = None
    images: tuple[bytes, ...] = ()
    previews: tuple[bytes, ...] = ()  # once it is final
    finished_by: str | None = None  # the token, so that a finish can be repeated
    expires_at: datetime | None = None

    @property
    def job(self) -> Job:
        """As its client sees it."""
        if self.run is None:
            return self.content
        return self.content.model_copy(update={"state": self.run.state, **self.run.progress()})

    def is_expired(self, now: datetime) -> bool:
        """Whether it is to be forgotten."""
        return self.expires_at is not None and self.expires_at <= now

    def is_past_deadline(self, now: datetime) -> bool:
        """Whether it should have been final by now."""
        return self.content.deadline_at is not None and self.content.deadline_at <= now
