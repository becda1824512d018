"""Each record of a busy service goes missing or wrong in turn: nothing stops, and the other jobs are finished.

What an evicting Redis, a hand on the keyboard or a bad disk can do is more than anybody lists; so whatever a service
has in Redis is damaged here one by one, as it lies there.
"""

import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from easel_contract import names
from easel_contract.server_config import Priority
from easel_server.generation.cost import Measurement
from easel_server.generation.job import JobState
from easel_server.generation.request import WebhookTarget
from easel_server.stores.files.interface import FileDescription
from easel_server.stores.images.interface import ImagesGoneError
from easel_server.stores.images.redis import RedisImages
from easel_server.stores.jobs.interface import Claim, JobBounds, JobConflictError, Joining, QueueTerms
from easel_server.stores.limits.interface import Charge
from easel_server.stores.opening import Stores, open_stores
from redis.asyncio import Redis

from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.redis_server import RedisServer
from tests.support.stored_images import succeed

pytestmark = pytest.mark.redis

MODELS = ("a",)
LEASE_SECONDS = 0.1
TARGET_SECONDS = 0.001  # every job is longer than that, and runs for longer
HOOK = WebhookTarget(url="http://receiver.example/hook")
CHARGE = Charge("requests:ann", amount=1000, per_minute=60_000, burst=60_000)
BOUNDS = JobBounds(max_attempts=1000, max_image_bytes=1 << 40)
TERMS = (QueueTerms(-1.0, 600.0), QueueTerms(600.0, 1200.0), QueueTerms(-1.0, 600.0))  # late, in time, late
GARBAGE = b"\xffgarbage"
# Jobs of which each field is damaged; the others are like one of them.
ONE_OF_EACH = {"done", "running", "released", "ann-1", "cid-0", "joins"}
# Kinds of keys that belong to one run, by whose number they are named.
NUMBERED = ("run", "followers", "inputs", "previews", "images", "image:holders")


