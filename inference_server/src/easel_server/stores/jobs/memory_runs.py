"""Jobs and their runs in one process, and the transitions between their states; see the table of ``job.py``.

Nothing here awaits, so each transition is atomic on the loop. Who asks for one, and what it hears, is in ``memory.py``.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from easel_contract.server_config import Priority

from easel_server.generation import messages
from easel_server.generation.job import Job, JobState
from easel_server.generation.models import ModelIdentity
from easel_server.stores.images.interface import Reservation, StoredImages
from easel_server.stores.images.memory import MemoryImages
from easel_server.stores.jobs.fair_queue import ANY_MODEL, PRIORITIES, Entry, FairQueue
from easel_server.stores.jobs.interface import MODEL_UNSERVED_SECONDS, Claim, JobBounds, Joining, QueueTerms
from easel_server.stores.memory_wakeups import Clock, MemoryWakeups
from easel_server.stores.usage.memory import MemoryUsage


@dataclass(eq=False)
class Run:
    """Work that one job waits for, or several equal ones: a flight."""

    entry: Entry
    members: list["Record"]  # the first leads
    flight_key: str | None = None  # while equal jobs may join
    inputs: Mapping[str, bytes] = field(default_factory=dict)
    reservation: Reservation | None = None  # of the budget for images
    state: JobState = JobState.WAITING
    attempts: int = 0
    steps_done: int = 0
    started_at: datetime | None = None
    worker: str | None = None
    cancel_requested: bool = False
    previews: tuple[bytes, ...] = ()
    checkpoint: bytes | None = None
    checkpoint_ends_at: datetime | None = None
    token: str | None = None
    lease: timedelta = timedelta()
    lease_ends_at: datetime | None = None
    target_seconds: float | None = None  # that its work is bounded by
    excess_gpu_seconds: float = 0.0  # while it runs: what is left of it that its worker can't do within that
    is_overrunning: bool = False
    spent_microseconds: int = 0  # of a GPU, by attempts whose work wasn't lost

    def add_spent(self, gpu_seconds: float) -> None:
        """Add what an attempt took."""
        self.spent_microseconds += max(0, round(gpu_seconds * 1_000_000))

    @property
    def leader(self) -> "Record":
        """Whose job a worker is given."""
        return self.members[0]

    @property
    def remaining_gpu_seconds(self) -> float:
        """Predicted, of the steps that aren't done."""
        steps = self.leader.content.parameters.steps  # what progress is counted in, however few of them are taken
        return self.entry.gpu_seconds * max(0.0, 1 - self.steps_done / steps)

    def measure_excess(self, now: datetime) -> None:
        """Compare what is left of a running run, and how long it has run, with its target."""
        if self.target_seconds is None or self.started_at is None:
            return
        elapsed_seconds = (now - self.started_at).total_seconds()
        in_time_seconds = max(0.0, self.target_seconds - elapsed_seconds)
        self.excess_gpu_seconds = max(0.0, self.remaining_gpu_seconds - in_time_seconds)
        self.is_overrunning = elapsed_seconds > self.target_seconds

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
    number: int  # counts jobs
    run: Run | None = None
    images_entry: str = ""  # in the books
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


def build_entry(number: int, job: Job, now: datetime, terms: QueueTerms | None = None) -> Entry:
    """The place in the queue of a job of its own, submitted now."""
    entry = Entry(
        number,
        job.owner,
        job.priority,
        job.predicted_gpu_seconds,
        job.weight,
        job.parameters.batch_key,
        job.parameters.images,
        model_of(job),
    )
    if terms is None:
        return entry
    first_from = now + timedelta(seconds=terms.overtaken_within_seconds)
    return replace(entry, start_by=_start_by(now, terms), first_from=first_from)


def _start_by(now: datetime, terms: QueueTerms) -> datetime:
    return now + timedelta(seconds=terms.start_within_seconds)


def model_of(job: Job) -> str:
    """The key of the model that a job asks for."""
    return job.model.key if job.model is not None else ANY_MODEL


