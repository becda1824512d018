"""The broker of a single process (role ``all``): the same promises as Redis', kept in dictionaries, lost at exit.

Every method runs without awaiting between reading and writing, which makes it atomic on one event loop.
"""

import asyncio
import secrets
from bisect import bisect_left, insort
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from easel_contract.server_config import RateLimitConfig

from easel_server.broker import sentences
from easel_server.broker.digests import job_fingerprint
from easel_server.broker.interface import (
    BrokerSettings,
    Canceled,
    Claim,
    Delivery,
    Failed,
    JobConflictError,
    Outcome,
    QueueDepth,
    QueueFullError,
    RateDecision,
    ReapReport,
    Submission,
    Succeeded,
    Verdict,
)
from easel_server.broker.memory_side_stores import Clock, MemoryOutbox, MemoryRateLimiter, MemoryResultCache
from easel_server.job import Job, JobState

LOOK_AGAIN_SECONDS: Final = 1.0  # a bound on sleeps for what only the clock makes due

T = TypeVar("T")


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


@dataclass
class _Record:
    job: Job
    fingerprint: str
    sequence: int
    images: tuple[bytes, ...] = ()
    token: str | None = None  # kept after the end, so that a finish can be repeated
    lease: timedelta = timedelta()
    lease_ends_at: datetime | None = None
    expires_at: datetime | None = None

    def change(self, **fields: Any) -> None:
        self.job = self.job.model_copy(update=fields)