@dataclass
class Service:
    """A service with something of everything, as it lay in Redis."""

    stores: Stores
    client: Any  # as bytes: the client's types don't know what it was opened with
    prefix: str
    running: list[Claim] = field(default_factory=list)
    dumps: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)  # of jobs

    async def populate(self) -> None:
        jobs, outbox = self.stores.jobs, self.stores.outbox
        await jobs.submit(build_job("done", webhook=HOOK))
        await jobs.submit(build_job("done too", owner="bob"), flight_key="done")
        await jobs.submit(build_job("done again", owner="cid"), flight_key="done")
        for _ in range(2):
            (claim,) = await jobs.claim("w1", lease_seconds=60, wait_seconds=0)
            await succeed(jobs, claim, (b"image",), Measurement(1.0, 2.0))
        for name in ("released", "running", "alone"):
            job = build_job(name, webhook=HOOK, model="a")
            await jobs.submit(job, flight_key=name, inputs={"digest": b"input"}, target_seconds=TARGET_SECONDS)
        await jobs.submit(build_job("follows", owner="bob", deadline_seconds=600, model="a"), flight_key="running")
        claims = [
            await jobs.claim("w1", MODELS, lease_seconds=LEASE_SECONDS, wait_seconds=0)
            for _ in ("released", "running", "alone")
        ]
        await jobs.release(claims[0][0])
        self.running = [claims[1][0], claims[2][0]]
        for claim in self.running:
            await jobs.heartbeat(claim, 1, previews=[b"preview"])
        for owner, count in (("ann", 3), ("bob", 1), ("cid", 2)):
            for number in range(count):
                name = f"{owner}-{number}"
                model = "a" if owner == "cid" else None
                priority = Priority.HIGH if owner == "bob" else Priority.NORMAL
                job = build_job(
                    name,
                    owner=owner,
                    deadline_seconds=600,
                    webhook=HOOK,
                    priority=priority,
                    model=model,
                    steps=4 + number,
                )
                inputs = {"digest": b"input"} if number == 1 else None
                terms = TERMS[number]
                await jobs.submit(job, flight_key=name, inputs=inputs, target_seconds=TARGET_SECONDS, terms=terms)
            if owner == "ann":  # a look that passes late ones
                joining = Joining("1x1", Priority.LOW)
                assert await jobs.claim("w1", lease_seconds=60, wait_seconds=0, joining=joining) == ()
        await jobs.submit(build_job("joins", owner="dan", deadline_seconds=600, model="a"), flight_key="cid-0")
        assert await outbox.claim(lease_seconds=60, wait_seconds=0) is not None
        assert isinstance(self.stores.images, RedisImages)
        await self.stores.images.announce(["one", "two"])
        await self.stores.cache.put("key", (b"cached",), ttl_seconds=600)
        await self.stores.facts.put("name", b"fact", ttl_seconds=600)
        await self.stores.limits.take([CHARGE])
        await self.stores.files.put(build_file("file"), b"content")
        async for key in self.client.scan_iter(f"{self.prefix}*", count=1000):
            self.dumps[key] = (await self.client.dump(key), max(0, await self.client.pttl(key)))
            name = key.decode().removeprefix(self.prefix)
            if name.startswith("job:"):
                self.runs[name.removeprefix("job:")] = (await self.client.hget(key, "run")).decode()

    async def restore(self) -> None:
        async with self.client.pipeline(transaction=False) as pipeline:
            async for key in self.client.scan_iter(f"{self.prefix}*", count=1000):
                pipeline.delete(key)
            for key, (dump, ttl) in self.dumps.items():
                pipeline.restore(key, ttl, dump, replace=True)
            await pipeline.execute()

    def concerned(self, key: bytes, name: bytes = b"") -> set[str]:
        """Jobs that may fail, or be forgotten, over damage to this key and field or member."""
        kind, _, rest = key.decode().removeprefix(self.prefix).partition(":")
        said = name.decode(errors="replace")
        if kind == "job":
            return {rest}
        if kind in NUMBERED or (kind == "image" and rest.startswith("holders:")):
            return {job_id for job_id, run in self.runs.items() if run == rest.rpartition(":")[2]}
        return {job_id for job_id, run in self.runs.items() if said in {job_id, run} or f"000{run}:" in said}

    async def use(self) -> None:
        """Everything that gateways and workers ask for; only what is declared may be raised, and nothing is."""
        stores, jobs = self.stores, self.stores.jobs
        await jobs.depth()
        (await jobs.cost_sums()).fit()
        for job_id in self.runs:
            await jobs.get(job_id)
            await jobs.position(job_id)
            await jobs.previews(job_id)
            async with aclosing(jobs.watch(job_id)) as watching:
                async for _ in watching:
                    break
        for claim in self.running:
            await jobs.heartbeat(claim, 2, previews=[b"another"])
        await jobs.submit(build_job("new", owner="bob", webhook=HOOK), flight_key="ann-0")
        await jobs.submit(build_job("new", owner="bob", webhook=HOOK), flight_key="ann-0")
        await jobs.list_newest("ann", older_than=None, limit=10)
        await jobs.estimate_position(build_job("ann-0", owner="ann", model="a"))
        await ignore_conflict(jobs.submit(build_job("ann-0", owner="ann"), flight_key="ann-0"))
        await jobs.submit(build_job("answered", owner="bob"), answer=(b"image",))
        await jobs.cancel("ann-2")
        await jobs.cancel("follows")
        await jobs.reap(MODELS)
        await stores.images.usage()
        await stores.images.purge()
        for key in ("key", "other"):
            await stores.cache.get(key)
            await stores.cache.put(key, (b"new",), ttl_seconds=600)
        await stores.facts.get("name")
        await stores.limits.take([CHARGE])
        await stores.limits.refund([CHARGE])
        await stores.files.read("file", "ann")
        await stores.files.list_files("ann")
        await stores.files.put(build_file("another"), b"content")
        await stores.files.delete("file", "ann")
        if (done := await jobs.get("done")) is not None:
            await ignore_gone(stores.images.get(done.images))
        await jobs.remove_data("done")
        await jobs.remove_data("done too")
        while (delivery := await stores.outbox.claim(lease_seconds=60, wait_seconds=0)) is not None:
            await stores.outbox.postpone(delivery, 60)
            await stores.outbox.settle(delivery)

    async def finish_all(self) -> bool:
        """Whether every job has ended, with as much as workers and reapers do in a second."""
        jobs = self.stores.jobs
        await jobs.reap(MODELS)
        for claim in self.running:
            await succeed(jobs, claim, (b"image",), Measurement(1.0, 2.0))
        while claims := await jobs.claim("w2", MODELS, lease_seconds=60, wait_seconds=0, max_jobs=2, max_images=4):
            for claim in claims:
                await jobs.heartbeat(claim, 1)
                await succeed(jobs, claim, (b"image",))
        ended = [await jobs.get(job_id) for job_id in (*self.runs, "new")]
        return all(job is None or job.state.is_final for job in ended)


def build_file(file_id: str) -> FileDescription:
    return FileDescription(id=file_id, owner="ann", media_type="image/png", size_bytes=7, sha256="ab")


async def ignore_gone(call: Awaitable[Any]) -> None:
    with suppress(ImagesGoneError):
        await call


async def ignore_conflict(call: Awaitable[Any]) -> None:
    with suppress(JobConflictError):
        await call


@pytest.fixture(scope="module")
def damaged_server() -> Iterator[RedisServer]:
    with RedisServer("--appendonly", "no") as server:
        yield server


@pytest.fixture
async def service(damaged_server: RedisServer) -> AsyncIterator[Service]:
    namespace = uuid.uuid4().hex
    stores = open_stores(damaged_server.url, namespace=namespace, service="sd", bounds=BOUNDS)
    async with Redis.from_url(damaged_server.url, protocol=2) as client:
        service = Service(stores, client, names.redis_prefix(namespace, "sd"))
        await service.populate()
        yield service
    await stores.close()


