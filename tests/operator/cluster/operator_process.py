"""An operator as a process of its own, started again when it ends, as a kubelet does."""

import asyncio
import os
import sys
from pathlib import Path

from tests.support.redis_server import find_free_port

LEASE_SECONDS = 4
RESYNC_SECONDS = 1
END_SECONDS = 30.0


class OperatorProcess:
    """One of several, known by the name of its pod."""

    def __init__(self, name: str, kubeconfig: Path, redis_url: str, log: Path) -> None:
        self._log = log
        self._environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "EASEL_GATEWAY_IMAGE": "registry.example/easel-gateway:0.1.0",
            "EASEL_WORKER_IMAGE": "registry.example/easel-worker:0.1.0",
            "EASEL_REDIS_URL": redis_url,
            "EASEL_OPERATOR_NAMESPACE": "easel",
            "EASEL_POD_NAME": name,
            "EASEL_EXTERNAL_METRICS": "Disabled",
            "EASEL_METRICS_PORT": str(find_free_port()),
            "EASEL_HEALTH_PORT": str(find_free_port()),
            "EASEL_RESYNC_INTERVAL_SECONDS": str(RESYNC_SECONDS),
            "EASEL_LEASE_DURATION_SECONDS": str(LEASE_SECONDS),
        }
        self._running: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self.exits: list[int] = []

    async def begin(self) -> None:
        """Run until ``end``, through as many processes as it takes."""
        self._running = asyncio.create_task(self._keep_running())

    async def _keep_running(self) -> None:
        with self._log.open("ab") as log:
            while True:
                command = (str(Path(sys.executable).with_name("easel-operator")),)
                self._process = await asyncio.create_subprocess_exec(
                    *command, env=self._environment, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
                )
                self.exits.append(await self._process.wait())

    async def end(self) -> None:
        """SIGTERM, and no new process."""
        assert self._running is not None, "not begun"
        self._running.cancel()
        await asyncio.wait([self._running])
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await asyncio.wait_for(self._process.wait(), END_SECONDS)

    def read_log(self) -> str:
        """What it said, with all of its processes."""
        return self._log.read_text(errors="replace")
