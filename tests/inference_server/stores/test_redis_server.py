"""What only a shared server can do to us: die, come back, be full, be a replica, be guarded by ACLs."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from easel_contract import names
from easel_contract.server_config import Priority
from easel_server.generation.cost import Measurement
from easel_server.generation.job import JobState
from easel_server.generation.request import WebhookTarget
from easel_server.stores.cache.interface import CachedImages
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs import changes as redis_waiters
from easel_server.stores.jobs.interface import BrokerSettings, Claim, Failed, Succeeded, Verdict
from easel_server.stores.limits.interface import Charge
from easel_server.stores.redis import wakeups as redis_bells
from easel_server.stores.redis_broker import RedisBroker

from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

CHARGE = Charge("requests:team", amount=1000, per_minute=1000, burst=1000)
HOOK = WebhookTarget(url="http://receiver.example/")

Connect = Callable[[str], RedisBroker]


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Brokers of service ml/sd on the server of a URL."""
    made: list[RedisBroker] = []

    def build(url: str) -> RedisBroker:
        made.append(RedisBroker.from_url(url, namespace="ml", service="sd", settings=BrokerSettings()))
        return made[-1]

    yield build
    for broker in made:
        await broker.close()


async def cached(broker: RedisBroker) -> CachedImages:
    found = await broker.cache_get("key")
    assert found is not None
    return found


async def claim(broker: RedisBroker, lease_seconds: float = 60) -> Claim:
    (claimed,) = await broker.claim("worker-a", lease_seconds=lease_seconds, wait_seconds=0)
    return claimed


async def test_everything_is_still_there_after_the_server_was_killed(own_server: RedisServer, connect: Connect) -> None:
    broker = connect(own_server.url)
    for name in ("done", "running", "waiting"):
        await broker.submit(build_job(name, webhook=HOOK))
    await broker.finish(await claim(broker), Succeeded((b"image",)))
    running = await claim(broker)
    await broker.cache_put("key", (b"cached",), ttl_seconds=60)
    await broker.put_fact("name", b"fact", ttl_seconds=60)
    await broker.take([CHARGE])
    jobs = [await broker.get(name) for name in ("done", "running", "waiting")]

    own_server.restart()

    assert [await broker.get(name) for name in ("done", "running", "waiting")] == jobs
    assert await broker.images("done") == (b"image",)
    assert (await cached(broker)).images == (b"cached",)
    assert await broker.get_fact("name") == b"fact"
    assert not (await broker.take([CHARGE])).allowed
    delivery = await broker.claim_delivery(lease_seconds=60, wait_seconds=0)
    assert delivery is not None
    assert delivery.id == "done.completed"
    depth = await broker.depth()
    assert (depth.waiting, depth.running) == (1, 1)
    assert await broker.heartbeat(running, 2) == Verdict.CONTINUE
    assert await broker.finish(running, Failed("no"))
    assert (await claim(broker)).job.id == "waiting"


async def test_a_blocked_claim_and_a_waiting_client_outlive_a_restart(
    own_server: RedisServer, connect: Connect
) -> None:
    worker, gateway = connect(own_server.url), connect(own_server.url)
    await gateway.submit(build_job("a"))
    held = await claim(worker)
    claiming = asyncio.create_task(worker.claim("w", lease_seconds=60, wait_seconds=60))
    waiting = asyncio.create_task(gateway.wait("a", 60))

    async def both_are_blocked() -> bool:
        subscribers = own_server.command("PUBSUB", "NUMSUB", names.redis_prefix("ml", "sd") + "changes")
        return b":1\r\n" in subscribers and b"blocked_clients:1" in own_server.command("INFO", "clients")

    await eventually(both_are_blocked)
    own_server.kill()
    with pytest.raises(StoreUnavailableError):
        await gateway.depth()
    own_server.start()
    await gateway.submit(build_job("b"))
    (claimed,) = await asyncio.wait_for(claiming, 30)
    assert claimed.job.id == "b"
    assert await worker.finish(held, Succeeded((b"image",)))
    job = await asyncio.wait_for(waiting, 30)
    assert job is not None
    assert job.state == JobState.SUCCEEDED


