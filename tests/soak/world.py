"""The processes of a soak: a Redis that loses nothing it has acknowledged, gateways and workers, on fixed ports."""

import asyncio
import base64
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from easel_contract import names
from easel_contract.gateway_config import CacheConfig, GatewayConfig, WebhookConfig
from easel_contract.server_config import (
    EngineConfig,
    EngineKind,
    ModelConfig,
    ServerConfig,
    SyntheticConfig,
    WorkerConfig,
)

from chaos.requests import build_keys
from tests.soak.plan import Kill, Victim
from tests.support.redis_server import RedisServer, find_free_port
from tests.support.server_process import ServerProcess

GATEWAYS: Final = 2
WORKERS: Final = 2
WEBHOOK_SECRET: Final = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes....").decode()
LINK_KEY: Final = "a-key-of-links-that-all-gateways-share"
LEASE_SECONDS: Final = 2
MAX_ATTEMPTS: Final = 1000  # no job fails because its workers were killed


def build_config(keys: Path) -> ServerConfig:
    """Short jobs, small batches, webhooks to loopback."""
    return ServerConfig(
        namespace="soak",
        model=ModelConfig(name="synthetic", source="soak/synthetic"),
        engine=EngineConfig(
            kind=EngineKind.SYNTHETIC, synthetic=SyntheticConfig(milliseconds_per_step=1500, milliseconds_per_image=10)
        ),
        gateway=GatewayConfig(
            api_keys_directory=str(keys),
            cache=CacheConfig(ttl_seconds=60),
            webhook=WebhookConfig.model_validate({"allowed_networks": ["127.0.0.0/8"]}),
        ),
        worker=WorkerConfig(lease_seconds=LEASE_SECONDS, max_attempts=MAX_ATTEMPTS, max_batch_images=4),
    )


def write_keys(directory: Path) -> None:
    """The keys' Secret as a pod sees it."""
    for customer, entry in build_keys().items():
        (directory / customer).write_text(entry)


class World:
    """Start as a context manager."""

    def __init__(self, directory: Path) -> None:
        write_keys(directory)
        # Every write is on disk before it is acknowledged; with `everysec` a killed *machine* may lose the last second.
        self._redis = RedisServer("--appendfsync", "always")
        config = build_config(directory)
        self._gateways = [self._build("gateway", number, config) for number in range(GATEWAYS)]
        self._workers = [self._build("worker", number, config) for number in range(WORKERS)]
        self._stack = ExitStack()
        self.killed: list[str] = []
        self.exceptions: list[str] = []  # that processes have logged

    @property
    def urls(self) -> list[str]:
        """The gateways'."""
        return [gateway.url for gateway in self._gateways]

    @property
    def metrics_url(self) -> str:
        """Where the queue's figures are: gateways, which ask for keys, show none on the port of their APIs."""
        return self._workers[0].url

    def _build(self, role: str, number: int, config: ServerConfig) -> ServerProcess:
        port = find_free_port()
        environment = {
            names.ENV_REDIS_URL: self._redis.url,
            names.ENV_POD_NAME: f"{role}-{number}",
            names.ENV_WEBHOOK_SECRET: WEBHOOK_SECRET,
            names.ENV_LINK_KEYS: LINK_KEY,
        }
        process = ServerProcess("--role", role, config=config, port=port, **environment)
        process.url = f"http://127.0.0.1:{port}"
        return process

    async def kill(self, kill: Kill) -> None:
        """SIGKILL, and a new process in its place."""
        if kill.victim is Victim.REDIS:
            await asyncio.to_thread(self._redis.restart)
            self.killed.append("redis")
            return
        processes = self._gateways if kill.victim is Victim.GATEWAY else self._workers
        number = kill.number % len(processes)
        processes[number].close()
        self._note_exceptions(processes[number])  # its next log is in the place of this one
        processes[number].start()
        self.killed.append(f"{kill.victim}-{number}")

    def __enter__(self) -> Self:
        self._stack.enter_context(self._redis)
        processes = [*self._gateways, *self._workers]
        for process in processes:
            self._stack.enter_context(process)
        for process in processes:
            process.wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for process in (*self._gateways, *self._workers):
            self._note_exceptions(process)

    def _note_exceptions(self, process: ServerProcess) -> None:
        self.exceptions += [line["exception"] for line in process.log if "exception" in line]
