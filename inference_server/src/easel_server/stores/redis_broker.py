"""The broker on Redis or Valkey (7.0 or newer): shared by any number of gateways and workers.

Each transition is one script in ``lua/`` and therefore atomic; this module turns values into arguments and replies
into values, and does the waiting. The keys are listed in ``lua/shared.lua``.
"""

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self

from easel_contract import names
from easel_contract.server_config import Priority

from easel_server.generation import messages
from easel_server.generation.cost import DECAY, CostSums, Measurement
from easel_server.generation.job import Job, JobState
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.changes import ChangedJobs, finished_topic, run_topic_of
from easel_server.stores.jobs.fair_queue import PRIORITIES
from easel_server.stores.jobs.interface import (
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
from easel_server.stores.jobs.redis_fields import MICROSECONDS, build_submit_arguments, to_job, to_queued_job, to_values
from easel_server.stores.redis.connection import RedisConnection
from easel_server.stores.redis.wakeups import RETRY_SECONDS, wait_for
from easel_server.stores.redis_side_stores import RedisSideStores

REAP_LIMIT: Final = 100  # jobs a call, so that a script never holds the server for long
SAFE_EVICTION_POLICIES: Final = ("noeviction", "volatile-")  # these leave unfinished jobs alone: they have no TTL


class RedisBroker(RedisSideStores):
    """See ``interface.Broker``. Connects on first use; reconnects by itself."""

    def __init__(self, connection: RedisConnection, settings: BrokerSettings) -> None:
        super().__init__(connection, max_cache_bytes=settings.max_cache_bytes)
        self._settings = settings
        self._changed_jobs = ChangedJobs(connection)
        self._eviction_checked = False

    @classmethod
    def from_url(cls, url: str, *, namespace: str, service: str, settings: BrokerSettings) -> Self:
        """The broker of one service; ``url`` is ``redis://``, ``rediss://`` or ``unix://``."""
        return cls(RedisConnection(url, names.redis_prefix(namespace, service)), settings)

    # As clients see jobs

    async def submit(
        self,
        job: Job,
        *,
        answer: tuple[bytes, ...] | None = None,
        inputs: Mapping[str, bytes] | None = None,
        flight_key: str | None = None,
    ) -> Submission:
        """See JobStore."""
        arguments = build_submit_arguments(job, self._settings, answer, inputs or {}, flight_key)
        status, *rest = await self._connection.script("submit", *arguments)
        if status == b"conflict":
            raise JobConflictError(job.id)
        if status == b"full":
            raise QueueFullError(rest[0], self._settings.max_queue_depth)
        if status == b"queued":
            submitted_us, jobs, work_us = map(int, rest)
            position = QueuePosition(jobs, work_us / MICROSECONDS)
            return Submission(to_queued_job(job, submitted_us), created=True, position=position)
        return Submission(to_job(rest[0]), created=status != b"known", shared=status == b"shared")

    async def get(self, job_id: str) -> Job | None:
        """See JobStore."""
        return _to_optional_job(await self._connection.script("get", job_id))

    async def images(self, job_id: str) -> tuple[bytes, ...]:
        """See JobStore."""
        return tuple(await self._connection.script("read_list", job_id, "images"))

    async def previews(self, job_id: str) -> tuple[bytes, ...]:
        """See JobStore."""
        return tuple(await self._connection.script("read_list", job_id, "previews"))

    async def cancel(self, job_id: str) -> Job | None:
        """See JobStore."""
        return _to_optional_job(await self._connection.script("cancel", job_id))

    async def position(self, job_id: str) -> QueuePosition | None:
        """See JobStore."""
        reply = await self._connection.script("position", job_id)
        return QueuePosition(reply[0], int(reply[1]) / MICROSECONDS) if reply else None

    async def outlook(self, owner: str, priority: Priority, weight: int) -> QueuePosition:
        """See JobStore."""
        jobs, work_us = await self._connection.script("outlook", owner, PRIORITIES.index(priority), weight)
        return QueuePosition(jobs, int(work_us) / MICROSECONDS)

    async def wait(self, job_id: str, timeout_seconds: float) -> Job | None:
        """See JobStore."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout_seconds
        look_again = self._changed_jobs.subscribe(finished_topic(job_id))
        try:
            while True:
                look_again.clear()
                try:
                    job = await self.get(job_id)
                except StoreUnavailableError:
                    if loop.time() >= give_up_at:
                        raise
                else:
                    if job is None or job.state.is_final or loop.time() >= give_up_at:
                        return job
                pause_seconds = min(give_up_at - loop.time(), self._changed_jobs.look_again_seconds)
                with suppress(TimeoutError):
                    await asyncio.wait_for(look_again.wait(), pause_seconds)
        finally:
            self._changed_jobs.unsubscribe(finished_topic(job_id), look_again)

    async def watch(self, job_id: str) -> AsyncGenerator[Job]:
        """See JobStore."""
        look_again = self._changed_jobs.subscribe(finished_topic(job_id))
        run_topic: str | None = None
        seen: Job | None = None
        try:
            while True:
                look_again.clear()
                try:
                    fields = await self._connection.script("watch", job_id)
                except StoreUnavailableError:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                if not fields:
                    return
                if run_topic is None:
                    run_topic = run_topic_of(fields)
                    self._changed_jobs.subscribe(run_topic, look_again)
                job = to_job(fields)
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

    async def claim(
        self, worker: str, *, lease_seconds: float, wait_seconds: float, max_jobs: int = 1, max_images: int = 1
    ) -> tuple[Claim, ...]:
        """See JobQueue."""
        token = secrets.token_hex(16)

        async def claim_now() -> tuple[Claim, ...] | None:
            reply = await self._connection.script(
                "claim",
                token,
                worker,
                round(lease_seconds * MICROSECONDS),
                self._settings.max_attempts,
                messages.DEADLINE_PASSED,
                max_jobs,
                max_images,
            )
            return tuple(_to_claim(entry, lease_seconds) for entry in reply) or None

        return await wait_for(self._connection, "bell", claim_now, wait_seconds) or ()

    async def heartbeat(self, claim: Claim, steps_done: int, *, previews: Sequence[bytes] = ()) -> Verdict:
        """See JobQueue."""
        reply = await self._connection.script(
            "heartbeat", claim.token, steps_done, messages.DEADLINE_PASSED, MAX_PREVIEWS, *previews
        )
        return Verdict(reply.decode())

    async def finish(self, claim: Claim, outcome: Outcome, measured: Measurement | None = None) -> bool:
        """See JobQueue."""
        state, error, steps_done, images = _build_finish_arguments(claim.job, outcome)
        has_measured = measured is not None and state is JobState.SUCCEEDED
        sums = (repr(measured.work_units), repr(measured.gpu_seconds)) if measured and has_measured else ("", "")
        return bool(
            await self._connection.script(
                "finish", claim.job.id, claim.token, state, error, steps_done, *sums, DECAY, *images
            )
        )

    async def release(self, claim: Claim) -> bool:
        """See JobQueue."""
        return bool(await self._connection.script("release", claim.token))

    async def reap(self) -> ReapReport:
        """See JobQueue."""
        requeued, failed, canceled = await self._connection.script(
            "reap", REAP_LIMIT, messages.DEADLINE_PASSED, messages.LOST, WORKER_SEEN_SECONDS
        )
        return ReapReport(requeued, failed, canceled)

    async def depth(self) -> QueueDepth:
        """See JobQueue."""
        waiting, running, age_us, workers, *work_us = await self._connection.script("depth", WORKER_SEEN_SECONDS)
        *waiting_us, running_us = (int(number or 0) for number in work_us)
        return QueueDepth(
            waiting,
            running,
            int(age_us) / MICROSECONDS,
            waiting_gpu_seconds=sum(waiting_us) / MICROSECONDS,
            running_gpu_seconds=running_us / MICROSECONDS,
            workers=workers,
        )

    async def cost_sums(self) -> CostSums:
        """See JobQueue."""
        names = [field.name for field in dataclasses.fields(CostSums)]
        values = await self._connection.command("HMGET", self._connection.key("costs"), *names)
        return CostSums(*(float(value or 0) for value in values))

    # The connection

    async def ping(self) -> None:
        """See Broker. The first one also refuses a server that may evict unfinished jobs."""
        await self._connection.command("PING")
        if self._eviction_checked:
            return
        memory: dict[str, str] = await self._connection.blocking_command("INFO", "memory")
        policy = memory.get("maxmemory_policy", "noeviction")
        if not policy.startswith(SAFE_EVICTION_POLICIES):
            raise StoreUnavailableError(
                self._connection.address,
                "PING",
                f"maxmemory-policy {policy}, under which Redis may drop unfinished jobs",
                "set maxmemory-policy to noeviction",
            )
        self._eviction_checked = True

    async def close(self) -> None:
        """See Broker."""
        await self._changed_jobs.close()
        await self._connection.close()


def _to_claim(entry: Sequence[Any], lease_seconds: float) -> Claim:
    token, fields, inputs = entry
    pictures = {digest.decode(): picture for digest, picture in to_values(inputs).items()}
    return Claim(to_job(fields), token.decode(), lease_seconds, pictures)


def _to_optional_job(fields: Sequence[bytes]) -> Job | None:
    return to_job(fields) if fields else None


def _build_finish_arguments(job: Job, outcome: Outcome) -> tuple[JobState, str, int | str, tuple[bytes, ...]]:
    match outcome:
        case Succeeded(images):
            return JobState.SUCCEEDED, "", job.parameters.steps, images
        case Failed(error):
            return JobState.FAILED, error, "", ()
        case Canceled():
            return JobState.CANCELED, "", "", ()