async def test_claims_and_waiting_clients_are_woken_rather_than_left_to_poll(
    own_server: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_bells, "BLOCK_SECONDS", 4.0)
    monkeypatch.setattr(redis_waiters, "LOOK_AGAIN_SECONDS", 60.0)
    worker, gateway = connect(own_server.url), connect(own_server.url)
    claiming = asyncio.create_task(worker.claim("w", lease_seconds=60, wait_seconds=60))

    async def is_blocked() -> bool:
        return b"blocked_clients:1" in own_server.command("INFO", "clients")

    await eventually(is_blocked)
    await gateway.submit(build_job("a"))
    (claimed,) = await asyncio.wait_for(claiming, 2)
    waiting = asyncio.create_task(gateway.wait("a", 60))

    async def relies_on_its_subscription() -> bool:
        return gateway._changed_jobs.look_again_seconds == 60.0

    await eventually(relies_on_its_subscription)
    await worker.finish(claimed, Succeeded((b"image",)))
    job = await asyncio.wait_for(waiting, 10)
    assert job is not None
    assert job.state == JobState.SUCCEEDED


async def test_an_absent_server_is_named_with_what_failed_and_the_next_step(
    own_server: RedisServer, connect: Connect
) -> None:
    broker = connect(own_server.url.replace("redis://", "redis://user:hunter2@"))
    own_server.kill()
    operations = {
        "submit": broker.submit(build_job("a")),
        "get": broker.get("a"),
        "claim": broker.claim("w", lease_seconds=1, wait_seconds=0),
        "depth": broker.depth(),
        "reap": broker.reap(),
        "take": broker.take([CHARGE]),
        "claim_delivery": broker.claim_delivery(lease_seconds=1, wait_seconds=0),
        "PING": broker.ping(),
        "get ": broker.wait("a", 0.1),
        "cache_get": broker.cache_get("key"),
        "SET": broker.put_fact("name", b"fact", ttl_seconds=60),
    }
    for operation, call in operations.items():
        with pytest.raises(StoreUnavailableError) as caught:
            await call
        message = str(caught.value)
        assert message.startswith(f"broker at 127.0.0.1:{own_server.port} is unavailable: {operation.strip()} failed")
        assert "check that Redis runs" in message
        assert "hunter2" not in message


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), "raise Redis' maxmemory"),
        (("REPLICAOF", "127.0.0.1", "1"), "goes on by itself"),
    ],
    ids=["memory is full", "the server has become a replica"],
)
async def test_a_server_that_cannot_write_is_unavailable_and_half_writes_nothing(
    own_server: RedisServer, connect: Connect, command: tuple[str, ...], advice: str
) -> None:
    broker = connect(own_server.url)
    await broker.submit(build_job("a"))
    claimed = await claim(broker)
    own_server.command(*command)
    with pytest.raises(StoreUnavailableError, match=advice):
        await broker.submit(build_job("b"))
    with pytest.raises(StoreUnavailableError, match=advice):
        await broker.finish(claimed, Succeeded((b"image",)))
    own_server.command("CONFIG", "SET", "maxmemory", "0")
    own_server.command("REPLICAOF", "NO", "ONE")
    assert await broker.get("b") is None
    depth = await broker.depth()
    assert (depth.waiting, depth.running, depth.oldest_waiting_age_seconds) == (0, 1, 0)
    assert await broker.finish(claimed, Succeeded((b"image",)))
    assert await broker.images("a") == (b"image",)


async def test_a_full_server_still_hands_out_and_takes_back_work(own_server: RedisServer, connect: Connect) -> None:
    broker = connect(own_server.url)
    for name in ("a", "b"):
        await broker.submit(build_job(name))
    own_server.command("CONFIG", "SET", "maxmemory", "1")
    claimed = await claim(broker)
    assert await broker.heartbeat(claimed, 1) == Verdict.CONTINUE
    assert await broker.release(claimed)
    assert await broker.cancel("b") is not None
    await broker.reap()


