"""How far a job is and when it will be done, as clients of all APIs are told. Pure."""

from dataclasses import dataclass

from easel_server.http.waiting import Estimate
from easel_server.job import Job, JobState


@dataclass(frozen=True)
class Progress:
    """Where a job stands at one moment."""

    jobs_ahead: int | None  # None unless it waits
    eta_seconds: float | None  # until its images are there; None if it is over, or if nothing will draw it
    steps_done: int
    steps: int

    @property
    def queue_position(self) -> int | None:
        """1 for the job whose turn is next; None unless the job waits."""
        return None if self.jobs_ahead is None else self.jobs_ahead + 1

    @property
    def share(self) -> float:
        """Of the steps, from 0 to 1."""
        return self.steps_done / self.steps


def build_progress(job: Job, estimate: Estimate) -> Progress:
    """The progress of a job of which this is predicted."""
    steps = job.parameters.steps
    seconds = None if job.state.is_final else estimate.remaining_seconds
    return Progress(
        jobs_ahead=estimate.jobs_ahead if job.state is JobState.WAITING else None,
        eta_seconds=None if seconds is None else round(seconds, 1),
        steps_done=steps if job.state is JobState.SUCCEEDED else min(job.steps_done, steps),
        steps=steps,
    )
