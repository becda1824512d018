"""What only a shared server can do to us: die, come back, be full, be a replica, be guarded by ACLs."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import easel_server.stores as stores_package
import pytest
from easel_contract import names
from easel_contract.server_config import Priority
from easel_server.generation.cost import Measurement
from easel_server.generation.job import JobState
from easel_server.generation.request import WebhookTarget
from easel_server.stores.cache.interface import CachedImages
from easel_server.stores.errors import StoreEvictsError, StoreOutOfMemoryError, StoreUnavailableError
from easel_server.stores.jobs import changes
from easel_server.stores.jobs.interface import Claim, Failed, HeartbeatReply, JobBounds, Jobs, QueueTerms
from easel_server.stores.jobs.redis import RedisJobs
from easel_server.stores.limits.interface import Charge
from easel_server.stores.opening import Stores, open_stores
from easel_server.stores.redis import connection, wakeups

from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.redis_server import RedisServer
from tests.support.stored_images import read_images, succeed

pytestmark = pytest.mark.redis

CHARGE = Charge("requests:team", amount=1000, per_minute=1000, burst=1000)
HOOK = WebhookTarget(url="http://receiver.example/")

Connect = Callable[[str], Stores]


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Stores of service ml/sd on the server of a URL."""
    made: list[Stores] = []

    def build(url: str) -> Stores:
        made.append(open_stores(url, namespace="ml", service="sd", bounds=JobBounds()))
        return made[-1]

    yield build
    for stores in made:
        await stores.close()


async def cached(stores: Stores) -> CachedImages:
    found = await stores.cache.get("key")
    assert found is not None
    return found


async def claim(jobs: Jobs, lease_seconds: float = 60) -> Claim:
    (claimed,) = await jobs.claim("worker-a", lease_seconds=lease_seconds, wait_seconds=0)
    return claimed


async def test_everything_is_still_there_after_the_server_was_killed(own_server: RedisServer, connect: Connect) -> None:
    stores = connect(own_server.url)
    for name in ("done", "running", "waiting"):
        await stores.jobs.submit(build_job(name, webhook=HOOK))
    await succeed(stores.jobs, await claim(stores.jobs), (b"image",))
    running = await claim(stores.jobs)
    await stores.cache.put("key", (b"cached",), ttl_seconds=60)
    await stores.facts.put("name", b"fact", ttl_seconds=60)
    await stores.limits.take([CHARGE])
    jobs = [await stores.jobs.get(name) for name in ("done", "running", "waiting")]

    own_server.restart()

    assert [await stores.jobs.get(name) for name in ("done", "running", "waiting")] == jobs
    assert await read_images(stores.jobs, "done") == (b"image",)
    assert (await cached(stores)).images == (b"cached",)
    assert await stores.facts.get("name") == b"fact"
    assert not (await stores.limits.take([CHARGE])).allowed
    delivery = await stores.outbox.claim(lease_seconds=60, wait_seconds=0)
    assert delivery is not None
    assert delivery.id == "done.completed"
    depth = await stores.jobs.depth()
    assert (depth.waiting, depth.running) == (1, 1)
    assert await stores.jobs.heartbeat(running, 2) == HeartbeatReply.CONTINUE
    assert await stores.jobs.finish(running, Failed("no"))
    assert (await claim(stores.jobs)).job.id == "waiting"


async def test_a_blocked_claim_and_a_waiting_client_outlive_a_restart(
    own_server: RedisServer, connect: Connect
) -> None:
    worker, gateway = connect(own_server.url), connect(own_server.url)
    await gateway.jobs.submit(build_job("a"))
    held = await claim(worker.jobs)
    claiming = asyncio.create_task(worker.jobs.claim("w", lease_seconds=60, wait_seconds=60))
    waiting = asyncio.create_task(gateway.jobs.wait("a", 60))

    async def both_are_blocked() -> bool:
        subscribers = own_server.command("PUBSUB", "NUMSUB", names.redis_prefix("ml", "sd") + "changes")
        return b":1\r\n" in subscribers and b"blocked_clients:1" in own_server.command("INFO", "clients")

    await eventually(both_are_blocked)
    own_server.kill()
    with pytest.raises(StoreUnavailableError):
        await gateway.jobs.depth()
    own_server.start()
    await gateway.jobs.submit(build_job("b"))
    (claimed,) = await asyncio.wait_for(claiming, 30)
    assert claimed.job.id == "b"
    assert await succeed(worker.jobs, held, (b"image",))
    job = await asyncio.wait_for(waiting, 30)
    assert job is not None
    assert job.state == JobState.SUCCEEDED


