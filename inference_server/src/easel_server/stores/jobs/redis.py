"""The job store on Redis or Valkey (7.0 or newer): shared by any number of gateways and workers.

Each transition is one script in ``lua/`` and therefore atomic; this module turns values into arguments and replies
into values, and does the waiting. The keys are listed in ``lua/fields.lua``.
"""

import asyncio
import dataclasses
import math
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from typing_extensions import override

from easel_server.generation import messages
from easel_server.generation.cost import ADD_ON_SUMS, DECAY, CostSums, Measurement
from easel_server.generation.images import MEDIA_TYPES
from easel_server.generation.job import Job, JobState
from easel_server.generation.models import ModelIdentity
from easel_server.stores.errors import StoreDamagedError, StoreUnavailableError
from easel_server.stores.images.interface import (
    ImagesGoneError,
    ImageStore,
    Reservation,
    StoredImages,
    UnusedImages,
    build_reservation,
)
from easel_server.stores.jobs.changes import ChangedJobs, finished_topic, run_topic_of
from easel_server.stores.jobs.fair_queue import PRIORITIES
from easel_server.stores.jobs.interface import (
    CHECKPOINT_SECONDS,
    MAX_CHECKPOINT_BYTES,
    MAX_PREVIEWS,
    MODEL_UNSERVED_SECONDS,
    NO_BOUNDS,
    RUNNING_GRACE_SECONDS,
    WORKER_SEEN_SECONDS,
    Claim,
    Failed,
    HeartbeatReply,
    JobBounds,
    JobPage,
    Jobs,
    Joining,
    Outcome,
    QueueDepth,
    QueuePosition,
    QueueTerms,
    ReapReport,
    SubmitReply,
    Succeeded,
)
from easel_server.stores.jobs.redis_fields import (
    DamagedRecordError,
    build_image_arguments,
    build_submit_arguments,
    damage_named,
    describe_outcome,
    is_orphan,
    raise_refusal,
    read_references,
    to_depth,
    to_job,
    to_queued_job,
    to_values,
    write_terms,
    write_warnings,
)
from easel_server.stores.redis.connection import MICROSECONDS, MILLISECONDS, RedisConnection
from easel_server.stores.redis.wakeups import BLOCK_SECONDS, RETRY_SECONDS, wait_for

INPUT_MEDIA_TYPE: Final = "application/octet-stream"  # for workers alone, which look at the bytes
JOINING_DELAY_SECONDS: Final = 0.01  # that workers which have nothing to do are ahead of those that have room
CLAIM_AGAIN: Final = b"again"  # see lua/claim.lua
REAP_LIMIT: Final = 100  # jobs a call, so that a script never holds the server for long