async def check(service: Service, damage: str, excused: set[str]) -> None:
    """The service as it is now serves on, and every job that isn't excused succeeds."""
    try:
        await service.use()
        await eventually(service.finish_all, 3)
    except Exception as error:
        raise AssertionError(f"after {damage}: {type(error).__name__}: {error}") from error
    states = {}
    for job_id in (*service.runs, "new"):
        job = await service.stores.jobs.get(job_id)
        states[job_id] = job.state if job is not None else None
    # What was cancelled may have been generated first, where it came to lead a run.
    good = {JobState.SUCCEEDED, JobState.CANCELED}
    cancelled = {"ann-2", "follows"}
    wrong = {
        job_id: state
        for job_id, state in states.items()
        if job_id not in excused and state not in (good if job_id in cancelled else {JobState.SUCCEEDED})
    }
    assert wrong == {}, f"after {damage}: {wrong}"
    unforeseen = [name for kind, name in service.stores.dropped._seen if kind == "script"]
    service.stores.dropped._seen.clear()
    assert unforeseen == [], f"after {damage}"


def excuse(ids: set[str]) -> set[str]:
    # A new request that joined a damaged one shares its end, and one that repeats a lost job may be it.
    return ids | ({"new"} if "ann-0" in ids else set())


async def test_any_key_may_be_missing(service: Service) -> None:
    for key in service.dumps:
        await service.restore()
        await service.client.delete(key)
        await check(service, f"DEL {key!r}", excuse(service.concerned(key)))


async def test_any_key_may_be_of_another_type(service: Service) -> None:
    for key in service.dumps:
        await service.restore()
        kind = await service.client.type(key)
        await service.client.delete(key)
        await (service.client.rpush(key, "x") if kind == b"string" else service.client.set(key, "x"))
        await check(service, f"{key!r} is no {kind!r}", excuse(service.concerned(key)))


@pytest.mark.parametrize("value", [None, GARBAGE])
async def test_any_field_may_be_missing_or_garbage(service: Service, value: bytes | None) -> None:
    for key in service.dumps:
        await service.restore()
        alike = service.concerned(key) - ONE_OF_EACH
        if await service.client.type(key) != b"hash" or alike == service.concerned(key) != set():
            continue
        for name, stored in (await service.client.hgetall(key)).items():
            await service.restore()
            if value is None:
                await service.client.hdel(key, name)
            else:
                await service.client.hset(key, name, value)
            concerned = service.concerned(key, name) | service.concerned(key, stored)
            await check(service, f"{key!r} {name!r} = {value!r}", excuse(concerned))


async def test_any_member_or_item_may_be_missing_or_garbage(service: Service) -> None:
    for key in service.dumps:
        await service.restore()
        kind = await service.client.type(key)
        if kind == b"zset":
            for member in await service.client.zrange(key, 0, -1):
                await service.restore()
                await service.client.zrem(key, member)
                await check(service, f"ZREM {key!r} {member!r}", excuse(service.concerned(key, member)))
            await service.restore()
            await service.client.zadd(key, {GARBAGE: 0})
            await check(service, f"garbage in {key!r}", excuse(service.concerned(key)))
        elif kind == b"list":
            await service.client.lset(key, 0, GARBAGE)
            await check(service, f"garbage in {key!r}", excuse(service.concerned(key)))
        elif kind == b"string":
            await service.client.set(key, GARBAGE)
            await check(service, f"garbage in {key!r}", excuse(service.concerned(key)))


async def test_what_was_dropped_is_counted_and_logged_once(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    await service.client.delete(f"{service.prefix}job:cid-1")
    await service.use()
    await eventually(service.finish_all)
    await service.stores.jobs.reap(MODELS)  # which reports what the scripts have met
    lines = [record.getMessage() for record in caplog.records if "cid-1" in record.getMessage()]
    assert len(lines) == 1
    assert "job cid-1" in lines[0]
    assert service.stores.dropped.counts["job"] == 1


async def test_whoever_waits_for_a_job_whose_run_was_lost_hears_that_it_failed(service: Service) -> None:
    await service.client.delete(f"{service.prefix}run:{service.runs['bob-0']}")
    await service.stores.jobs.reap(MODELS)
    job = await service.stores.jobs.wait("bob-0", 10)
    assert job is not None
    assert job.state is JobState.FAILED
    assert "submit it again" in (job.error or "")
    deliveries = []
    while (delivery := await service.stores.outbox.claim(lease_seconds=60, wait_seconds=0)) is not None:
        deliveries.append(delivery.id)
        await service.stores.outbox.settle(delivery)
    assert "bob-0.completed" in deliveries


async def test_a_lost_count_gives_no_job_another_ones_number(service: Service) -> None:
    """Numbers name runs and their images: two jobs of one number would share what one customer paid for."""
    await service.client.delete(f"{service.prefix}sequence")
    for number in range(30):
        await service.stores.jobs.submit(build_job(f"later-{number}", owner="eve"))
    runs = [(await service.client.hget(f"{service.prefix}job:later-{number}", "run")).decode() for number in range(30)]
    assert set(runs).isdisjoint(service.runs.values())
    assert len(set(runs)) == 30
