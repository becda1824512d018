"""The operator as a process of its own, by a kubeconfig, and what its own metrics say."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.control_plane.floor import GATEWAY_IMAGE, WORKER_IMAGE
from benchmarks.control_plane.plane import OPERATOR_NAMESPACE, Plane
from benchmarks.server.processes import HOST, cpu_seconds, resident_mib, running, wait_until
from tests.support.redis_server import find_free_port

POLL_SECONDS: Final = 0.05
START_SECONDS: Final = 60.0
SETTLED_SECONDS: Final = 600.0
QUIET_SECONDS: Final = 5.0  # without any reconciliation: what woke the operator has been worked off
METRICS_PORT: Final = 443  # where the API server looks for the Service of the external metrics API


@dataclass(frozen=True)
class OperatorProcess:
    """One that runs."""

    pid: int
    health_port: int

    def cpu_seconds(self) -> float:
        """Processor time so far."""
        return cpu_seconds(self.pid)

    def resident_mib(self) -> float:
        """Memory now."""
        return resident_mib(self.pid)

    def highest_resident_mib(self) -> float:
        """The most memory that it ever had."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) / 1024

    async def wait_until_ready(self) -> None:
        """Return once it has read what there is. Raises TimeoutError."""
        async with aiohttp.ClientSession() as session, asyncio.timeout(START_SECONDS):
            while True:
                self.check_alive()
                try:
                    async with session.get(f"http://{HOST}:{self.health_port}/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(POLL_SECONDS)

    def check_alive(self) -> None:
        """Raises RuntimeError once it has ended."""
        if not _is_python(self.pid):
            raise RuntimeError("the operator has ended; the end of its log is shown")

    async def watch_over(self) -> None:
        """Never returns; raises RuntimeError once it has ended."""
        while True:
            self.check_alive()
            await asyncio.sleep(1)

    async def read_figures(self) -> dict[str, float]:
        """The operator's own metrics: reconciliations, queue, leadership."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{HOST}:{self.health_port}/metrics") as answer,
        ):
            page = await answer.text()
        wanted = ("easel_operator_reconciles_total", "easel_operator_queue_length", "easel_operator_is_leader")
        figures = dict.fromkeys(wanted, 0.0)
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name in figures:
                    figures[sample.name] += sample.value
        return figures

    async def wait_for_reconciles(self, count: int) -> None:
        """Return once it leads and has looked at so many services, with none waiting. Raises TimeoutError."""
        async with asyncio.timeout(SETTLED_SECONDS):
            while True:
                figures = await self.read_figures()
                if figures["easel_operator_reconciles_total"] >= count and not figures["easel_operator_queue_length"]:
                    return
                await asyncio.sleep(POLL_SECONDS)

    async def wait_until_quiet(self) -> None:
        """Return once nothing has been reconciled for QUIET_SECONDS. Raises TimeoutError."""
        async with asyncio.timeout(SETTLED_SECONDS):
            before = -1.0
            while (now := (await self.read_figures())["easel_operator_reconciles_total"]) != before:
                before = now
                await asyncio.sleep(QUIET_SECONDS)


@contextmanager
def running_operator(plane: Plane, redis_url: str, log: Path, *wrapper: str) -> Iterator[OperatorProcess]:
    """The operator while the body runs. ``wrapper`` is a command before its own, such as a profiler's."""
    health_port = find_free_port()
    environment = {
        "KUBECONFIG": str(plane.kubeconfig),
        "LOG": str(log),
        "EASEL_GATEWAY_IMAGE": GATEWAY_IMAGE,
        "EASEL_WORKER_IMAGE": WORKER_IMAGE,
        "EASEL_REDIS_URL": redis_url,
        "EASEL_OPERATOR_NAMESPACE": OPERATOR_NAMESPACE,
        "EASEL_METRICS_PORT": str(METRICS_PORT),
        "EASEL_HEALTH_PORT": str(health_port),
    }
    command = [*wrapper, sys.executable, "-c", "from easel_operator.main import main; main()"]
    with running(["sh", "-c", 'exec "$@" >>"$LOG" 2>&1', "sh", *command], environment) as pid:
        wait_until(lambda: _is_python(pid), f"operator's process; see {log}", START_SECONDS)
        yield OperatorProcess(pid, health_port)


def _is_python(pid: int) -> bool:
    return os.path.realpath(f"/proc/{pid}/exe") == os.path.realpath(sys.executable)
