"""Random histories in which memory and Redis must answer alike, and which leave nothing behind. Replayable by seed."""

import dataclasses
import random
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from easel_contract import names
from easel_contract.server_config import Priority
from easel_server.generation.job import Job, JobState
from easel_server.stores.errors import StoreError
from easel_server.stores.images.interface import StoreFullError
from easel_server.stores.jobs import memory_runs, redis
from easel_server.stores.jobs.interface import (
    Canceled,
    Claim,
    Failed,
    JobBounds,
    Jobs,
    Joining,
    QueueFullError,
    QueuePosition,
    QueueTerms,
)
from easel_server.stores.jobs.memory import MemoryJobs
from easel_server.stores.jobs.redis import RedisJobs
from easel_server.stores.opening import open_memory_stores, open_stores
from easel_server.stores.usage.interface import UsageLedger
from redis.asyncio import Redis
from typing_extensions import override

from tests.support.jobs import build_identity, build_job
from tests.support.movable_clock import MovableClock
from tests.support.redis_server import RedisServer
from tests.support.stored_images import image_store_of, read_images, succeed

pytestmark = pytest.mark.redis

SEEDS = range(12)
LATE_SEEDS = range(6)
LATE_STEPS = 300
TERMS = tuple(QueueTerms(start_within, 20.0) for start_within in (-1.0, 1.0, 3.0, 9.0))  # of one service
# While its configuration changes, and gateways of the version before are still there.
MIXED_TERMS = (None, *TERMS, QueueTerms(2.0, 0.0), QueueTerms(4.0, 3.0), QueueTerms(9.0, 60.0))
STEPS = 200
OWNERS = ("ann", "bob", "cleo:x", "dé")
WEIGHTS = {"ann": 1, "bob": 2, "cleo:x": 4, "dé": 1}
MODELS = ("a", "b")
RARELY = 0.1
GPU_SECONDS = (0.25, 0.5, 1.0, 3.0)  # sums and shares of these are exact, so both must decide alike
TARGETS_SECONDS = (0.75, 2.0)
UNSHARED = {"submitted_at", "started_at", "finished_at", "deadline_at", "images"}  # two clocks, other keys
BOOKS = {"image:sums", "image:expiry", "image:holders"}  # entries go when the images do, by purge
# About seven jobs: now and then there is no room, in the budget or in the queue.
BOUNDS = JobBounds(max_image_bytes=200_000, max_input_bytes=40, max_queue_depth=4, is_shared=True)
AMPLE_BOUNDS = JobBounds(max_image_bytes=1 << 30)

Operation = Callable[[], Coroutine[Any, Any, None]]


