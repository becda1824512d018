"""Easel as it is deployed: a Redis with an append-only file, gateways and workers, each a process of its own."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx2
from easel_contract import names
from easel_contract.gateway_config import GatewayConfig, LimitsConfig, ResultsConfig
from easel_contract.server_config import (
    EngineConfig,
    EngineKind,
    ModelConfig,
    ServerConfig,
    SyntheticConfig,
    WorkerConfig,
)

from benchmarks.server.processes import HOST, cpu_seconds
from tests.support.redis_server import RedisServer, find_free_port
from tests.support.server_process import ServerProcess

MODEL = ModelConfig(name="bench", source="bench/bench")
REQUEST_TIMEOUT_SECONDS = 60.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Deployment:
    """What runs."""

    redis: RedisServer
    gateway: ServerProcess
    workers: tuple[ServerProcess, ...]

    @property
    def port(self) -> int:
        """The gateway's."""
        return int(self.gateway.url.rpartition(":")[2])

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time that each kind of process has used."""
        pids = {
            "gateway": [self.gateway.process.pid],
            "workers": [worker.process.pid for worker in self.workers],
            "redis": [self.redis.pid],
        }
        return {kind: sum(map(cpu_seconds, processes)) for kind, processes in pids.items()}

    def fetch(self, path: str) -> bytes:
        """The bytes of an answer."""
        answer = httpx2.get(f"{self.gateway.url}{path}", timeout=REQUEST_TIMEOUT_SECONDS)
        answer.raise_for_status()
        return answer.content

    def last_completion(self, ids: Sequence[str]) -> float:
        """When the last of these predictions was completed, in Redis' seconds since 1970; all must have succeeded."""
        with httpx2.Client(base_url=self.gateway.url, timeout=REQUEST_TIMEOUT_SECONDS) as client:
            found = [client.get(f"/v1/predictions/{one}").json() for one in ids]
        assert all(one["status"] == "succeeded" for one in found), "not every job succeeded"
        return max(datetime.fromisoformat(one["completed_at"]).timestamp() for one in found)

    def post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        """An answer of the gateway."""
        answer = httpx2.post(f"{self.gateway.url}{path}", json=body, timeout=REQUEST_TIMEOUT_SECONDS)
        answer.raise_for_status()
        return answer

    def count_unfinished(self) -> int:
        """Jobs that wait or run, as the gateway's metrics say."""
        url = f"{self.gateway.url}{names.PATH_METRICS}"
        text = httpx2.get(url, params=names.METRICS_QUERY_BARE, timeout=REQUEST_TIMEOUT_SECONDS).text
        lines = [line for line in text.splitlines() if line.startswith("easel_queue_depth{")]
        assert lines, "the gateway shows no queue depth"
        return sum(int(float(line.rpartition(" ")[2])) for line in lines)

    def wait_until_idle(self, timeout_seconds: float) -> None:
        """Return once nothing waits or runs. Raises TimeoutError."""
        give_up_at = time.monotonic() + timeout_seconds
        while left := self.count_unfinished():
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{left} jobs are unfinished after {timeout_seconds:g} s")
            time.sleep(POLL_SECONDS)


def build_config(
    *, milliseconds_per_image: int = 0, result_ttl_seconds: int = 3600, max_batch_images: int = 1
) -> ServerConfig:
    """One service with the synthetic engine."""
    return ServerConfig(
        service="bench",
        model=MODEL,
        engine=EngineConfig(
            kind=EngineKind.SYNTHETIC,
            synthetic=SyntheticConfig(milliseconds_per_step=0, milliseconds_per_image=milliseconds_per_image),
        ),
        gateway=GatewayConfig(
            limits=LimitsConfig(max_queue_depth=1_000_000),
            # What waits is counted as if its images were noise: without a budget that large, long queues are refused.
            results=ResultsConfig(ttl_seconds=result_ttl_seconds, max_bytes=1 << 40),
        ),
        worker=WorkerConfig(max_batch_images=max_batch_images),
    )


@contextmanager
def deployed(config: ServerConfig, redis: RedisServer, workers: int) -> Iterator[Deployment]:
    """A gateway and workers that are ready. Information is not logged, as it isn't by what they are compared with."""
    redis.command("FLUSHALL")
    environment = {names.ENV_REDIS_URL: redis.url, "EASEL_LOG_LEVEL": "warning"}

    def start(role: str, name: str) -> ServerProcess:
        port = find_free_port()
        process = ServerProcess("--role", role, config=config, port=port, **environment, **{names.ENV_POD_NAME: name})
        process.url = f"http://{HOST}:{port}"
        return stack.enter_context(process)

    with ExitStack() as stack:
        gateway = start("gateway", "gateway")
        started = tuple(start("worker", f"worker-{number}") for number in range(workers))
        for process in (gateway, *started):
            process.wait_for(lambda process=process: is_ready(process), "readiness")
        yield Deployment(redis, gateway, started)


def is_ready(process: ServerProcess) -> bool:
    """Whether /readyz says so; False too while nobody listens."""
    try:
        return process.ready()[0] == 200
    except httpx2.TransportError:
        return False