async def test_claims_and_waiting_clients_are_woken_rather_than_left_to_poll(
    own_server: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeups, "BLOCK_SECONDS", 4.0)
    monkeypatch.setattr(changes, "LOOK_AGAIN_SECONDS", 60.0)
    worker, gateway = connect(own_server.url), connect(own_server.url)
    assert isinstance(gateway.jobs, RedisJobs)
    changed_jobs = gateway.jobs._changed_jobs
    claiming = asyncio.create_task(worker.jobs.claim("w", lease_seconds=60, wait_seconds=60))

    async def is_blocked() -> bool:
        return b"blocked_clients:1" in own_server.command("INFO", "clients")

    await eventually(is_blocked)
    await gateway.jobs.submit(build_job("a"))
    (claimed,) = await asyncio.wait_for(claiming, 2)
    waiting = asyncio.create_task(gateway.jobs.wait("a", 60))

    async def relies_on_its_subscription() -> bool:
        return changed_jobs.look_again_seconds == 60.0

    await eventually(relies_on_its_subscription)
    await succeed(worker.jobs, claimed, (b"image",))
    job = await asyncio.wait_for(waiting, 10)
    assert job is not None
    assert job.state == JobState.SUCCEEDED


async def test_an_absent_server_is_named_with_what_failed_and_the_next_step(
    own_server: RedisServer, connect: Connect
) -> None:
    stores = connect(own_server.url.replace("redis://", "redis://user:hunter2@"))
    own_server.kill()
    operations = {
        "jobs/submit": stores.jobs.submit(build_job("a")),
        "jobs/get": stores.jobs.get("a"),
        "jobs/claim": stores.jobs.claim("w", lease_seconds=1, wait_seconds=0),
        "jobs/depth": stores.jobs.depth(),
        "jobs/reap": stores.jobs.reap(),
        "limits/take": stores.limits.take([CHARGE]),
        "outbox/claim": stores.outbox.claim(lease_seconds=1, wait_seconds=0),
        "PING": stores.ping(),
        "jobs/get ": stores.jobs.wait("a", 0.1),
        "cache/get": stores.cache.get("key"),
        "SET": stores.facts.put("name", b"fact", ttl_seconds=60),
    }
    for operation, call in operations.items():
        with pytest.raises(StoreUnavailableError) as caught:
            await call
        message = str(caught.value)
        assert message.startswith(f"Redis at 127.0.0.1:{own_server.port} is unavailable: {operation.strip()} failed")
        assert "check that Redis runs" in message
        assert "hunter2" not in message


async def test_a_server_that_cannot_write_is_unavailable_and_half_writes_nothing(
    own_server: RedisServer, connect: Connect
) -> None:
    stores = connect(own_server.url)
    await stores.jobs.submit(build_job("a"))
    claimed = await claim(stores.jobs)
    own_server.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(StoreUnavailableError, match="goes on by itself"):
        await stores.jobs.submit(build_job("b"))
    with pytest.raises(StoreUnavailableError, match="goes on by itself"):
        await succeed(stores.jobs, claimed, (b"image",))
    own_server.command("REPLICAOF", "NO", "ONE")
    assert await stores.jobs.get("b") is None
    depth = await stores.jobs.depth()
    assert (depth.waiting, depth.running, depth.oldest_waiting_age_seconds) == (0, 1, 0)
    assert await succeed(stores.jobs, claimed, (b"image",))
    assert await read_images(stores.jobs, "a") == (b"image",)


