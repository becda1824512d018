"""A Redis Cluster for tests: three real servers that share the slots, without replicas."""

import time
from contextlib import ExitStack
from typing import Self

from redis import Redis

from tests.support.redis_server import RedisServer, find_free_port

SLOTS = 16384
SIZE = 3
START_TIMEOUT_SECONDS = 120.0
POLL_SECONDS = 0.02


class RedisCluster:
    """Use as a context manager."""

    def __init__(self) -> None:
        self._bus_ports = [find_free_port() for _ in range(SIZE)]
        self.servers = [
            RedisServer(
                *("--cluster-enabled", "yes", "--cluster-port", str(port), "--cluster-node-timeout", "5000"),
                *("--cluster-require-full-coverage", "no"),
            )
            for port in self._bus_ports
        ]
        self._resources = ExitStack()

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def client(self, index: int) -> Redis:
        """A client of one server, which follows no redirections."""
        return Redis(host="127.0.0.1", port=self.servers[index].port, protocol=2)

    def owner_of(self, key: str) -> int:
        """Which server has the key's slot."""
        with self.client(0) as client:
            slot = client.execute_command("CLUSTER", "KEYSLOT", key)
            owners = client.execute_command("CLUSTER", "SLOTS")
        port = next(node[1] for first, last, node, *_ in owners if first <= slot <= last)
        return [server.port for server in self.servers].index(port)

    def __enter__(self) -> Self:
        for server in self.servers:
            self._resources.enter_context(server)
        for index, server in enumerate(self.servers):
            first, last = SLOTS * index // SIZE, SLOTS * (index + 1) // SIZE - 1
            assert server.command("CLUSTER", "ADDSLOTSRANGE", str(first), str(last)).startswith(b"+OK")
            met, bus_port = self.servers[0], self._bus_ports[0]
            assert server.command("CLUSTER", "MEET", "127.0.0.1", str(met.port), str(bus_port)).startswith(b"+OK")
        give_up_at = time.monotonic() + START_TIMEOUT_SECONDS
        while not all(self._is_ready(server) for server in self.servers):
            assert time.monotonic() < give_up_at, "the servers did not become one cluster"
            time.sleep(POLL_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    @staticmethod
    def _is_ready(server: RedisServer) -> bool:
        info = server.command("CLUSTER", "INFO")
        return b"cluster_state:ok" in info and f"cluster_slots_ok:{SLOTS}".encode() in info
