"""The transitions of jobs in one process; see the tables of ``job.py``. Nothing here awaits, so each is atomic."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from easel_contract.server_config import Priority

from easel_server.generation import messages
from easel_server.generation.cost import CostSums, Measurement
from easel_server.generation.job import Job, JobState, job_fingerprint
from easel_server.stores.jobs.fair_queue import PRIORITIES, Entry, FairQueue
from easel_server.stores.jobs.interface import (
    MAX_FOLLOWERS,
    MAX_PREVIEWS,
    WORKER_SEEN_SECONDS,
    BrokerSettings,
    Canceled,
    Claim,
    Failed,
    JobConflictError,
    Outcome,
    QueueDepth,
    QueueFullError,
    QueuePosition,
    ReapReport,
    Submission,
    Succeeded,
    Verdict,
)
from easel_server.stores.jobs.memory_runs import Record, Run
from easel_server.stores.outbox.memory import Clock


class MemoryJobs:
    """Jobs, their runs, and who is next."""

    def __init__(
        self,
        settings: BrokerSettings,
        clock: Clock,
        *,
        enqueue_delivery: Callable[[Job, str], bool],
        ring: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._enqueue_delivery = enqueue_delivery
        self._ring = ring
        self._records: dict[str, Record] = {}
        self._runs: dict[int, Run] = {}
        self._flights: dict[str, Run] = {}
        self._running: dict[str, Run] = {}  # by token
        self._queue = FairQueue()
        self._number = 0
        self._workers: dict[str, datetime] = {}
        self.cost_sums = CostSums()

    # As clients see jobs

    def find(self, job_id: str) -> Record | None:
        """The record, unless unknown or expired."""
        record = self._records.get(job_id)
        return None if record is None or record.is_expired(self._clock()) else record

    def submit(
        self, job: Job, answer: tuple[bytes, ...] | None, inputs: Mapping[str, bytes], flight_key: str | None
    ) -> Submission:
        """See JobStore."""
        fingerprint = job_fingerprint(job)
        known = self.find(job.id)
        if known is not None:
            if known.fingerprint != fingerprint:
                raise JobConflictError(job.id)
            return Submission(known.job, created=False)
        flight = self._flights.get(flight_key) if flight_key is not None and answer is None else None
        if flight is not None and len(flight.members) > MAX_FOLLOWERS:
            flight = None
        if flight is None and answer is None and len(self._queue) >= self._settings.max_queue_depth:
            raise QueueFullError(len(self._queue), self._settings.max_queue_depth)
        record = self._store(job, fingerprint)
        self._enqueue_delivery(record.job, "start")
        if answer is not None:
            self._make_final(record, JobState.SUCCEEDED, started_at=record.content.submitted_at, images=answer)
        elif flight is not None:
            record.run = flight
            flight.members.append(record)
            self._lift(flight, job.priority)
        else:
            self._start_run(record, inputs, flight_key)
        self._ring()
        queued = answer is None and flight is None
        position = self.position(record) if queued else None
        return Submission(record.job, created=True, shared=flight is not None, position=position)

    def cancel(self, job_id: str) -> Job | None:
        """See JobStore."""
        record = self.find(job_id)
        if record is None:
            return None
        run = record.run
        if run is not None and run.state is JobState.RUNNING and len(run.members) == 1:
            run.cancel_requested = True
            self._close_flight(run)
            self._ring()
        elif run is not None:
            self._leave(record, JobState.CANCELED, cancel_requested=True)
        return record.job

    def position(self, record: Record) -> QueuePosition | None:
        """See JobStore."""
        if record.run is None:
            return None
        ahead = self._queue.ahead_of(record.run.entry)
        return QueuePosition(ahead.entries, ahead.gpu_seconds)

    def outlook(self, owner: str, priority: Priority, weight: int) -> QueuePosition:
        """See JobStore."""
        entry = Entry(self._number + 1, owner, priority, gpu_seconds=0.0, weight=weight)
        ahead = self._queue.ahead_of_next(entry)
        return QueuePosition(ahead.entries, ahead.gpu_seconds)

    # As workers see jobs

    def claim(self, worker: str, lease_seconds: float, max_jobs: int, max_images: int) -> tuple[Claim, ...]:
        """See JobQueue; empty if nothing waits."""
        self._workers[worker] = self._clock()
        first = self._next_run()
        if first is None:
            return ()
        batch_candidates = self._queue.batch_candidates(first.entry) if max_jobs > 1 else []
        claims = [self._hand_out(first, worker, lease_seconds)]
        images = first.entry.images
        for entry in batch_candidates:
            run = self._runs[entry.number]
            if len(claims) == max_jobs:
                break
            if images + entry.images > max_images or not self._is_in_time(run):
                continue
            claims.append(self._hand_out(run, worker, lease_seconds))
            images += entry.images
        self._ring()
        return tuple(claims)

    def heartbeat(self, claim: Claim, steps_done: int, previews: tuple[bytes, ...]) -> Verdict:
        """See JobQueue."""
        run = self._running.get(claim.token)
        if run is None:
            return Verdict.LOST
        now = self._clock()
        self._workers[run.worker or ""] = now
        run.lease_ends_at = now + run.lease
        run.steps_done = steps_done
        if previews and run.previews[-len(previews) :] != previews:  # else a repeated call
            run.previews = (run.previews + previews)[:MAX_PREVIEWS]
        self._ring()
        if run.cancel_requested:
            return Verdict.CANCEL
        while run.leader.is_past_deadline(now):
            if len(run.members) == 1:
                self._close_flight(run)
                return Verdict.DEADLINE_PASSED
            self._leave(run.leader, JobState.FAILED, messages.DEADLINE_PASSED)
        return Verdict.CONTINUE

    def finish(self, claim: Claim, outcome: Outcome, measured: Measurement | None) -> bool:
        """See JobQueue."""
        run = self._running.get(claim.token)
        claimed = self.find(claim.job.id)
        if run is None:
            return claimed is not None and claimed.finished_by == claim.token
        match outcome:
            case Succeeded(images):
                run.steps_done = run.leader.content.parameters.steps
                if measured is not None:
                    self.cost_sums = self.cost_sums.add(measured)
                self._end(run, JobState.SUCCEEDED, images=images)
            case Failed(error):
                self._end(run, JobState.FAILED, error)
            case Canceled():
                self._end(run, JobState.CANCELED)
        if claimed is not None:
            claimed.finished_by = claim.token
        return True

    def release(self, claim: Claim) -> bool:
        """See JobQueue."""
        run = self._running.get(claim.token)
        if run is None:
            return False
        run.attempts -= 1
        if run.cancel_requested:
            self._end(run, JobState.CANCELED)
        else:
            self._hand_back(run)
        return True

    def reap(self) -> ReapReport:
        """See Reapable. Also forgets expired results, and workers that were long silent."""
        now = self._clock()
        lost = [run for run in self._running.values() if run.lease_ends_at is not None and run.lease_ends_at <= now]
        moved = [self._reap_lost(run) for run in sorted(lost, key=lambda run: run.entry)]
        for run in list(self._runs.values()):
            for record in [record for record in run.members if record.is_past_deadline(now)]:
                if run.state is JobState.WAITING or record is not run.leader:  # else it is the worker's to finish
                    self._leave(record, JobState.FAILED, messages.DEADLINE_PASSED)
                    moved.append(JobState.FAILED)
        self._workers = {name: seen_at for name, seen_at in self._workers.items() if self._is_there(seen_at)}
        for job_id in [job_id for job_id, record in self._records.items() if record.is_expired(now)]:
            del self._records[job_id]
        return ReapReport(
            requeued=moved.count(JobState.WAITING),
            failed=moved.count(JobState.FAILED),
            canceled=moved.count(JobState.CANCELED),
        )

    def depth(self) -> QueueDepth:
        """See JobQueue."""
        now = self._clock()
        age_seconds = 0.0
        if (oldest := self._queue.oldest) is not None:
            submitted_at = self._runs[oldest].leader.content.submitted_at
            age_seconds = max(0.0, (now - submitted_at).total_seconds())
        return QueueDepth(
            waiting=len(self._queue),
            running=len(self._running),
            oldest_waiting_age_seconds=age_seconds,
            waiting_gpu_seconds=self._queue.gpu_seconds,
            running_gpu_seconds=sum(run.remaining_gpu_seconds for run in self._running.values()),
            workers=sum(map(self._is_there, self._workers.values())),
        )

    # Transitions

    def _is_there(self, seen_at: datetime) -> bool:
        return seen_at > self._clock() - timedelta(seconds=WORKER_SEEN_SECONDS)

    def _store(self, job: Job, fingerprint: str) -> Record:
        now = self._clock()
        offset = now - job.submitted_at
        deadline_at = job.deadline_at + offset if job.deadline_at else None
        content = job.model_copy(update={"submitted_at": now, "deadline_at": deadline_at})
        self._records[job.id] = record = Record(content, fingerprint)
        return record

    def _start_run(self, record: Record, inputs: Mapping[str, bytes], flight_key: str | None) -> None:
        job = record.content
        self._number += 1
        entry = Entry(
            self._number,
            job.owner,
            job.priority,
            job.predicted_gpu_seconds,
            job.weight,
            job.parameters.batch_key,
            job.parameters.images,
        )
        record.run = run = Run(entry, [record], flight_key, inputs)
        self._runs[entry.number] = run
        if flight_key is not None:
            self._flights.setdefault(flight_key, run)
        self._queue.add(entry)

    def _lift(self, run: Run, priority: Priority) -> None:
        """Let a run that waits go with the priority of a job that joined it, if that is higher."""
        if run.state is JobState.WAITING and PRIORITIES.index(priority) < PRIORITIES.index(run.entry.priority):
            self._queue.remove(run.entry)
            run.entry = replace(run.entry, priority=priority)
            self._queue.add(run.entry)

    def _next_run(self) -> Run | None:
        while (entry := self._queue.next()) is not None:
            run = self._runs[entry.number]
            if self._is_in_time(run):
                return run
        return None

    def _is_in_time(self, run: Run) -> bool:
        """Whether somebody still wants the run; jobs whose deadline passed leave it."""
        now = self._clock()
        while run.members and run.leader.is_past_deadline(now):
            self._leave(run.leader, JobState.FAILED, messages.DEADLINE_PASSED)
        return bool(run.members)

    def _hand_out(self, run: Run, worker: str, lease_seconds: float) -> Claim:
        now = self._clock()
        self._queue.take(run.entry)
        run.token = secrets.token_hex(16)
        run.lease = timedelta(seconds=lease_seconds)
        run.lease_ends_at = now + run.lease
        run.state = JobState.RUNNING
        run.attempts += 1
        run.worker = worker
        run.steps_done = 0
        run.started_at = now
        self._running[run.token] = run
        return Claim(run.leader.job, run.token, lease_seconds, run.inputs)

    def _hand_back(self, run: Run) -> None:
        self._drop_claim(run)
        run.state = JobState.WAITING
        run.worker = run.started_at = None
        run.steps_done = 0
        run.previews = ()
        self._queue.put_back(run.entry)
        self._ring()

    def _drop_claim(self, run: Run) -> None:
        if run.token is not None:
            del self._running[run.token]
        run.token = run.lease_ends_at = None

    def _reap_lost(self, run: Run) -> JobState:
        if run.cancel_requested:
            return self._end(run, JobState.CANCELED)
        if run.attempts >= self._settings.max_attempts:
            return self._end(run, JobState.FAILED, messages.LOST % (run.attempts, run.worker))
        self._hand_back(run)
        return JobState.WAITING

    def _leave(self, record: Record, state: JobState, error: str | None = None, **changes: Any) -> None:
        """End one job of a run; the run goes on for the others, if there are any and it isn't over."""
        run = record.run
        if run is None:
            return
        if len(run.members) == 1:
            run.cancel_requested = changes.get("cancel_requested", False)
            self._end(run, state, error)
            return
        run.members.remove(record)
        record.previews = run.previews
        self._make_final(record, state, error, **run.progress() | changes)

    def _end(self, run: Run, state: JobState, error: str | None = None, images: tuple[bytes, ...] = ()) -> JobState:
        """End a run and all its jobs."""
        if run.state is JobState.WAITING:
            self._queue.remove(run.entry)
        self._drop_claim(run)
        self._close_flight(run)
        del self._runs[run.entry.number]
        for record in run.members:
            record.previews = run.previews
            self._make_final(record, state, error, images, **run.progress())
        run.members.clear()
        if not self._runs:
            self._queue.reset()
        return state

    def _close_flight(self, run: Run) -> None:
        if run.flight_key is not None and self._flights.get(run.flight_key) is run:
            del self._flights[run.flight_key]

    def _make_final(
        self,
        record: Record,
        state: JobState,
        error: str | None = None,
        images: tuple[bytes, ...] = (),
        **changes: Any,
    ) -> None:
        now = self._clock()
        record.run = None
        record.images = images
        if state is JobState.SUCCEEDED:
            changes["steps_done"] = record.content.parameters.steps
        record.content = record.content.model_copy(
            update={**changes, "state": state, "error": error, "finished_at": now}
        )
        record.expires_at = now + timedelta(seconds=self._settings.result_ttl_seconds)
        self._enqueue_delivery(record.content, "completed")
        self._ring()
