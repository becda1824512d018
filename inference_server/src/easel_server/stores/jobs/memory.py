"""The job store of a single process (role ``all``): the same promises as Redis', kept in dictionaries, lost at exit.

Every method runs without awaiting between reading and writing, which makes it atomic on one event loop.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice

from typing_extensions import override

from easel_server.generation import messages
from easel_server.generation.cost import CostSums, Measurement
from easel_server.generation.images import MEDIA_TYPES
from easel_server.generation.job import Job, JobState, job_fingerprint
from easel_server.generation.models import ModelIdentity
from easel_server.generation.shares import has_place
from easel_server.stores.images.interface import ImageStore, StoredImages, StoreFullError, build_reservation
from easel_server.stores.images.memory import MemoryImages
from easel_server.stores.jobs.fair_queue import Entry
from easel_server.stores.jobs.interface import (
    CHECKPOINT_SECONDS,
    MAX_CHECKPOINT_BYTES,
    MAX_FOLLOWERS,
    MAX_LISTED,
    MAX_PREVIEWS,
    NO_BOUNDS,
    WORKER_SEEN_SECONDS,
    Canceled,
    Claim,
    Failed,
    HeartbeatReply,
    JobBounds,
    JobConflictError,
    JobPage,
    Jobs,
    Joining,
    Outcome,
    QueueDepth,
    QueueFullError,
    QueuePosition,
    QueueTerms,
    ReapReport,
    SubmitReply,
    Succeeded,
)
from easel_server.stores.jobs.memory_runs import MemoryRuns, build_entry, model_of
from easel_server.stores.memory_wakeups import Clock, MemoryWakeups
from easel_server.stores.outbox.memory import MemoryOutbox
from easel_server.stores.usage.memory import MemoryUsage


class MemoryJobs(Jobs):
    """Jobs, their runs, and who is next."""

    def __init__(
        self,
        bounds: JobBounds,
        clock: Clock,
        wakeups: MemoryWakeups,
        outbox: MemoryOutbox,
        images: ImageStore,
        books: MemoryImages,
        usage: MemoryUsage,
        *,
        on_reap: Sequence[Callable[[], None]] = (),
    ) -> None:
        """``images`` are the books' own, or in a bucket.

        ``on_reap`` are called by each ``reap``: what else of this process goes by time.
        """
        self._bounds = bounds
        self._clock = clock
        self._wakeups = wakeups
        self._on_reap = on_reap
        self._images = images
        self._books = books
        self._runs = MemoryRuns(bounds, clock, wakeups, outbox.enqueue, books, usage)
        self._workers: dict[str, datetime] = {}  # when they were last heard of
        self._cost_sums = CostSums()
        self._engine_failures = 0

    # As clients see jobs

    @override
    async def submit(
        self,
        job: Job,
        *,
        answer: tuple[bytes, ...] | None = None,
        inputs: Mapping[str, bytes] | None = None,
        flight_key: str | None = None,
        terms: QueueTerms | None = None,
        target_seconds: float | None = None,
    ) -> SubmitReply:
        runs, fingerprint = self._runs, job_fingerprint(job)
        known = runs.find(job.id)
        if known is not None:
            if known.fingerprint != fingerprint:
                raise JobConflictError(job.client_id or job.id)
            return SubmitReply(known.job, created=False)
        if answer is not None:
            stored = await self._images.put(job.id, answer, MEDIA_TYPES[job.parameters.image_format])
            return await self._submit_answered(job, fingerprint, stored)
        flight = runs.flights.get(flight_key) if flight_key is not None else None
        if flight is not None and flight.entry.model == model_of(job) and len(flight.members) <= MAX_FOLLOWERS:
            record = runs.add(job, fingerprint)
            runs.join(record, flight, terms)
            return SubmitReply(record.job, created=True, shared=True)
        self._check_queue(build_entry(runs.last_number + 1, job, self._clock()))
        reservation = build_reservation(job, inputs or {})
        self._books.reserve(reservation)
        record = runs.add(job, fingerprint)
        runs.start(record, inputs or {}, flight_key, reservation, target_seconds, terms)
        return SubmitReply(record.job, created=True, position=await self.position(job.id))

    def _check_queue(self, entry: Entry) -> None:
        queue, bounds = self._runs.queue, self._bounds
        depth = len(queue)
        held = queue.count_waiting(entry.owner, entry.model) if bounds.is_shared else depth
        if bounds.is_shared and has_place(held=held, taken=depth, bound=bounds.max_queue_depth):
            return
        if bounds.is_shared or depth >= bounds.max_queue_depth:
            raise QueueFullError(depth, held, queue.count_places(entry), bounds)

    async def _submit_answered(self, job: Job, fingerprint: str, stored: StoredImages) -> SubmitReply:
        runs = self._runs
        known = runs.find(job.id)  # since the images were put, which takes time in a bucket
        try:
            if known is None:
                self._books.find_room(stored.size_bytes)
        except StoreFullError:
            await self._images.delete([stored.unused])
            raise
        if known is not None:
            await self._images.delete([stored.unused])
            return SubmitReply(known.job, created=False)
        record = runs.add(job, fingerprint)
        runs.keep_images([record], stored)
        runs.make_final(
            record,
            JobState.SUCCEEDED,
            images=job.parameters.images,
            is_answered=True,
            started_at=record.content.submitted_at,
        )
        return SubmitReply(record.job, created=True)

    @override
    async def get(self, job_id: str) -> Job | None:
        record = self._runs.find(job_id)
        return record.job if record else None

    @override
    async def list_newest(self, owner: str, *, older_than: int | None = None, limit: int) -> JobPage:
        now, newest = self._clock(), reversed(self._runs.records.values())
        own = islice((record for record in newest if record.content.owner == owner), MAX_LISTED)
        found = [
            record
            for record in own
            if (older_than is None or record.number < older_than) and not record.is_expired(now)
        ]
        page = found[:limit]
        return JobPage(tuple(record.job for record in page), page[-1].number if len(found) > limit else None)

    @override
    async def remove_data(self, job_id: str) -> None:
        record = self._runs.find(job_id)
        if record is None or record.content.state is not JobState.SUCCEEDED or record.content.data_removed:
            return
        record.content = record.content.model_copy(update={"images": (), "data_removed": True})
        unused = self._books.release(record.images_entry)
        if unused is not None:
            await self._images.delete([unused])

    @override
    async def cancel(self, job_id: str) -> Job | None:
        record = self._runs.find(job_id)
        if record is None:
            return None
        run = record.run
        if run is not None and run.state is JobState.RUNNING and len(run.members) == 1:
            run.cancel_requested = True
            self._runs.close_flight(run)
            self._wakeups.notify()
        elif run is not None:
            self._runs.leave(record, JobState.CANCELED, cancel_requested=True)
        return record.job

    @override
    async def wait(self, job_id: str, timeout_seconds: float) -> Job | None:
        def is_unknown_or_final() -> bool:
            record = self._runs.find(job_id)
            return record is None or record.job.state.is_final

        await self._wakeups.wait_for(lambda: is_unknown_or_final() or None, timeout_seconds)
        return await self.get(job_id)

    @override
    async def watch(self, job_id: str) -> AsyncGenerator[Job]:
        seen: Job | None = None
        while True:
            job = await self.get(job_id)
            if job is None:
                return
            if job != seen:
                yield job
                seen = job
                continue  # it may have changed meanwhile
            if job.state.is_final:
                return
            await self._wakeups.sleep()

    @override
    async def previews(self, job_id: str) -> tuple[bytes, ...]:
        record = self._runs.find(job_id)
        if record is None:
            return ()
        return record.run.previews if record.run is not None else record.previews

    @override
    async def position(self, job_id: str) -> QueuePosition | None:
        record = self._runs.find(job_id)
        if record is None or record.run is None or record.run.state is not JobState.WAITING:
            return None
        return self._runs.queue.position(record.run.entry, self._clock())

    @override
    async def estimate_position(self, job: Job, terms: QueueTerms | None = None) -> QueuePosition:
        now = self._clock()
        return self._runs.queue.next_position(build_entry(self._runs.last_number + 1, job, now, terms), now)

    # As workers see jobs

    @override
    async def claim(
        self,
        worker: str,
        models: Sequence[str] = (),
        *,
        lease_seconds: float,
        wait_seconds: float,
        max_jobs: int = 1,
        max_images: int = 1,
        max_images_of: Mapping[str, int] = NO_BOUNDS,
        joining: Joining | None = None,
    ) -> tuple[Claim, ...]:
        def claim_now() -> tuple[Claim, ...] | None:
            self._workers[worker] = self._clock()
            chosen = self._choose(models, max_jobs, max_images, max_images_of, joining)
            return tuple(
                self._runs.claim(self._runs.runs[entry.number], worker, lease_seconds, in_turn=in_turn)
                for entry, in_turn in chosen
            )

        return await self._wakeups.wait_for(lambda: claim_now() or None, wait_seconds) or ()

    def _choose(
        self,
        models: Sequence[str],
        max_jobs: int,
        max_images: int,
        max_images_of: Mapping[str, int],
        joining: Joining | None,
    ) -> Iterator[tuple[Entry, bool]]:
        """Entries, and whether each is next in turn. Each is to be claimed before the next is asked for."""
        runs, jobs, images = self._runs, 0, 0
        first = self._next(models)
        while joining is not None and first is not None and jobs < max_jobs and runs.may_join(first, joining):
            if images + first.images > max_images:
                return
            jobs, images = jobs + 1, images + first.images
            yield first, True
            first = self._next(models)
        if joining is not None or first is None:
            return
        is_alone = runs.is_alone(runs.runs[first.number])
        others = [] if is_alone or max_jobs == 1 else runs.queue.batch_candidates(first, self._clock())
        yield first, True
        jobs, images = 1, first.images
        most = max_images_of.get(first.batch_key, max_images)
        for entry in others:
            run = runs.runs[entry.number]
            if jobs == max_jobs:
                return
            if images + entry.images > most or runs.is_alone(run) or not runs.is_in_time(run):
                continue
            yield entry, False
            jobs, images = jobs + 1, images + entry.images

    def _next(self, models: Sequence[str]) -> Entry | None:
        runs, now = self._runs, self._clock()
        first = runs.queue.next(now, models)
        while first is not None and not runs.is_in_time(runs.runs[first.number]):
            first = runs.queue.next(now, models)
        return first

    @override
    async def wait_for_work(self, models: Sequence[str], wait_seconds: float) -> None:
        await self._wakeups.sleep(wait_seconds)

    @override
    async def heartbeat(self, claim: Claim, steps_done: int, *, previews: Sequence[bytes] = ()) -> HeartbeatReply:
        run = self._runs.running.get(claim.token)
        if run is None:
            return HeartbeatReply.LOST
        now, added = self._clock(), tuple(previews)
        self._workers[run.worker or ""] = now
        run.lease_ends_at = now + run.lease
        run.steps_done = steps_done
        run.measure_excess(now)
        if added and run.previews[-len(added) :] != added:  # else a repeated call
            run.previews = (run.previews + added)[:MAX_PREVIEWS]
        self._wakeups.notify()
        if run.cancel_requested:
            return HeartbeatReply.CANCEL
        while run.leader.is_past_deadline(now):
            if len(run.members) == 1:
                self._runs.close_flight(run)
                return HeartbeatReply.DEADLINE_PASSED
            self._runs.leave(run.leader, JobState.FAILED, messages.DEADLINE_PASSED)
        return HeartbeatReply.CONTINUE

    @override
    async def finish(
        self,
        claim: Claim,
        outcome: Outcome,
        measured: Measurement | None = None,
        generated_by: ModelIdentity | None = None,
        *,
        gpu_seconds: float = 0.0,
    ) -> bool:
        run = self._runs.running.get(claim.token)
        claimed = self._runs.find(claim.job.id)
        if run is None:
            return claimed is not None and claimed.finished_by == claim.token
        run.add_spent(gpu_seconds)
        match outcome:
            case Succeeded(images, warnings):
                run.steps_done = run.leader.content.parameters.steps
                if measured is not None:
                    self._cost_sums = self._cost_sums.add(measured)
                self._runs.keep_images(run.members, images)
                self._runs.end(run, JobState.SUCCEEDED, generated_by=generated_by, generation_warnings=warnings)
            case Failed(error):
                self._runs.end(run, JobState.FAILED, error)
            case Canceled():
                self._runs.end(run, JobState.CANCELED)
        if claimed is not None:
            claimed.finished_by = claim.token
        return True

    @override
    async def release(
        self, claim: Claim, *, checkpoint: bytes | None = None, steps_done: int = 0, gpu_seconds: float = 0.0
    ) -> bool:
        run = self._runs.running.get(claim.token)
        if run is None:
            return False
        run.attempts -= 1
        if run.cancel_requested:
            run.add_spent(gpu_seconds)
            self._runs.end(run, JobState.CANCELED)
            return True
        if checkpoint is not None and len(checkpoint) <= MAX_CHECKPOINT_BYTES:
            run.add_spent(gpu_seconds)
            run.checkpoint, run.steps_done = checkpoint, steps_done
            run.checkpoint_ends_at = self._clock() + timedelta(seconds=CHECKPOINT_SECONDS)
        self._runs.release(run)
        return True

    @override
    async def retry(self, claim: Claim, error: str) -> JobState | None:
        run = self._runs.running.get(claim.token)
        if run is None:
            return None
        self._engine_failures += 1
        run.checkpoint = None  # it may be what the attempt failed by
        return self._runs.end_attempt(run, error)

    @override
    async def depth(self) -> QueueDepth:
        runs, age_seconds = self._runs, 0.0
        if (oldest := runs.queue.oldest) is not None:
            submitted_at = runs.runs[oldest].leader.content.submitted_at
            age_seconds = max(0.0, (self._clock() - submitted_at).total_seconds())
        return QueueDepth(
            waiting=len(runs.queue),
            running=len(runs.running),
            oldest_waiting_age_seconds=age_seconds,
            waiting_gpu_seconds=runs.queue.gpu_seconds,
            running_gpu_seconds=sum(run.remaining_gpu_seconds for run in runs.running.values()),
            bounded_waiting_gpu_seconds=sum(
                run.entry.gpu_seconds if run.target_seconds is None else min(run.entry.gpu_seconds, run.target_seconds)
                for run in runs.runs.values()
                if run.state is JobState.WAITING
            ),
            bounded_running_gpu_seconds=sum(
                run.remaining_gpu_seconds - run.excess_gpu_seconds for run in runs.running.values()
            ),
            overrunning=sum(run.is_overrunning for run in runs.running.values()),
            engine_failures=self._engine_failures,
            workers=sum(map(self._is_there, self._workers.values())),
        )

    @override
    async def cost_sums(self) -> CostSums:
        return self._cost_sums

    # By time

    @override
    async def reap(self, models: Sequence[str] = ()) -> ReapReport:
        runs, now = self._runs, self._clock()
        runs.served_models |= dict.fromkeys(models, now)
        lost = [run for run in runs.running.values() if run.lease_ends_at is not None and run.lease_ends_at <= now]
        moved = [runs.end_lost(run) for run in sorted(lost, key=lambda run: run.entry)]
        for run in list(runs.runs.values()):
            for record in [record for record in run.members if record.is_past_deadline(now)]:
                if run.state is JobState.WAITING or record is not run.leader:  # else it is the worker's to finish
                    runs.leave(record, JobState.FAILED, messages.DEADLINE_PASSED)
                    moved.append(JobState.FAILED)
        moved += runs.end_unserved(now)
        self._forget(now)
        return ReapReport(
            requeued=moved.count(JobState.WAITING),
            failed=moved.count(JobState.FAILED),
            canceled=moved.count(JobState.CANCELED),
        )

    def _forget(self, now: datetime) -> None:
        self._workers = {name: seen_at for name, seen_at in self._workers.items() if self._is_there(seen_at)}
        for job_id in [job_id for job_id, record in self._runs.records.items() if record.is_expired(now)]:
            del self._runs.records[job_id]
        for forget in self._on_reap:
            forget()

    def _is_there(self, seen_at: datetime) -> bool:
        return seen_at > self._clock() - timedelta(seconds=WORKER_SEEN_SECONDS)