async def test_a_server_without_memory_refuses_new_jobs_and_does_everything_for_those_it_has(
    own_server: RedisServer, connect: Connect
) -> None:
    stores = connect(own_server.url)
    for name in ("done", "a", "b"):
        await stores.jobs.submit(build_job(name))
    own_server.command("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(StoreOutOfMemoryError, match="raise Redis' maxmemory"):
        await stores.jobs.submit(build_job("c"))
    assert await stores.jobs.get("c") is None
    assert await succeed(stores.jobs, await claim(stores.jobs), (b"image",))
    assert await read_images(stores.jobs, "done") == (b"image",)
    assert (await stores.images.usage()).used_bytes > 0
    await stores.jobs.remove_data("done")
    assert await read_images(stores.jobs, "done") == ()
    claimed = await claim(stores.jobs)
    assert await stores.jobs.heartbeat(claimed, 1) == HeartbeatReply.CONTINUE
    assert await stores.jobs.release(claimed)
    assert await stores.jobs.cancel("b") is not None
    await stores.jobs.reap()
    await stores.images.purge()
    own_server.command("CONFIG", "SET", "maxmemory", "0")
    await stores.jobs.submit(build_job("c"))


async def test_a_server_without_memory_is_noticed_though_nobody_asks_for_anything_new(
    own_server: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = connect(own_server.url)
    monkeypatch.setattr(connection, "LOOK_AT_POLICY_SECONDS", 0.0)
    await stores.ping()
    assert not stores.is_out_of_memory()
    own_server.command("CONFIG", "SET", "maxmemory", "1")
    await stores.ping()
    assert stores.is_out_of_memory()
    own_server.command("CONFIG", "SET", "maxmemory", "0")
    monkeypatch.setattr(connection, "OUT_OF_MEMORY_SECONDS", 0.0)
    await stores.ping()
    assert not stores.is_out_of_memory()


async def test_a_server_that_may_evict_jobs_is_refused(own_server: RedisServer, connect: Connect) -> None:
    own_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreUnavailableError, match="CONFIG SET maxmemory-policy noeviction"):
        await connect(own_server.url).ping()
    own_server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await connect(own_server.url).ping()


async def test_a_wrong_password_says_what_to_check(own_server: RedisServer, connect: Connect) -> None:
    stores = connect(own_server.url.replace("redis://", "redis://nobody:wrong@"))
    with pytest.raises(StoreUnavailableError, match="check the user, password and permissions"):
        await stores.ping()


async def use_all_of_a_flight(stores: Stores) -> None:
    """Whatever else a service's user must be allowed to do: each command of the scripts once."""
    for name in ("first", "second", "third", "released"):
        job = build_job(name, deadline_seconds=60, priority=Priority.LOW)
        flight_key = "flight" if name != "released" else None
        await stores.jobs.submit(job, flight_key=flight_key, inputs={"digest": b"input"})
    await stores.jobs.submit(build_job("high", priority=Priority.HIGH), flight_key="flight")
    assert await stores.jobs.position("released") is not None
    watching = stores.jobs.watch("third")
    await anext(watching)
    await stores.jobs.cancel("first")
    claims = await stores.jobs.claim("w", lease_seconds=60, wait_seconds=0, max_jobs=2, max_images=2)
    await stores.jobs.heartbeat(claims[0], 1, previews=[b"preview"])
    await stores.jobs.cancel("second")
    assert await stores.jobs.previews("third") == (b"preview",)
    assert await succeed(stores.jobs, claims[0], (b"image",), Measurement(1.0, 2.0))
    await watching.aclose()
    await stores.jobs.release(await claim(stores.jobs))
    await stores.jobs.cancel("released")
    assert (await stores.jobs.cost_sums()).count == 1.0


async def test_scripts_use_no_command_that_a_limited_user_may_not(own_server: RedisServer) -> None:
    """Wherever in them it stands: a service would do without it for weeks."""
    categories = [rule.removeprefix("+@") for rule in names.REDIS_ACL_COMMANDS if rule.startswith("+@")]
    allowed = {rule.removeprefix("+") for rule in names.REDIS_ACL_COMMANDS if not rule.startswith(("+@", "-"))}
    for category in categories:
        allowed |= set(own_server.command("ACL", "CAT", category).decode().split())
    used = {
        command.lower()
        for file in Path(stores_package.__file__).parent.rglob("*.lua")
        for command in re.findall(r"call\('([A-Z]+)'", file.read_text())
    }
    assert len(used) > 30
    assert sorted(used - allowed) == []


async def test_a_user_limited_to_its_service_needs_no_more_and_sees_no_other(
    own_server: RedisServer, connect: Connect
) -> None:
    prefix = names.redis_prefix("ml", "sd")
    rules = ["reset", "on", ">secret", f"~{prefix}*", f"&{prefix}*", *names.REDIS_ACL_COMMANDS]
    assert own_server.command("ACL", "SETUSER", "ml-sd", *rules).startswith(b"+OK")
    url = own_server.url.replace("redis://", "redis://ml-sd:secret@")
    stores = connect(url)
    await stores.ping()
    await stores.jobs.submit(build_job("a", webhook=HOOK))
    waiting = asyncio.create_task(stores.jobs.wait("a", 30))
    (claimed,) = await stores.jobs.claim("w", lease_seconds=60, wait_seconds=1)
    assert await stores.jobs.heartbeat(claimed, 1) == HeartbeatReply.CONTINUE
    assert await succeed(stores.jobs, claimed, (b"image",))
    job = await asyncio.wait_for(waiting, 10)
    assert job is not None
    assert await read_images(stores.jobs, "a") == (b"image",)
    for name in ("b", "c"):
        await stores.jobs.submit(build_job(name), terms=QueueTerms(-1.0, 60.0), target_seconds=0.000_001)
    overrunning = await claim(stores.jobs)
    await stores.jobs.heartbeat(overrunning, 1)
    assert (await stores.jobs.depth()).overrunning == 1
    await stores.jobs.reap()
    await stores.jobs.release(overrunning, checkpoint=b"begun", steps_done=1)
    again = await claim(stores.jobs)
    assert again.checkpoint == b"begun"
    await stores.jobs.release(again)
    for name in ("b", "c"):
        await stores.jobs.cancel(name)
    delivery = await stores.outbox.claim(lease_seconds=60, wait_seconds=1)
    assert delivery is not None
    await stores.outbox.postpone(delivery, 1)
    await stores.outbox.settle(delivery)
    await stores.cache.put("key", (b"cached",), ttl_seconds=60)
    assert (await cached(stores)).images == (b"cached",)
    await stores.facts.put("name", b"fact", ttl_seconds=60)
    await stores.facts.get("name")
    await stores.limits.refund([CHARGE])
    await stores.limits.take([CHARGE])
    await stores.jobs.reap()
    await stores.jobs.depth()
    await use_all_of_a_flight(stores)
    other = open_stores(url, namespace="other", service="sd", bounds=JobBounds())
    with pytest.raises(StoreUnavailableError, match="permissions"):
        await other.jobs.get("a")
    await other.close()


async def test_a_claim_whose_reply_was_lost_is_repeated_not_doubled(redis_server: RedisServer) -> None:
    namespace = uuid.uuid4().hex
    stores = open_stores(redis_server.url, namespace=namespace, service="sd", bounds=JobBounds())
    assert isinstance(stores.jobs, RedisJobs)
    for name in ("a", "b"):
        await stores.jobs.submit(build_job(name))
    connection = stores.jobs._connection
    run_script = connection.script
    lost_replies = 0

    async def lose_first_reply(name: str, *arguments: str | bytes | float) -> object:
        nonlocal lost_replies
        reply = await run_script(name, *arguments)
        if name == "jobs/claim" and lost_replies == 0:
            lost_replies += 1
            raise StoreUnavailableError(connection.address, name, "ConnectionError: reset", "wait")
        return reply

    connection.script = lose_first_reply  # type: ignore[method-assign]
    (claimed,) = await stores.jobs.claim("w", lease_seconds=60, wait_seconds=10)
    assert (claimed.job.id, claimed.job.attempts, lost_replies) == ("a", 1, 1)
    assert (await stores.jobs.depth()).running == 1
    await stores.close()


async def test_cancelling_a_task_that_uses_the_stores_always_works(own_server: RedisServer, connect: Connect) -> None:
    """Wherever the task is at that moment; a shutdown depends on it."""

    is_over = asyncio.Event()

    async def ping_on_and_on(stores: Stores) -> None:
        while not is_over.is_set():
            await stores.ping()

    for moment in range(40):
        stores = connect(own_server.url)
        is_over.clear()
        task = asyncio.create_task(ping_on_and_on(stores))
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=2)
        is_over.set()
        assert task.cancelled(), f"still running, cancelled at turn {moment} of the event loop"
        await stores.close()