async def test_a_server_that_may_evict_jobs_is_refused(own_server: RedisServer, connect: Connect) -> None:
    own_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreUnavailableError, match="set maxmemory-policy to noeviction"):
        await connect(own_server.url).ping()
    own_server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await connect(own_server.url).ping()


async def test_a_wrong_password_says_what_to_check(own_server: RedisServer, connect: Connect) -> None:
    broker = connect(own_server.url.replace("redis://", "redis://nobody:wrong@"))
    with pytest.raises(StoreUnavailableError, match="check the user, password and permissions"):
        await broker.ping()


async def use_all_of_a_flight(broker: RedisBroker) -> None:
    """Whatever else a service's user must be allowed to do: each command of the scripts once."""
    for name in ("first", "second", "third", "given-back"):
        job = build_job(name, deadline_seconds=60, priority=Priority.LOW)
        flight_key = "flight" if name != "given-back" else None
        await broker.submit(job, flight_key=flight_key, inputs={"digest": b"picture"})
    await broker.submit(build_job("high", priority=Priority.HIGH), flight_key="flight")
    assert await broker.position("given-back") is not None
    watching = broker.watch("third")
    await anext(watching)
    await broker.cancel("first")
    claims = await broker.claim("w", lease_seconds=60, wait_seconds=0, max_jobs=2, max_images=2)
    await broker.heartbeat(claims[0], 1, previews=[b"preview"])
    await broker.cancel("second")
    assert await broker.previews("third") == (b"preview",)
    assert await broker.finish(claims[0], Succeeded((b"image",)), Measurement(1.0, 2.0))
    await watching.aclose()
    await broker.release(await claim(broker))
    await broker.cancel("given-back")
    assert (await broker.cost_sums()).count == 1.0


async def test_a_user_limited_to_its_service_needs_no_more_and_sees_no_other(
    own_server: RedisServer, connect: Connect
) -> None:
    prefix = names.redis_prefix("ml", "sd")
    rules = ["reset", "on", ">secret", f"~{prefix}*", f"&{prefix}*", *names.REDIS_ACL_COMMANDS]
    assert own_server.command("ACL", "SETUSER", "ml-sd", *rules).startswith(b"+OK")
    url = own_server.url.replace("redis://", "redis://ml-sd:secret@")
    broker = connect(url)
    await broker.ping()
    await broker.submit(build_job("a", webhook=HOOK))
    waiting = asyncio.create_task(broker.wait("a", 30))
    (claimed,) = await broker.claim("w", lease_seconds=60, wait_seconds=1)
    assert await broker.heartbeat(claimed, 1) == Verdict.CONTINUE
    assert await broker.finish(claimed, Succeeded((b"image",)))
    job = await asyncio.wait_for(waiting, 10)
    assert job is not None
    assert await broker.images("a") == (b"image",)
    await broker.submit(build_job("b"))
    await broker.release(await claim(broker))
    await broker.cancel("b")
    delivery = await broker.claim_delivery(lease_seconds=60, wait_seconds=1)
    assert delivery is not None
    await broker.postpone_delivery(delivery, 1)
    await broker.settle_delivery(delivery)
    await broker.cache_put("key", (b"cached",), ttl_seconds=60)
    assert (await cached(broker)).images == (b"cached",)
    await broker.put_fact("name", b"fact", ttl_seconds=60)
    await broker.get_fact("name")
    await broker.refund([CHARGE])
    await broker.take([CHARGE])
    await broker.reap()
    await broker.depth()
    await use_all_of_a_flight(broker)
    other = RedisBroker.from_url(url, namespace="other", service="sd", settings=BrokerSettings())
    with pytest.raises(StoreUnavailableError, match="permissions"):
        await other.get("a")
    await other.close()