class Pair:
    """Does the same to both, and compares what they say."""

    owners: tuple[str, ...] = OWNERS
    models: tuple[str | None, ...] = (None, *MODELS, *MODELS)
    priorities = tuple(Priority)

    def __init__(self, generator: random.Random, memory: Jobs, redis: Jobs) -> None:
        self._random = generator
        self._spent = random.Random(0)  # noqa: S311
        self._stores = (memory, redis)
        self._claims: list[tuple[Claim, Claim]] = []
        self._ids: list[str] = []
        self.refused: Counter[type[StoreError]] = Counter()

    async def both(self, operation: str, *arguments: Any, **options: Any) -> Any:
        one, other = [await answer_of(getattr(jobs, operation)(*arguments, **options)) for jobs in self._stores]
        assert comparable(one) == comparable(other), f"{operation}{arguments}"
        return one

    def spend(self) -> float:
        """GPU-seconds of one attempt, by chance of their own: the histories are as they were."""
        return self._spent.choice(GPU_SECONDS)

    def choose_terms(self) -> QueueTerms | None:
        return None

    def operations(self) -> list[Operation]:
        operations: list[Operation] = [self.submit] * 4 + [self.claim] * 3 + [self.finish] * 3
        operations += [self.cancel, self.heartbeat, self.heartbeat, self.release, self.retry, self.remove_data]
        operations += [self.serve_one_model_only] if self._random.random() < RARELY else []
        return operations

    async def step(self) -> None:
        await self._random.choice(self.operations())()
        if self._ids:
            job_id = self._random.choice(self._ids)
            job = await self.both("get", job_id)
            pages = [await jobs.list_newest(job.owner, limit=3) for jobs in self._stores]
            assert [comparable(job) for job in pages[0].jobs] == [comparable(job) for job in pages[1].jobs]
            assert (pages[0].older_than is None) == (pages[1].older_than is None)
            for question in ("position",) if job.state.is_final else ("position", "previews"):
                await self.both(question, job_id)
            images = [await read_images(jobs, job_id) for jobs in self._stores]
            assert images[0] == images[1]
            assert not job.data_removed or images[0] == ()
        one, other = [await image_store_of(jobs).usage() for jobs in self._stores]
        assert dataclasses.replace(one, next_expiry_seconds=None) == dataclasses.replace(
            other, next_expiry_seconds=None
        )
        depths = [await jobs.depth() for jobs in self._stores]
        assert depths[0].waiting_gpu_seconds == pytest.approx(depths[1].waiting_gpu_seconds)
        assert depths[0].running_gpu_seconds == pytest.approx(depths[1].running_gpu_seconds)
        assert depths[0].bounded_waiting_gpu_seconds == pytest.approx(depths[1].bounded_waiting_gpu_seconds)
        for depth in depths:  # of what runs, how much depends on each store's own clock
            assert -1e-6 <= depth.bounded_running_gpu_seconds <= depth.running_gpu_seconds + 1e-6
            assert depth.overrunning <= depth.running
        assert (depths[0].waiting, depths[0].running) == (depths[1].waiting, depths[1].running)

    async def submit(self) -> None:
        owner = self._random.choice(self.owners)
        job = build_job(
            f"job-{len(self._ids)}",
            owner=owner,
            weight=WEIGHTS[owner],
            priority=self._random.choice(self.priorities),
            gpu_seconds=self._random.choice(GPU_SECONDS),
            images=self._random.randint(1, 3),
            width_pixels=self._random.choice((64, 128)),
            model=self._random.choice(self.models),
        )
        terms = self.choose_terms()
        await self.both("estimate_position", job, terms)
        flight_key = self._random.choice((None, None, "one", "two"))
        answer = (b"cached",) * job.parameters.images if self._random.random() < 0.1 else None
        inputs = {"digest": job.id.encode() * self._random.randint(0, 3)}
        options = {"target_seconds": self._random.choice((None, *TARGETS_SECONDS)), "terms": terms}
        reply = await self.both("submit", job, flight_key=flight_key, inputs=inputs, answer=answer, **options)
        if isinstance(reply, StoreFullError | QueueFullError):
            self.refused[type(reply)] += 1
            return
        assert reply.created
        self._ids.append(job.id)

    async def cancel(self) -> None:
        if self._ids:
            await self.both("cancel", self._random.choice(self._ids))

    async def claim(self) -> None:
        most, most_images = self._random.randint(1, 3), self._random.randint(1, 5)
        worker = self._random.choice(("w1", "w2"))
        joining = self._random.choice((None, None, Joining("64x64", self._random.choice(list(Priority)))))
        held = self._random.choice(((), MODELS[:1], MODELS[1:], MODELS))
        claims = [
            await jobs.claim(
                worker,
                held,
                lease_seconds=60,
                wait_seconds=0,
                max_jobs=most,
                max_images=most_images,
                max_images_of={"64x64": 2},
                joining=joining,
            )
            for jobs in self._stores
        ]
        assert [(claim.checkpoint, claim.is_alone) for claim in claims[0]] == [
            (claim.checkpoint, claim.is_alone) for claim in claims[1]
        ]
        assert all(claim.job.model is None or claim.job.model.key in held for claim in claims[0])
        assert [comparable(claim.job) for claim in claims[0]] == [comparable(claim.job) for claim in claims[1]]
        assert [dict(claim.inputs) for claim in claims[0]] == [dict(claim.inputs) for claim in claims[1]]
        self._claims += zip(*claims, strict=True)

    async def heartbeat(self) -> None:
        if self._claims:
            previews = [b"preview %d" % self._random.randrange(10**9)] if self._random.random() < 0.5 else []
            await self._with_claim("heartbeat", self._random.choice(self._claims), 2, previews=previews)

    async def finish(self) -> None:
        if self._claims:
            outcome = self._random.choice(((b"one", b"two"), (b"one",), Failed("no"), Canceled()))
            generated_by = self._random.choice((None, build_identity(weights="one"), build_identity(weights="two")))
            claims, seconds = self._random.choice(self._claims), self.spend()
            if not isinstance(outcome, tuple):
                await self._with_claim("finish", claims, outcome, generated_by=generated_by, gpu_seconds=seconds)
                return
            answers = [
                await succeed(jobs, claim, outcome, generated_by=generated_by, gpu_seconds=seconds)
                for jobs, claim in zip(self._stores, claims, strict=True)
            ]
            assert answers[0] == answers[1]
            if self._random.random() < 0.7:  # else it will be tried again
                self._claims.remove(claims)

    async def remove_data(self) -> None:
        if self._ids:
            await self.both("remove_data", self._random.choice(self._ids))

    async def release(self) -> None:
        if self._claims:
            checkpoint = self._random.choice((None, b"latents"))
            options = {"checkpoint": checkpoint, "steps_done": 2, "gpu_seconds": self.spend()}
            await self._with_claim("release", self._random.choice(self._claims), **options)

    async def retry(self) -> None:
        if self._claims:
            await self._with_claim("retry", self._random.choice(self._claims), "the engine failed")

    async def serve_one_model_only(self) -> None:
        """The others' waiting jobs fail at once: nobody has served them since."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(memory_runs, "MODEL_UNSERVED_SECONDS", 0)
            patch.setattr(redis, "MODEL_UNSERVED_SECONDS", 0)
            await self.both("reap", [self._random.choice(MODELS)])

    async def _with_claim(self, operation: str, claims: tuple[Claim, Claim], *arguments: Any, **options: Any) -> None:
        answers = [
            await getattr(jobs, operation)(claim, *arguments, **options)
            for jobs, claim in zip(self._stores, claims, strict=True)
        ]
        assert answers[0] == answers[1], operation
        if operation != "heartbeat" and self._random.random() < 0.7:  # else it will be tried again
            self._claims.remove(claims)

    async def end_everything(self) -> None:
        for job_id in self._ids:
            await self.both("cancel", job_id)
        for claims in list(self._claims):
            await self._with_claim("finish", claims, Canceled())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(memory_runs, "MODEL_UNSERVED_SECONDS", 0)
            patch.setattr(redis, "MODEL_UNSERVED_SECONDS", 0)
            await self.both("reap")


class LatePair(Pair):
    """Many jobs of few, of which some are late, and some become late as time goes by."""

    owners = OWNERS[:2]
    models = (None, None, None, "a")
    priorities = (Priority.NORMAL, Priority.NORMAL, Priority.NORMAL, Priority.HIGH)

    def __init__(
        self,
        generator: random.Random,
        memory: Jobs,
        redis: Jobs,
        clock: MovableClock,
        terms: tuple[QueueTerms | None, ...],
    ) -> None:
        super().__init__(generator, memory, redis)
        self._clock = clock
        self._terms = terms
        self.overtook = 0

    @override
    def choose_terms(self) -> QueueTerms | None:
        return self._random.choice(self._terms)

    @override
    def operations(self) -> list[Operation]:
        return [*super().operations(), *[self.submit] * 8, *[self.claim] * 6, *[self.wait] * 4]

    async def wait(self) -> None:
        await self._clock.move(self._random.choice((0.25, 0.5, 1.0)))

    @override
    async def claim(self) -> None:
        held = len(self._claims)
        await super().claim()
        memory = self._stores[0]
        assert isinstance(memory, MemoryJobs)
        waiting = [run.entry for run in memory._runs.runs.values() if run.state == JobState.WAITING]
        for claim, _ in self._claims[held:]:
            taken = memory._runs.running[claim.token].entry
            self.overtook += any(
                (entry.owner, entry.priority, entry.model) == (taken.owner, taken.priority, taken.model)
                and entry < taken
                for entry in waiting
            )


async def answer_of(call: Awaitable[Any]) -> Any:
    """What it returns, or raises for want of room."""
    try:
        return await call
    except (QueueFullError, StoreFullError) as error:
        return error


def comparable(value: Any) -> Any:
    """Without what two clocks, or floating point and whole microseconds, can't agree on."""
    if isinstance(value, QueuePosition):
        return value.jobs_ahead, round(value.gpu_seconds_ahead, 4)
    if isinstance(value, QueueFullError):
        return value.depth, value.held, value.claims_before_a_place
    if isinstance(value, StoreFullError):
        usage = dataclasses.replace(value.usage, refused_bytes=0, refused_input_bytes=0, next_expiry_seconds=None)
        return value.reason, value.held_bytes, value.needed_bytes, usage
    if isinstance(value, Job):
        return value.model_dump(exclude=UNSHARED), value.model, value.generated_by, value.data_removed
    return (comparable(value.job), value.created, value.shared) if hasattr(value, "created") else value