class MemoryRuns:
    """All jobs and runs, and who is next."""

    def __init__(
        self,
        bounds: JobBounds,
        clock: Clock,
        wakeups: MemoryWakeups,
        enqueue_delivery: Callable[[Job, str], None],
        books: MemoryImages,
        usage: MemoryUsage,
    ) -> None:
        self.records: dict[str, Record] = {}
        self.runs: dict[int, Run] = {}
        self.flights: dict[str, Run] = {}
        self.running: dict[str, Run] = {}  # by token
        self.queue = FairQueue()
        self.last_number = 0
        self._jobs_added = 0
        self.served_models: dict[str, datetime] = {}  # when somebody last said to serve them
        self._bounds = bounds
        self._clock = clock
        self._wakeups = wakeups
        self._enqueue_delivery = enqueue_delivery
        self._books = books
        self._usage = usage

    def find(self, job_id: str) -> Record | None:
        """The record, unless unknown or expired."""
        record = self.records.get(job_id)
        return None if record is None or record.is_expired(self._clock()) else record

    def add(self, job: Job, fingerprint: str) -> Record:
        """Store a job as it came, moved to this clock; it has no run yet."""
        now = self._clock()
        offset = now - job.submitted_at
        deadline_at = job.deadline_at + offset if job.deadline_at else None
        content = job.model_copy(update={"submitted_at": now, "deadline_at": deadline_at})
        self._jobs_added += 1
        self.records[job.id] = record = Record(content, fingerprint, self._jobs_added)
        if job.webhook is not None:
            self._enqueue_delivery(record.job, "start")
        return record

    def start(
        self,
        record: Record,
        inputs: Mapping[str, bytes],
        flight_key: str | None,
        reservation: Reservation,
        target_seconds: float | None,
        terms: QueueTerms | None,
    ) -> None:
        """Queue a run of its own for the job, for whose images room was reserved."""
        self.last_number += 1
        entry = build_entry(self.last_number, record.content, self._clock(), terms)
        record.run = run = Run(entry, [record], flight_key, inputs, reservation, target_seconds=target_seconds)
        self.runs[entry.number] = run
        if flight_key is not None:
            self.flights.setdefault(flight_key, run)
        self._note_model(entry.model)
        self.queue.add(entry)
        self._wakeups.notify()

    def join(self, record: Record, run: Run, terms: QueueTerms | None) -> None:
        """Let the job follow a run that is under way; one that waits goes with the higher priority of the two, and is
        timely as long as the last of its jobs is.
        """
        record.run = run
        run.members.append(record)
        start_by = run.entry.start_by
        if terms is not None and start_by is not None and (latest := _start_by(self._clock(), terms)) > start_by:
            if run.state is JobState.WAITING:
                run.entry = self.queue.extend(run.entry, latest)
            else:
                run.entry = replace(run.entry, start_by=latest)
        priority: Priority = record.content.priority
        if run.state is JobState.WAITING and PRIORITIES.index(priority) < PRIORITIES.index(run.entry.priority):
            self.queue.remove(run.entry)
            run.entry = replace(run.entry, priority=priority)
            self.queue.add(run.entry)
        self._wakeups.notify()

    def is_in_time(self, run: Run) -> bool:
        """Whether somebody still wants the run; jobs whose deadline passed leave it."""
        now = self._clock()
        while run.members and run.leader.is_past_deadline(now):
            self.leave(run.leader, JobState.FAILED, messages.DEADLINE_PASSED)
        return bool(run.members)

    def is_alone(self, run: Run) -> bool:
        """Whether a waiting run is to be generated by itself; see Claim."""
        return self._is_last_attempt(run.attempts + 1)

    def _is_last_attempt(self, number: int) -> bool:
        return number > 1 and number >= self._bounds.max_attempts

    def may_join(self, entry: Entry, joining: Joining) -> bool:
        """Whether it may be generated together with these, if there is room."""
        is_lower = PRIORITIES.index(entry.priority) > PRIORITIES.index(joining.priority)
        return entry.batch_key == joining.batch_key and not is_lower and not self.is_alone(self.runs[entry.number])

    def claim(self, run: Run, worker: str, lease_seconds: float, *, in_turn: bool) -> Claim:
        """Waiting → Running, in its owner's turn or out of turn in a batch."""
        now = self._clock()
        self.queue.take(run.entry, in_turn=in_turn)
        run.token = secrets.token_hex(16)
        run.lease = timedelta(seconds=lease_seconds)
        run.lease_ends_at = now + run.lease
        run.state = JobState.RUNNING
        run.attempts += 1
        run.worker = worker
        run.started_at = now
        if run.checkpoint_ends_at is not None and run.checkpoint_ends_at <= now:
            run.checkpoint = None
        if run.checkpoint is None:
            run.steps_done = 0
        run.measure_excess(now)
        self.running[run.token] = run
        self._wakeups.notify()
        is_alone = self._is_last_attempt(run.attempts)
        return Claim(run.leader.job, run.token, lease_seconds, run.inputs, checkpoint=run.checkpoint, is_alone=is_alone)

    def release(self, run: Run) -> None:
        """Running → Waiting, at the head."""
        self._drop_claim(run)
        run.state = JobState.WAITING
        run.worker = run.started_at = None
        if run.checkpoint is None:
            run.steps_done = 0
        run.previews = ()
        self._note_model(run.entry.model)
        self.queue.release(run.entry)
        self._wakeups.notify()

    def end_lost(self, run: Run) -> JobState:
        """What becomes of a run whose lease is over."""
        return self.end_attempt(run, messages.LOST % (run.attempts, run.worker))

    def end_attempt(self, run: Run, error: str) -> JobState:
        """Running → Waiting for another attempt, or Failed with the error where none is allowed."""
        if run.cancel_requested:
            return self.end(run, JobState.CANCELED)
        if run.attempts >= self._bounds.max_attempts:
            return self.end(run, JobState.FAILED, error)
        self.release(run)
        return JobState.WAITING

    def leave(self, record: Record, state: JobState, error: str | None = None, **changes: Any) -> None:
        """End one job of a run; the run goes on for the others, if there are any and it isn't over."""
        run = record.run
        if run is None:
            return
        if len(run.members) == 1:
            run.cancel_requested = changes.get("cancel_requested", False)
            self.end(run, state, error)
            return
        run.members.remove(record)
        record.previews = run.previews
        self.make_final(record, state, error, **run.progress() | changes)

    def keep_images(self, records: Sequence[Record], images: StoredImages) -> None:
        """Give jobs that are about to succeed their images."""
        self._books.keep(images, holders=len(records), expires_at=self._expires_at())
        for record in records:
            record.images_entry = images.entry
            record.content = record.content.model_copy(update={"images": images.references})

    def _expires_at(self) -> datetime:
        return self._clock() + timedelta(seconds=self._bounds.result_ttl_seconds)

    def end_unserved(self, now: datetime) -> list[JobState]:
        """End what waits for models that nobody has said to serve lately."""
        unserved_since = now - timedelta(seconds=MODEL_UNSERVED_SECONDS)
        ended = []
        for model in [model for model, seen_at in self.served_models.items() if seen_at < unserved_since]:
            for entry in self.queue.of_model(model):
                run = self.runs[entry.number]
                name = run.leader.content.model.name if run.leader.content.model else model
                ended.append(self.end(run, JobState.FAILED, messages.MODEL_UNSERVED % name))
            self.queue.forget(model)
            del self.served_models[model]
        return ended

    def end(
        self,
        run: Run,
        state: JobState,
        error: str | None = None,
        generated_by: ModelIdentity | None = None,
        generation_warnings: tuple[str, ...] = (),
    ) -> JobState:
        """End a run and all its jobs."""
        if run.state is JobState.WAITING:
            self.queue.remove(run.entry)
        self._drop_claim(run)
        self.close_flight(run)
        del self.runs[run.entry.number]
        if run.reservation is not None:
            self._books.free(run.reservation)
        share = run.spent_microseconds // len(run.members)
        for record in run.members:
            record.previews = run.previews
            changes = {"generated_by": generated_by, "generation_warnings": generation_warnings, **run.progress()}
            rest = run.spent_microseconds - share * len(run.members) if record is run.leader else 0
            self.make_final(record, state, error, images=run.entry.images, gpu_microseconds=share + rest, **changes)
        run.members.clear()
        if not self.runs:
            self.queue.reset()
        return state

    def close_flight(self, run: Run) -> None:
        """Let no further job join."""
        if run.flight_key is not None and self.flights.get(run.flight_key) is run:
            del self.flights[run.flight_key]

    def make_final(
        self,
        record: Record,
        state: JobState,
        error: str | None = None,
        *,
        images: int = 0,
        is_answered: bool = False,
        gpu_microseconds: int = 0,
        **changes: Any,
    ) -> None:
        """End a job, which has left its run or ends with it; images and GPU time are what its customer is said to have
        had."""
        now = self._clock()
        record.run = None
        if state is JobState.SUCCEEDED:
            changes["steps_done"] = record.content.parameters.steps
        record.content = record.content.model_copy(
            update={**changes, "state": state, "error": error, "finished_at": now}
        )
        record.expires_at = self._expires_at()
        self._note_usage(record.content, images, gpu_microseconds, is_answered=is_answered)
        if record.content.webhook is not None:
            self._enqueue_delivery(record.content, "completed")
        self._wakeups.notify()

    def _note_usage(self, job: Job, images: int, gpu_microseconds: int, *, is_answered: bool) -> None:
        """Add an ended job to what its customer's jobs took."""
        has_succeeded = job.state is JobState.SUCCEEDED
        if has_succeeded or gpu_microseconds:
            self._usage.add(
                job.owner,
                jobs=int(has_succeeded),
                cached_jobs=int(has_succeeded and is_answered),
                images=images if has_succeeded else 0,
                gpu_microseconds=gpu_microseconds,
            )

    def _note_model(self, model: str) -> None:
        """Something waits for a model: from now on it counts how long nobody serves it."""
        if model != ANY_MODEL:
            self.served_models.setdefault(model, self._clock())

    def _drop_claim(self, run: Run) -> None:
        if run.token is not None:
            del self.running[run.token]
        run.token = run.lease_ends_at = None