async def test_a_watcher_outlives_a_restart(own_server: RedisServer, connect: Connect) -> None:
    worker, gateway = connect(own_server.url), connect(own_server.url)
    await gateway.jobs.submit(build_job("a"))
    changes = gateway.jobs.watch("a")
    assert (await anext(changes)).state == JobState.WAITING
    next_change = asyncio.ensure_future(anext(changes))
    own_server.restart()
    held = await claim(worker.jobs)
    assert (await asyncio.wait_for(next_change, 20)).state == JobState.RUNNING
    await succeed(worker.jobs, held, (b"image",))
    assert [job.state async for job in changes][-1] == JobState.SUCCEEDED


async def test_concurrent_calls_outlive_a_restart_between_them_and_none_gets_the_other_s_reply(
    own_server: RedisServer, connect: Connect
) -> None:
    stores = connect(own_server.url)
    ids = [f"job-{number}" for number in range(200)]
    for _ in range(2):
        await asyncio.gather(*(stores.jobs.submit(build_job(job_id)) for job_id in ids))
        jobs = await asyncio.gather(*(stores.jobs.get(job_id) for job_id in ids))
        assert [job.id for job in jobs if job] == ids
        own_server.restart()


async def test_a_cancelled_call_takes_no_other_call_s_reply(own_server: RedisServer, connect: Connect) -> None:
    stores = connect(own_server.url)
    ids = [f"job-{number}" for number in range(50)]
    await asyncio.gather(*(stores.jobs.submit(build_job(job_id)) for job_id in ids))
    for moment in range(10):
        calls = [asyncio.create_task(stores.jobs.get(job_id)) for job_id in ids]
        for _ in range(moment):
            await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        jobs = await asyncio.gather(*calls[1::2])
        assert [job.id for job in jobs if job] == ids[1::2]
        assert (await stores.jobs.get("job-7")) == jobs[3]