class _Bell:
    """Wakes everybody who sleeps on it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), min(seconds, LOOK_AGAIN_SECONDS))


class MemoryBroker:
    """See ``interface.Broker``."""

    def __init__(self, settings: BrokerSettings, clock: Clock = utc_now) -> None:
        self._settings = settings
        self._clock = clock
        self._records: dict[str, _Record] = {}
        self._waiting: list[tuple[int, str]] = []  # sorted by sequence
        self._running: set[str] = set()
        self._sequence = 0
        self._changed = _Bell()
        self._outbox = MemoryOutbox(clock)
        self._cache = MemoryResultCache(clock)
        self._rate_limiter = MemoryRateLimiter(clock)

    # As clients see jobs

    async def submit(self, job: Job, *, answer: tuple[bytes, ...] | None = None) -> Submission:
        """See JobStore."""
        fingerprint = job_fingerprint(job)
        known = self._find(job.id)
        if known is not None:
            if known.fingerprint != fingerprint:
                raise JobConflictError(job.id)
            return Submission(known.job, created=False)
        if answer is None and len(self._waiting) >= self._settings.max_queue_depth:
            raise QueueFullError(len(self._waiting), self._settings.max_queue_depth)
        record = self._store(job, fingerprint)
        self._enqueue_delivery(record, "start")
        if answer is None:
            self._queue(record)
        else:
            record.images = answer
            record.change(started_at=record.job.submitted_at, steps_done=job.parameters.steps)
            self._make_final(record, JobState.SUCCEEDED)
        return Submission(record.job, created=True)

    async def get(self, job_id: str) -> Job | None:
        """See JobStore."""
        record = self._find(job_id)
        return record.job if record else None

    async def images(self, job_id: str) -> tuple[bytes, ...]:
        """See JobStore."""
        record = self._find(job_id)
        return record.images if record else ()

    async def cancel(self, job_id: str) -> Job | None:
        """See JobStore."""
        record = self._find(job_id)
        if record is None:
            return None
        if not record.job.state.is_final:
            record.change(cancel_requested=True)
        if record.job.state == JobState.WAITING:
            self._make_final(record, JobState.CANCELED)
        return record.job

    async def wait(self, job_id: str, timeout_seconds: float) -> Job | None:
        """See JobStore."""
        await self._wait_for(lambda: self._is_unknown_or_final(job_id) or None, timeout_seconds)
        return await self.get(job_id)

    # As workers see jobs

    async def claim(self, worker: str, *, lease_seconds: float, wait_seconds: float) -> Claim | None:
        """See JobQueue."""
        return await self._wait_for(lambda: self._claim_now(worker, lease_seconds), wait_seconds)

    async def heartbeat(self, claim: Claim, steps_done: int) -> Verdict:
        """See JobQueue."""
        record = self._held(claim)
        if record is None:
            return Verdict.LOST
        record.change(steps_done=steps_done)
        record.lease_ends_at = self._clock() + record.lease
        if record.job.cancel_requested:
            return Verdict.CANCEL
        return Verdict.DEADLINE_PASSED if self._is_past_deadline(record.job) else Verdict.CONTINUE

    async def finish(self, claim: Claim, outcome: Outcome) -> bool:
        """See JobQueue."""
        record = self._held(claim)
        if record is None:
            done = self._find(claim.job.id)
            return done is not None and done.token == claim.token
        match outcome:
            case Succeeded(images):
                record.images = images
                record.change(steps_done=record.job.parameters.steps)
                self._make_final(record, JobState.SUCCEEDED)
            case Failed(error):
                self._make_final(record, JobState.FAILED, error)
            case Canceled():
                self._make_final(record, JobState.CANCELED)
        return True

    async def release(self, claim: Claim) -> bool:
        """See JobQueue."""
        record = self._held(claim)
        if record is None:
            return False
        record.change(attempts=record.job.attempts - 1)
        if record.job.cancel_requested:
            self._make_final(record, JobState.CANCELED)
        else:
            self._hand_back(record)
        return True

    async def reap(self) -> ReapReport:
        """See Reapable. Also forgets expired results."""
        now = self._clock()
        waiting = [self._records[job_id] for _, job_id in self._waiting]
        late = [record for record in waiting if self._is_past_deadline(record.job)]
        moved = [self._reap_lost(record) for record in self._lost_records(now)]
        moved += [self._make_final(record, JobState.FAILED, sentences.DEADLINE_PASSED) for record in late]
        self._cache.purge()
        for job_id in [job_id for job_id, record in self._records.items() if _is_expired(record, now)]:
            del self._records[job_id]
        return ReapReport(
            requeued=moved.count(JobState.WAITING),
            failed=moved.count(JobState.FAILED),
            canceled=moved.count(JobState.CANCELED),
        )

    async def depth(self) -> QueueDepth:
        """See JobQueue."""
        age_seconds = 0.0
        if self._waiting:
            oldest = self._records[self._waiting[0][1]].job
            age_seconds = max(0.0, (self._clock() - oldest.submitted_at).total_seconds())
        return QueueDepth(len(self._waiting), len(self._running), age_seconds)

    # Webhooks, cache, rate limit

    async def claim_delivery(self, *, lease_seconds: float, wait_seconds: float) -> Delivery | None:
        """See WebhookOutbox."""
        return await self._wait_for(lambda: self._outbox.claim(lease_seconds), wait_seconds)

    async def settle_delivery(self, delivery: Delivery) -> None:
        """See WebhookOutbox."""
        self._outbox.settle(delivery)

    async def postpone_delivery(self, delivery: Delivery, delay_seconds: float) -> None:
        """See WebhookOutbox."""
        self._outbox.postpone(delivery, delay_seconds)

    async def cache_get(self, key: str) -> tuple[bytes, ...] | None:
        """See ResultCache."""
        return self._cache.get(key)

    async def cache_put(self, key: str, images: tuple[bytes, ...], *, ttl_seconds: float) -> None:
        """See ResultCache."""
        self._cache.put(key, images, ttl_seconds)

    async def take(self, owner: str, rate: RateLimitConfig) -> RateDecision:
        """See RateLimiter."""
        return self._rate_limiter.take(owner, rate)

    async def ping(self) -> None:
        """See Broker."""

    async def close(self) -> None:
        """See Broker."""

    # Transitions

    def _find(self, job_id: str) -> _Record | None:
        record = self._records.get(job_id)
        return None if record is None or _is_expired(record, self._clock()) else record

    def _held(self, claim: Claim) -> _Record | None:
        record = self._find(claim.job.id)
        is_held = record is not None and record.job.state == JobState.RUNNING and record.token == claim.token
        return record if is_held else None

    def _is_unknown_or_final(self, job_id: str) -> bool:
        record = self._find(job_id)
        return record is None or record.job.state.is_final

    def _is_past_deadline(self, job: Job) -> bool:
        return job.deadline_at is not None and job.deadline_at <= self._clock()

    def _store(self, job: Job, fingerprint: str) -> _Record:
        now = self._clock()
        offset = now - job.submitted_at
        self._sequence += 1
        stored = Job(
            id=job.id,
            owner=job.owner,
            parameters=job.parameters,
            webhook=job.webhook,
            submitted_at=now,
            deadline_at=job.deadline_at + offset if job.deadline_at else None,
        )
        self._records[job.id] = _Record(stored, fingerprint, self._sequence)
        return self._records[job.id]

    def _queue(self, record: _Record) -> None:
        record.change(state=JobState.WAITING)
        insort(self._waiting, (record.sequence, record.job.id))
        self._changed.ring()

    def _unqueue(self, record: _Record) -> None:
        self._running.discard(record.job.id)
        position = bisect_left(self._waiting, (record.sequence, record.job.id))
        if position < len(self._waiting) and self._waiting[position][0] == record.sequence:
            del self._waiting[position]

    def _claim_now(self, worker: str, lease_seconds: float) -> Claim | None:
        while self._waiting:
            record = self._records[self._waiting[0][1]]
            if self._is_past_deadline(record.job):
                self._make_final(record, JobState.FAILED, sentences.DEADLINE_PASSED)
                continue
            now = self._clock()
            self._unqueue(record)
            self._running.add(record.job.id)
            token = secrets.token_hex(16)
            record.token = token
            record.lease = timedelta(seconds=lease_seconds)
            record.lease_ends_at = now + record.lease
            record.change(
                state=JobState.RUNNING,
                attempts=record.job.attempts + 1,
                worker=worker,
                steps_done=0,
                started_at=now,
            )
            return Claim(record.job, token, lease_seconds)
        return None

    def _hand_back(self, record: _Record) -> None:
        record.token = None
        self._running.discard(record.job.id)
        record.change(worker=None, started_at=None, steps_done=0)
        self._queue(record)

    def _lost_records(self, now: datetime) -> list[_Record]:
        running = [self._records[job_id] for job_id in self._running]
        lost = [record for record in running if record.lease_ends_at is not None and record.lease_ends_at <= now]
        return sorted(lost, key=lambda record: record.sequence)

    def _reap_lost(self, record: _Record) -> JobState:
        job = record.job
        if job.cancel_requested:
            return self._make_final(record, JobState.CANCELED)
        if job.attempts >= self._settings.max_attempts:
            return self._make_final(record, JobState.FAILED, sentences.LOST % (job.attempts, job.worker))
        self._hand_back(record)
        return JobState.WAITING

    def _make_final(self, record: _Record, state: JobState, error: str | None = None) -> JobState:
        now = self._clock()
        self._unqueue(record)
        record.change(state=state, error=error, finished_at=now)
        record.expires_at = now + timedelta(seconds=self._settings.result_ttl_seconds)
        self._enqueue_delivery(record, "completed")
        self._changed.ring()
        return state

    def _enqueue_delivery(self, record: _Record, event: str) -> None:
        if self._outbox.enqueue(record.job, event):
            self._changed.ring()

    async def _wait_for(self, attempt: Callable[[], T | None], wait_seconds: float) -> T | None:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + wait_seconds
        while True:
            found = attempt()
            left_seconds = give_up_at - loop.time()
            if found is not None or left_seconds <= 0:
                return found
            await self._changed.sleep(left_seconds)


def _is_expired(record: _Record, now: datetime) -> bool:
    return record.expires_at is not None and record.expires_at <= now