async def sum_usage(ledger: UsageLedger) -> dict[str, Counter[str]]:
    """By customer, of today and the days beside it: the two clocks may be on different ones."""
    sums: dict[str, Counter[str]] = {}
    today = datetime.now(UTC).date()
    for days in (-1, 0, 1):
        for each in await ledger.read(today + timedelta(days=days)):
            figures = {name: value for name, value in dataclasses.asdict(each).items() if name != "customer"}
            sums.setdefault(each.customer, Counter()).update(figures)
    return sums


async def keys_that_stay(server: RedisServer, prefix: str) -> set[str]:
    """Names of keys that don't expire."""
    async with Redis.from_url(server.url, protocol=2) as client:
        found = [key async for key in client.scan_iter(f"{prefix}*", count=1000)]
        return {key.decode().removeprefix(prefix) for key in found if await client.pttl(key) == -1}


@pytest.mark.parametrize("seed", SEEDS)
async def test_memory_and_redis_answer_alike_and_leave_nothing_behind(seed: int, redis_server: RedisServer) -> None:
    namespace = uuid.uuid4().hex
    shared = open_stores(redis_server.url, namespace=namespace, service="sd", bounds=BOUNDS)
    memory = open_memory_stores(BOUNDS)
    pair = Pair(random.Random(seed), memory.jobs, shared.jobs)  # noqa: S311
    try:
        for _ in range(STEPS):
            await pair.step()
        await pair.end_everything()
        assert len(pair.refused) == 2, "there was always room: this says nothing of it"
        assert (await shared.images.usage()).reserved_bytes == 0
        assert (await memory.images.usage()).reserved_bytes == 0
        assert await sum_usage(shared.usage) == await sum_usage(memory.usage) != {}
        await shared.jobs.claim("w1", MODELS, lease_seconds=1, wait_seconds=0)  # empties the lists of wake-ups
    finally:
        await shared.close()
    await expect_nothing_left(redis_server, namespace, memory.jobs)


