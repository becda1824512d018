"""All that the processes of a service share, opened: in Redis, or in memory for a service of one process."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from easel_contract import names
from easel_contract.server_config import BucketConfig

from easel_server.stores.cache.interface import ResultCache
from easel_server.stores.cache.memory import MemoryResultCache
from easel_server.stores.dropped import DroppedRecords
from easel_server.stores.facts.interface import FactStore
from easel_server.stores.facts.memory import MemoryFacts
from easel_server.stores.files.interface import FileBounds, FileStore
from easel_server.stores.files.memory import MemoryFiles
from easel_server.stores.images.interface import ImageStore, ImageStoreWithBooks
from easel_server.stores.images.memory import MemoryImages
from easel_server.stores.jobs.interface import JobBounds, Jobs
from easel_server.stores.jobs.memory import MemoryJobs
from easel_server.stores.limits.interface import RateLimiter
from easel_server.stores.limits.memory import MemoryRateLimiter
from easel_server.stores.memory_wakeups import Clock, MemoryWakeups, utc_now
from easel_server.stores.outbox.interface import WebhookOutbox
from easel_server.stores.outbox.memory import MemoryOutbox
from easel_server.stores.usage.interface import UsageLedger
from easel_server.stores.usage.memory import MemoryUsage

if TYPE_CHECKING:
    from easel_server.stores.cache.memcached import MemcachedCache

DEFAULT_CACHE_BYTES: Final = 128 << 20  # of all images in the result cache


@dataclass(frozen=True)
class Stores:
    """What a service keeps, by subject.

    Memory and Redis keep the same promises. The clock that counts is the stores' own: it stamps jobs, expires leases
    and passes deadlines, so pods' clocks are never compared. Every method of every store may raise
    StoreUnavailableError, and may be repeated safely after it unless it says otherwise.
    """

    jobs: Jobs
    images: ImageStore
    cache: ResultCache
    limits: RateLimiter
    outbox: WebhookOutbox
    facts: FactStore
    files: FileStore
    usage: UsageLedger
    dropped: DroppedRecords = field(default_factory=DroppedRecords)  # of any of them
    # Whether the server behind them had no room for anything new lately
    is_out_of_memory: Callable[[], bool] = lambda: False
    pings: tuple[Callable[[], Awaitable[None]], ...] = ()  # of the servers behind them
    closes: tuple[Callable[[], Awaitable[None]], ...] = ()  # in the order in which they are called

    async def ping(self) -> None:
        """Return if all servers serve. Raises StoreUnavailableError."""
        for ping in self.pings:
            await ping()

    async def close(self) -> None:
        """Close connections; no store can be used afterwards."""
        for close in self.closes:
            await close()


def open_stores(
    redis_url: str | None,
    *,
    redis_url_file: Path | None = None,
    namespace: str,
    service: str,
    uid: str = "",
    bounds: JobBounds,
    max_cache_bytes: int = DEFAULT_CACHE_BYTES,
    memcached_address: str | None = None,
    bucket: BucketConfig | None = None,
) -> Stores:
    """The stores of one service: in Redis, or in this process's memory without a URL. Connects on first use.

    The user and the password of the URL in ``redis_url_file`` count, where there is one, at each new connection.
    ``uid`` tells it from other services that have had its name; empty outside Kubernetes.
    With a ``bucket`` images are there. Raises ValueError for a URL that isn't as ``easel_contract.redis_url``
    says, and ModuleNotFoundError where Memcached is asked for and its client isn't installed.
    """
    prefix = names.redis_prefix(namespace, service, uid)
    folder = "/".join(filter(None, (namespace, service, uid)))
    memcached = None
    if memcached_address is not None:
        # Here, since it is optional: its client is compiled, and not for every Python that the server runs on.
        from easel_server.stores.cache.memcached import MemcachedCache  # noqa: PLC0415

        memcached = MemcachedCache(memcached_address, prefix)
    if redis_url is None:
        return open_memory_stores(
            bounds,
            max_cache_bytes=max_cache_bytes,
            memcached=memcached,
            open_images=lambda books: _open_images(bucket, books, folder),
        )
    # Here, since a service of one process needs no Redis client.
    from easel_server.stores.cache.redis import RedisResultCache  # noqa: PLC0415
    from easel_server.stores.facts.redis import RedisFacts  # noqa: PLC0415
    from easel_server.stores.files.redis import RedisFiles  # noqa: PLC0415
    from easel_server.stores.images.redis import RedisImages  # noqa: PLC0415
    from easel_server.stores.jobs.redis import RedisJobs  # noqa: PLC0415
    from easel_server.stores.limits.redis import RedisRateLimiter  # noqa: PLC0415
    from easel_server.stores.outbox.redis import RedisOutbox  # noqa: PLC0415
    from easel_server.stores.redis.connection import RedisConnection  # noqa: PLC0415
    from easel_server.stores.usage.redis import RedisUsage  # noqa: PLC0415

    connection = RedisConnection(redis_url, prefix, url_file=redis_url_file)
    images = _open_images(bucket, RedisImages(connection, bounds.room), folder)
    jobs = RedisJobs(connection, bounds, images)
    return Stores(
        jobs=jobs,
        images=images,
        cache=memcached or RedisResultCache(connection, max_cache_bytes),
        limits=RedisRateLimiter(connection),
        outbox=RedisOutbox(connection),
        facts=RedisFacts(connection),
        files=RedisFiles(connection, FileBounds()),
        usage=RedisUsage(connection),
        dropped=connection.dropped,
        is_out_of_memory=connection.is_out_of_memory,
        pings=(connection.ping,),
        closes=(jobs.close, connection.close, *((memcached.close,) if memcached else ())),
    )


def open_memory_stores(
    bounds: JobBounds,
    *,
    clock: Clock = utc_now,
    max_cache_bytes: int = DEFAULT_CACHE_BYTES,
    memcached: "MemcachedCache | None" = None,
    open_images: Callable[[MemoryImages], ImageStore] = lambda books: books,
) -> Stores:
    """The stores of a single process (role ``all``): lost at its exit, but for images that are in a bucket."""
    wakeups = MemoryWakeups()
    outbox = MemoryOutbox(clock, wakeups)
    cache = MemoryResultCache(clock, max_cache_bytes)
    limits = MemoryRateLimiter(clock)
    files = MemoryFiles(clock, FileBounds())
    books = MemoryImages(clock, bounds.room)
    usage = MemoryUsage(clock)
    images = open_images(books)
    return Stores(
        jobs=MemoryJobs(
            bounds, clock, wakeups, outbox, images, books, usage, on_reap=(cache.purge, limits.purge, files.purge)
        ),
        images=images,
        cache=memcached or cache,
        limits=limits,
        outbox=outbox,
        facts=MemoryFacts(clock),
        files=files,
        usage=usage,
        closes=(memcached.close,) if memcached else (),
    )


def _open_images(bucket: BucketConfig | None, books: ImageStoreWithBooks, folder: str) -> ImageStore:
    if bucket is None:
        return books
    # Here, since a service without a bucket needs no client of one.
    from easel_server.stores.images.s3 import BucketImages  # noqa: PLC0415

    return BucketImages(bucket, books, folder=folder)