async def test_a_claim_whose_reply_was_lost_is_repeated_not_doubled(redis_server: RedisServer) -> None:
    namespace = uuid.uuid4().hex
    settings = BrokerSettings()
    broker = RedisBroker.from_url(redis_server.url, namespace=namespace, service="sd", settings=settings)
    for name in ("a", "b"):
        await broker.submit(build_job(name))
    connection = broker._connection
    run_script = connection.script
    lost_replies = 0

    async def lose_first_reply(name: str, *arguments: str | bytes | float) -> object:
        nonlocal lost_replies
        reply = await run_script(name, *arguments)
        if name == "claim" and lost_replies == 0:
            lost_replies += 1
            raise StoreUnavailableError(connection.address, name, "ConnectionError: reset", "wait")
        return reply

    connection.script = lose_first_reply  # type: ignore[method-assign]
    (claimed,) = await broker.claim("w", lease_seconds=60, wait_seconds=10)
    assert (claimed.job.id, claimed.job.attempts, lost_replies) == ("a", 1, 1)
    assert (await broker.depth()).running == 1
    await broker.close()


async def test_cancelling_a_task_that_uses_the_broker_always_works(own_server: RedisServer, connect: Connect) -> None:
    """Wherever the task is at that moment; a shutdown depends on it."""

    is_over = asyncio.Event()

    async def ping_on_and_on(broker: RedisBroker) -> None:
        while not is_over.is_set():
            await broker.ping()

    for moment in range(40):
        broker = connect(own_server.url)
        is_over.clear()
        task = asyncio.create_task(ping_on_and_on(broker))
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=2)
        is_over.set()
        assert task.cancelled(), f"still running, cancelled at turn {moment} of the event loop"
        await broker.close()


async def test_a_watcher_outlives_a_restart(own_server: RedisServer, connect: Connect) -> None:
    worker, gateway = connect(own_server.url), connect(own_server.url)
    await gateway.submit(build_job("a"))
    changes = gateway.watch("a")
    assert (await anext(changes)).state == JobState.WAITING
    next_change = asyncio.ensure_future(anext(changes))
    own_server.restart()
    held = await claim(worker)
    assert (await asyncio.wait_for(next_change, 20)).state == JobState.RUNNING
    await worker.finish(held, Succeeded((b"image",)))
    assert [job.state async for job in changes][-1] == JobState.SUCCEEDED


async def test_concurrent_calls_outlive_a_restart_between_them_and_none_gets_the_other_s_reply(
    own_server: RedisServer, connect: Connect
) -> None:
    broker = connect(own_server.url)
    ids = [f"job-{number}" for number in range(200)]
    for _ in range(2):
        await asyncio.gather(*(broker.submit(build_job(job_id)) for job_id in ids))
        jobs = await asyncio.gather(*(broker.get(job_id) for job_id in ids))
        assert [job.id for job in jobs if job] == ids
        own_server.restart()


async def test_a_cancelled_call_takes_no_other_call_s_reply(own_server: RedisServer, connect: Connect) -> None:
    broker = connect(own_server.url)
    ids = [f"job-{number}" for number in range(50)]
    await asyncio.gather(*(broker.submit(build_job(job_id)) for job_id in ids))
    for moment in range(10):
        calls = [asyncio.create_task(broker.get(job_id)) for job_id in ids]
        for _ in range(moment):
            await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        jobs = await asyncio.gather(*calls[1::2])
        assert [job.id for job in jobs if job] == ids[1::2]
        assert (await broker.get("job-7")) == jobs[3]


async def test_no_unfinished_job_has_an_expiry(own_server: RedisServer, connect: Connect) -> None:
    broker = connect(own_server.url)
    for name in ("running", "waiting"):
        await broker.submit(build_job(name))
    await claim(broker)
    prefix = names.redis_prefix("ml", "sd")
    keys = ["job:running", "job:waiting", "waiting", "running"]
    assert [own_server.command("TTL", prefix + key) for key in keys] == [b":-1\r\n"] * 4
