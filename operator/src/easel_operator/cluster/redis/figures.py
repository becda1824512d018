"""What the servers of Redis say of their memory, their files and their replicas, as metrics of the operator.

Of each server once, by the process that leads: services' users may not ask, and every pod would say the same.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import exceptions

from easel_operator.cluster.redis.servers import find_servers, open_server

logger = logging.getLogger(__name__)

PREFIX: Final = "easel_operator_redis_"
LABEL: Final = "server"  # host:port
MAX_SERVERS: Final = 16  # that are asked; Sentinels may list more
ASK_TIMEOUT_SECONDS: Final = 3.0
SECTIONS: Final = ("memory", "persistence", "replication")  # one INFO each: Redis 6 takes no more at once

# In this order they are on the page.
TEXTS: Final = {
    "easel_operator_redis_up": "Whether the server answered when it was last asked.",
    "easel_operator_redis_is_master": "1 on the server that takes writes.",
    "easel_operator_redis_memory_bytes": "Memory that the server counts against its maxmemory.",
    "easel_operator_redis_max_memory_bytes": "The server's maxmemory; 0 where it has none.",
    "easel_operator_redis_append_only": "Whether the server writes an append-only file.",
    "easel_operator_redis_persistence_failed": "Whether the last snapshot, or write of the append-only file, failed.",
    "easel_operator_redis_last_save_timestamp_seconds": "When the last snapshot was written, in Unix time.",
    "easel_operator_redis_replicas": "Replicas that the master has and that are up to date or catching up.",
    "easel_operator_redis_replication_lag_seconds": "Since the master heard of the replica that is behind most.",
}
FAILING: Final = ("rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status")


@dataclass(frozen=True)
class ServerFigures:
    """Of one server, by the names of ``TEXTS`` without their prefix; what it doesn't say isn't there."""

    server: str
    values: Mapping[str, float]


def build_figures(server: str, info: Mapping[str, Any]) -> ServerFigures:
    """From the fields of an answer to INFO: https://redis.io/docs/latest/commands/info/."""
    is_master = info.get("role") == "master"
    values: dict[str, float] = {"up": 1}
    for name, field in {
        "memory_bytes": "used_memory",
        "max_memory_bytes": "maxmemory",
        "append_only": "aof_enabled",
        "last_save_timestamp_seconds": "rdb_last_save_time",
    }.items():
        if isinstance(value := info.get(field), int):
            values[name] = value
    if any(field in info for field in FAILING):
        values["persistence_failed"] = int(any(info.get(field, "ok") != "ok" for field in FAILING))
    if "role" in info:
        values["is_master"] = int(is_master)
    if is_master:
        replicas = [info.get(f"slave{number}", {}) for number in range(int(info.get("connected_slaves", 0)))]
        lags = [replica["lag"] for replica in replicas if isinstance(replica.get("lag"), int)]
        values["replicas"] = len(replicas)
        if lags:
            values["replication_lag_seconds"] = max(lags)
    return ServerFigures(server, values)


class RedisFigures(Collector):
    """What was last heard. A server that is away has ``up`` 0 and no other figure: an old one would lie."""

    def __init__(self) -> None:
        self._servers: tuple[ServerFigures, ...] = ()
        self._is_refused = False  # as the log has it

    async def look(self, url: str) -> None:
        """Ask all servers at once, for ASK_TIMEOUT_SECONDS at most. Raises nothing that Redis may cause."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT_SECONDS):
                urls = (await find_servers(url))[:MAX_SERVERS]
        except (exceptions.RedisError, OSError, TimeoutError):  # whoever else needs it says so
            self._servers = tuple(ServerFigures(each.server, {"up": 0}) for each in self._servers)
            return
        self._servers = tuple(await asyncio.gather(*(self._ask(each) for each in urls)))

    def collect(self) -> Iterator[Metric]:
        """A gauge each, without the servers that don't say it."""
        for name, text in TEXTS.items():
            gauge = GaugeMetricFamily(name, text, labels=[LABEL])
            for each in self._servers:
                if (value := each.values.get(name.removeprefix(PREFIX))) is not None:
                    gauge.add_metric([each.server], value)
            yield gauge

    async def _ask(self, url: str) -> ServerFigures:
        server = _name_server(url)
        try:
            async with asyncio.timeout(ASK_TIMEOUT_SECONDS), open_server(url, decode_responses=True) as redis:
                pipeline = redis.pipeline(transaction=False)
                for section in SECTIONS:
                    pipeline.info(section)
                answers: list[dict[str, Any]] = await pipeline.execute()
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError, TimeoutError):
            return ServerFigures(server, {"up": 0})
        except exceptions.RedisError as error:
            if not self._is_refused:
                logger.info("Redis at %s says nothing of its memory and files: %s", server, error)
            self._is_refused = True
            return ServerFigures(server, {"up": 1})
        self._is_refused = False
        return build_figures(server, {name: value for answer in answers for name, value in answer.items()})


REDIS_FIGURES: Final = RedisFigures()
REGISTRY.register(REDIS_FIGURES)


def _name_server(url: str) -> str:
    """Without credentials."""
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] or parts.path