class RedisJobs(Jobs):
    """Jobs, their runs, and who is next."""

    def __init__(self, connection: RedisConnection, bounds: JobBounds, images: ImageStore) -> None:
        self._connection = connection
        self._bounds = bounds
        self._images = images
        self._changed_jobs = ChangedJobs(connection)

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
        inputs = inputs or {}
        stored_inputs, stored_answer = StoredImages(), None
        if inputs:
            stored_inputs = await self._images.put(job.id, tuple(inputs.values()), INPUT_MEDIA_TYPE)
        if answer is not None:
            media_type = MEDIA_TYPES[job.parameters.image_format]
            stored_answer = await self._images.put(job.id, answer, media_type)
        reservation = build_reservation(job, inputs)
        if stored_answer is not None:
            reservation = Reservation(job.owner, stored_answer.size_bytes)
        arguments = build_submit_arguments(
            job,
            self._bounds,
            answer=stored_answer,
            inputs=inputs,
            stored_inputs=stored_inputs,
            reservation=reservation,
            flight_key=flight_key,
            target_seconds=target_seconds,
            terms=terms,
        )
        status, *rest = await self._connection.script("jobs/submit", *arguments)
        if status not in {b"queued", b"answered"} and (inputs or stored_answer):
            await self._delete(stored_inputs, stored_answer or StoredImages())
        raise_refusal(status, rest, job, reservation, self._bounds)
        if status == b"queued":
            submitted_us, jobs, work_us = map(int, rest)
            position = QueuePosition(jobs, work_us / MICROSECONDS)
            return SubmitReply(to_queued_job(job, submitted_us), created=True, position=position)
        try:
            stored = to_job(rest[0])
        except DamagedRecordError as error:
            raise StoreDamagedError(
                self._connection.address, "jobs/submit", str(error), "choose another id, or wait until it has expired"
            ) from error
        return SubmitReply(stored, created=status != b"known", shared=status == b"shared")

    @override
    async def get(self, job_id: str) -> Job | None:
        fields = await self._connection.script("jobs/get", job_id)
        if is_orphan(fields):
            fields = await self._connection.script("jobs/watch", job_id)  # which ends it
        return self._read_job(job_id, fields)

    def _read_job(self, job_id: str, fields: Sequence[bytes]) -> Job | None:
        """The job that a script returned; None if it is unknown, or if its record can't be read."""
        if not fields:
            return None
        try:
            return to_job(fields)
        except DamagedRecordError as error:
            self._connection.dropped.note("job", job_id, str(error))
            return None

    @override
    async def list_newest(self, owner: str, *, older_than: int | None = None, limit: int) -> JobPage:
        first = "" if older_than is None else older_than
        last, *found = await self._connection.script("jobs/list", owner, first, limit)
        read = (self._read_job(job_id.decode(), fields) for job_id, fields in zip(found[::2], found[1::2], strict=True))
        return JobPage(tuple(job for job in read if job is not None), int(last) if last else None)

    async def _delete(self, *stored: StoredImages) -> None:
        """What was put into a bucket for a job that doesn't use it; what isn't deleted now expires."""
        with suppress(StoreUnavailableError):
            await self._images.delete([each.unused for each in stored if each.entry])

    @override
    async def remove_data(self, job_id: str) -> None:
        reply = await self._connection.script("jobs/remove_data", job_id)
        if reply:
            entry, object_keys = (word.decode() for word in reply)
            await self._images.delete([UnusedImages(entry, tuple(object_keys.split()))])

    @override
    async def previews(self, job_id: str) -> tuple[bytes, ...]:
        return tuple(await self._connection.script("jobs/previews", job_id))

    @override
    async def cancel(self, job_id: str) -> Job | None:
        return self._read_job(job_id, await self._connection.script("jobs/cancel", job_id))

    @override
    async def position(self, job_id: str) -> QueuePosition | None:
        reply = await self._connection.script("jobs/position", job_id)
        return QueuePosition(reply[0], int(reply[1]) / MICROSECONDS) if reply else None

    @override
    async def estimate_position(self, job: Job, terms: QueueTerms | None = None) -> QueuePosition:
        jobs, work_us = await self._connection.script(
            "jobs/estimate_position",
            job.owner,
            PRIORITIES.index(job.priority),
            job.weight,
            job.model.key if job.model else "",
            write_terms(terms)[0],
        )
        return QueuePosition(jobs, int(work_us) / MICROSECONDS)

    @override
    async def wait(self, job_id: str, timeout_seconds: float) -> Job | None:
        loop = asyncio.get_running_loop()
        stop_at = loop.time() + timeout_seconds
        look_again = self._changed_jobs.subscribe(finished_topic(job_id))
        try:
            while True:
                look_again.clear()
                try:
                    job = await self.get(job_id)
                except StoreUnavailableError:
                    if loop.time() >= stop_at:
                        raise
                else:
                    if job is None or job.state.is_final or loop.time() >= stop_at:
                        return job
                pause_seconds = min(stop_at - loop.time(), self._changed_jobs.look_again_seconds)
                with suppress(TimeoutError):
                    await asyncio.wait_for(look_again.wait(), pause_seconds)
        finally:
            self._changed_jobs.unsubscribe(finished_topic(job_id), look_again)

    @override
    async def watch(self, job_id: str) -> AsyncGenerator[Job]:
        look_again = self._changed_jobs.subscribe(finished_topic(job_id))
        run_topic: str | None = None
        seen: Job | None = None
        try:
            while True:
                look_again.clear()
                try:
                    fields = await self._connection.script("jobs/watch", job_id)
                except StoreUnavailableError:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                if (job := self._read_job(job_id, fields)) is None:
                    return
                if run_topic is None:
                    run_topic = run_topic_of(fields)
                    self._changed_jobs.subscribe(run_topic, look_again)
                if job != seen:
                    yield job
                    seen = job
                if job.state.is_final:
                    return
                with suppress(TimeoutError):
                    await asyncio.wait_for(look_again.wait(), self._changed_jobs.look_again_seconds)
        finally:
            self._changed_jobs.unsubscribe(finished_topic(job_id), look_again)
            if run_topic is not None:
                self._changed_jobs.unsubscribe(run_topic, look_again)

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
        token = secrets.token_hex(16)
        wakeups = ["bell", *(f"bell/{model}" for model in models)]

        arguments = (
            token,
            worker,
            round(lease_seconds * MICROSECONDS),
            self._bounds.max_attempts,
            messages.DEADLINE_PASSED,
            max_jobs,
            max_images,
            " ".join(f"{size} {images}" for size, images in max_images_of.items()),
            *((joining.batch_key, PRIORITIES.index(joining.priority)) if joining else ("", "")),
            *models,
        )

        async def claim_now() -> tuple[Claim, ...] | None:
            reply = await self._connection.script("jobs/claim", *arguments)
            while reply == CLAIM_AGAIN:
                reply = await self._connection.script("jobs/claim", *arguments)
            claims = [await self._read_claim(entry, lease_seconds) for entry in reply]
            return tuple(claim for claim in claims if claim is not None) or None

        claims = await wait_for(self._connection, wakeups, claim_now, wait_seconds) or ()
        if not any(claim.input_references for claim in claims):
            return claims
        try:
            completed = [await self._fetch_inputs(claim) for claim in claims]
        except StoreUnavailableError:
            for claim in claims:  # to be claimed again when the bucket is back
                await self.release(claim)
            raise
        return tuple(claim for claim in completed if claim is not None)

    @override
    async def wait_for_work(self, models: Sequence[str], wait_seconds: float) -> None:
        wakeups = ["joining", *(f"joining/{model}" for model in models)]
        seconds = max(0.01, min(wait_seconds, BLOCK_SECONDS))  # 0 would block for ever
        if await self._connection.blocking_command("BLPOP", *map(self._connection.key, wakeups), seconds):
            await asyncio.sleep(JOINING_DELAY_SECONDS)

    async def _read_claim(self, entry: Sequence[Any], lease_seconds: float) -> Claim | None:
        """The claim of an entry of ``lua/claim.lua``; None, and the job has failed, if it can't be carried out."""
        token, fields, inputs, is_in_bucket, input_count, checkpoint = entry
        try:
            job = to_job(fields)
            with damage_named("its input images"):
                by_digest = {digest.decode(): word for digest, word in to_values(inputs).items()}
                references = {digest: read_references(word)[0] for digest, word in by_digest.items() if is_in_bucket}
        except DamagedRecordError as error:
            self._connection.dropped.note("job", f"of claim {token.decode()}", str(error))
            await self._connection.script("jobs/fail_leader", token, messages.RECORD_DAMAGED)
            return None
        if len(by_digest) < input_count:
            self._connection.dropped.note("inputs", job.id)
            await self.finish(Claim(job, token.decode(), lease_seconds), Failed(messages.INPUTS_GONE))
            return None
        inline = {} if is_in_bucket else by_digest
        return Claim(
            job,
            token.decode(),
            lease_seconds,
            inline,
            input_references=references,
            checkpoint=checkpoint or None,
            is_alone=1 < job.attempts >= self._bounds.max_attempts,
        )

    async def _fetch_inputs(self, claim: Claim) -> Claim | None:
        """The claim with its input images themselves; None, and the job has failed, if they are gone."""
        references = claim.input_references
        try:
            images = await self._images.get(tuple(references.values()))
        except ImagesGoneError:
            await self.finish(claim, Failed(messages.INPUTS_GONE))
            return None
        return dataclasses.replace(claim, inputs=dict(zip(references, images, strict=True)), input_references={})

    @override
    async def heartbeat(self, claim: Claim, steps_done: int, *, previews: Sequence[bytes] = ()) -> HeartbeatReply:
        reply = await self._connection.script(
            "jobs/heartbeat", claim.token, steps_done, messages.DEADLINE_PASSED, MAX_PREVIEWS, *previews
        )
        return HeartbeatReply(reply.decode())

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
        state, error, steps_done, images = describe_outcome(claim.job, outcome)
        warnings = outcome.warnings if isinstance(outcome, Succeeded) else ()
        sums, add_ons, identity = ("", ""), "", ""
        if state is JobState.SUCCEEDED:
            sums = (repr(measured.work_units), repr(measured.gpu_seconds)) if measured else sums
            add_ons = " ".join(map(repr, measured.add_ons.values)) if measured and measured.add_ons else ""
            identity = generated_by.model_dump_json(by_alias=True) if generated_by else ""
        return bool(
            await self._connection.script(
                "jobs/finish",
                claim.job.id,
                claim.token,
                state,
                error,
                steps_done,
                *sums,
                DECAY,
                identity,
                write_warnings(warnings),
                add_ons,
                round(gpu_seconds * MICROSECONDS),
                *build_image_arguments(images),
            )
        )

    @override
    async def release(
        self, claim: Claim, *, checkpoint: bytes | None = None, steps_done: int = 0, gpu_seconds: float = 0.0
    ) -> bool:
        has_room = checkpoint is not None and len(checkpoint) <= MAX_CHECKPOINT_BYTES
        kept = checkpoint if checkpoint is not None and has_room and not self._connection.is_out_of_memory() else b""
        ttl_milliseconds = round(CHECKPOINT_SECONDS * MILLISECONDS)
        spent_us = round(gpu_seconds * MICROSECONDS)
        reply = await self._connection.script("jobs/release", claim.token, kept, ttl_milliseconds, steps_done, spent_us)
        return bool(reply)

    @override
    async def retry(self, claim: Claim, error: str) -> JobState | None:
        state = await self._connection.script("jobs/retry", claim.token, error)
        return JobState(state.decode()) if state else None

    @override
    async def reap(self, models: Sequence[str] = ()) -> ReapReport:
        requeued, failed, canceled, dropped, _ = await self._connection.script(
            "jobs/reap",
            REAP_LIMIT,
            messages.DEADLINE_PASSED,
            messages.LOST,
            WORKER_SEEN_SECONDS,
            messages.MODEL_UNSERVED,
            MODEL_UNSERVED_SECONDS,
            *models,
        )
        for record in dropped:
            kind, _, name = record.decode(errors="replace").partition(" ")
            self._connection.dropped.note(kind, name)
        closed = await self._connection.script("jobs/close", REAP_LIMIT, RUNNING_GRACE_SECONDS)
        return ReapReport(requeued, failed, canceled, closed)

    @override
    async def depth(self) -> QueueDepth:
        return to_depth(await self._connection.script("jobs/depth", WORKER_SEEN_SECONDS))

    @override
    async def cost_sums(self) -> CostSums:
        names = ("count", "x", "y", "xx", "xy", *ADD_ON_SUMS)
        values = await self._connection.command("HMGET", self._connection.key("costs"), *names)
        try:
            sums = [float(value or 0) for value in values]
        except ValueError:
            sums = [math.nan]
        if not all(map(math.isfinite, sums)):
            self._connection.dropped.note("key", "costs")
            await self._connection.command("DEL", self._connection.key("costs"))
            return CostSums()
        count, x, y, xx, xy, *add_ons = sums
        return CostSums(count, x, y, xx, xy, tuple(add_ons))

    async def close(self) -> None:
        """End the subscription. The connection is closed by whoever opened it."""
        await self._changed_jobs.close()
