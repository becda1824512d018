"""Which servers are behind a URL of Redis, and clients of them."""

from typing import Any, Final

from easel_contract.redis_url import parse_sentinel_url
from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff

CONNECT_TIMEOUT_SECONDS: Final = 3.0
REPLY_TIMEOUT_SECONDS: Final = 5.0
ASK_TIMEOUT_SECONDS: Final = 1.0  # of a Sentinel; there are others


async def find_servers(url: str) -> tuple[str, ...]:
    """Their URLs, the master's first: of a URL without Sentinels, itself.

    Raises ValueError of a wrong URL, and redis-py's errors; what Sentinels refuse or say wrong is a ConnectionError, as
    it says nothing of what the servers would do.
    """
    sentinel_url = parse_sentinel_url(url)
    if sentinel_url is None:
        return (url,)
    tls = {name: value for name, value in parse_url(sentinel_url.server_url).items() if name.startswith("ssl_")}
    settings = {
        "username": sentinel_url.sentinel_username,
        "password": sentinel_url.sentinel_password,
        "protocol": 2,
        "decode_responses": True,
        "socket_connect_timeout": ASK_TIMEOUT_SECONDS,
        "socket_timeout": ASK_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), retries=0),
        "ssl": sentinel_url.is_tls,
        **tls,
    }
    async with Sentinel(sentinel_url.sentinels, sentinel_kwargs=settings) as sentinels:  # type: ignore[no-untyped-call] # not annotated
        try:
            master = await sentinels.discover_master(sentinel_url.master)
            replicas = await sentinels.discover_replicas(sentinel_url.master)
        except MasterNotFoundError as error:  # whose own words are those of connections, a page long
            raise exceptions.ConnectionError(f"No Sentinel that answers knows {sentinel_url}") from error
        except (exceptions.ResponseError, LookupError, TypeError, ValueError) as error:
            raise exceptions.ConnectionError(
                f"Sentinels don't say where {sentinel_url} is: {type(error).__name__} {error}"
            ) from error
    return tuple(sentinel_url.at(str(host), int(port)) for host, port in (master, *replicas))


def check_url(url: str) -> None:
    """Raises ValueError where it is no address of a Redis."""
    sentinel_url = parse_sentinel_url(url)
    parse_url(sentinel_url.server_url if sentinel_url is not None else url)


def open_server(url: str, *, max_connections: int = 1, retries: int = 0, **settings: Any) -> Redis:
    """A client of one server, which connects on first use. ``settings`` come before the URL's. Raises ValueError."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=REPLY_TIMEOUT_SECONDS,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=REPLY_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), retries=retries),
        protocol=2,
    )
    pool.connection_kwargs.update(settings)
    return Redis.from_pool(pool)


def is_no_master(error: BaseException) -> bool:
    """Whether it says that the server is away, or was the master and is one no more."""
    return isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | exceptions.ReadOnlyError | OSError)