@pytest.mark.parametrize("terms", [TERMS, MIXED_TERMS], ids=["one", "mixed"])
@pytest.mark.parametrize("seed", LATE_SEEDS)
async def test_memory_and_redis_let_late_jobs_yield_alike_and_leave_nothing_behind(
    seed: int, terms: tuple[QueueTerms | None, ...], redis_server: RedisServer
) -> None:
    namespace, clock = uuid.uuid4().hex, MovableClock()
    shared = open_stores(redis_server.url, namespace=namespace, service="sd", bounds=AMPLE_BOUNDS)
    memory = open_memory_stores(AMPLE_BOUNDS, clock=clock)
    assert isinstance(shared.jobs, RedisJobs)
    pair = LatePair(random.Random(seed), memory.jobs, shared.jobs, clock, terms)  # noqa: S311
    try:
        with clock.shown(shared.jobs):
            await clock.move()
            for _ in range(LATE_STEPS):
                await pair.step()
            assert pair.overtook, "nobody was late: this says nothing of them"
            await clock.move(1.0)
            await pair.end_everything()
            await shared.jobs.claim("w1", MODELS, lease_seconds=1, wait_seconds=0)
            await clock.hide()
    finally:
        await shared.close()
    await expect_nothing_left(redis_server, namespace, memory.jobs)


async def expect_nothing_left(server: RedisServer, namespace: str, memory: Jobs) -> None:
    """Counters and sums of a bounded size; nothing that grows with the jobs that were."""
    staying = await keys_that_stay(server, names.redis_prefix(namespace, "sd"))
    assert staying - BOOKS == {"sequence", "workers", "engine_failures"}
    assert isinstance(memory, MemoryJobs)
    assert what_memory_keeps(memory) == {"records", "_workers"}  # these go by time


def what_memory_keeps(jobs: MemoryJobs) -> set[str]:
    """Names of the collections that aren't empty."""
    held = {**vars(jobs), **vars(jobs._runs)}
    collections = {name: value for name, value in held.items() if hasattr(value, "__len__") and name != "_on_reap"}
    return {name for name, value in collections.items() if len(value) > 0}
