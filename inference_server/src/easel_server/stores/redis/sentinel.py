"""Connections to whichever server is the master, as Sentinels say: each new one asks anew.

A server that was the master and is one no more refuses writes (READONLY): redis-py closes such a connection, and the
next one leads to the new master. Sentinels also end all connections to a server that they make a replica.
https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

import asyncio
from collections import Counter
from typing import Any, Final

from easel_contract.redis_url import SentinelUrl
from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import NoBackoff

# All are asked at once, and one that is away holds nobody up. Less than a caller waits for in an outage.
ASK_SECONDS: Final = 0.3
TLS_SETTINGS: Final = "ssl_"


class Sentinels:
    """The Sentinels of one master, as redis-py's connections ask them.

    redis-py's own asks one after the other and believes the first, which may be cut off from the others: here the
    answer of most of them counts.
    """

    is_master = True  # what is looked for
    check_connection = False

    def __init__(self, url: SentinelUrl, tls: dict[str, Any]) -> None:
        """``tls`` are settings of the servers' connections that count for Sentinels, too."""
        self._url = url
        self._clients = [
            Redis(
                host=host,
                port=port,
                username=url.sentinel_username,
                password=url.sentinel_password,
                protocol=2,
                decode_responses=True,
                socket_connect_timeout=ASK_SECONDS,
                socket_timeout=ASK_SECONDS,
                retry=Retry(NoBackoff(), retries=0),
                ssl=url.is_tls,
                **tls,
            )
            for host, port in url.sentinels
        ]

    def __str__(self) -> str:
        return str(self._url)

    async def get_master_address(self) -> tuple[str, int]:
        """Host and port. Raises ConnectionError of redis-py where no Sentinel knows."""
        answers = await asyncio.gather(*(self._ask(client) for client in self._clients))
        known = Counter(answer for answer in answers if isinstance(answer, tuple))
        if not known:
            raise exceptions.ConnectionError(f"no Sentinel knows the master {self._url.master}: {_describe(answers)}")
        return known.most_common(1)[0][0]

    async def close(self) -> None:
        """Close the connections to the Sentinels."""
        await asyncio.gather(*(client.aclose() for client in self._clients), return_exceptions=True)

    async def _ask(self, client: Redis) -> tuple[str, int] | str:
        """The address, or why there is none."""
        place = "{host}:{port}".format_map(client.connection_pool.connection_kwargs)
        try:
            async with asyncio.timeout(ASK_SECONDS):
                answer = await client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", self._url.master)  # type: ignore[no-untyped-call] # not annotated
        except (exceptions.RedisError, OSError, TimeoutError) as error:
            return f"{place}: {type(error).__name__} {error}"
        except (LookupError, TypeError, ValueError):  # of redis-py, which takes it for an address
            return f"{place} gives no address, so it is no Sentinel"
        if not answer:
            return f"{place} watches none of that name"
        return str(answer[0]), int(answer[1])


def use_sentinels(url: SentinelUrl, settings: dict[str, Any]) -> type[SentinelManagedConnection]:
    """Have a pool's connections, made with ``settings``, lead to the master; the class that they are to have."""
    tls = {name: value for name, value in settings.items() if name.startswith(TLS_SETTINGS)}
    settings["connection_pool"] = Sentinels(url, tls)
    return SentinelManagedSSLConnection if url.is_tls else SentinelManagedConnection


def _describe(answers: list[tuple[str, int] | str]) -> str:
    return "; ".join(answer for answer in answers if isinstance(answer, str))