async def test_no_unfinished_job_has_an_expiry(own_server: RedisServer, connect: Connect) -> None:
    stores = connect(own_server.url)
    for name in ("running", "waiting"):
        await stores.jobs.submit(build_job(name))
    await claim(stores.jobs)
    prefix = names.redis_prefix("ml", "sd")
    keys = ["job:running", "job:waiting", "waiting", "running"]
    assert [own_server.command("TTL", prefix + key) for key in keys] == [b":-1\r\n"] * 4


async def test_a_subscription_that_ends_unforeseen_is_made_anew(
    own_server: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "RECONNECT_SECONDS", 0.01)
    worker, gateway = connect(own_server.url), connect(own_server.url)
    assert isinstance(gateway.jobs, RedisJobs)
    changed_jobs = gateway.jobs._changed_jobs
    listen, failures = changed_jobs._listen, 0

    async def fail_twice() -> None:
        nonlocal failures
        failures += 1
        if failures <= 2:
            raise KeyError("nobody foresaw this")
        await listen()

    monkeypatch.setattr(changed_jobs, "_listen", fail_twice)
    await gateway.jobs.submit(build_job("a"))
    waiting = asyncio.create_task(gateway.jobs.wait("a", 60))

    async def relies_on_its_subscription() -> bool:
        return changed_jobs.look_again_seconds == changes.LOOK_AGAIN_SECONDS

    await eventually(relies_on_its_subscription)
    await succeed(worker.jobs, await claim(worker.jobs), (b"image",))
    job = await asyncio.wait_for(waiting, 10)
    assert job is not None
    assert job.state == JobState.SUCCEEDED


async def test_a_server_that_evicts_is_used_again_once_its_policy_is_another(
    own_server: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LOOK_AT_POLICY_AGAIN_SECONDS", 0.01)
    stores = connect(own_server.url)
    own_server.command("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    for call in (stores.ping, stores.jobs.depth, lambda: stores.jobs.submit(build_job("a"))):
        with pytest.raises(StoreEvictsError, match="CONFIG SET maxmemory-policy noeviction"):
            await call()
    assert own_server.command("DBSIZE") == b":0\r\n", "nothing is given to a server that may drop it"
    own_server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")

    async def is_used_again() -> bool:
        try:
            return (await stores.jobs.submit(build_job("a"))).created
        except StoreEvictsError:
            return False

    await eventually(is_used_again)
