"""A worker as a process of its own, so that tests can end it with SIGKILL: python -m … URL NAMESPACE NAME STEP_SECONDS.

Its fake engine sleeps between steps and signs its images with the worker's name.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from easel_contract.add_ons import AddOnConfig
from easel_server.engine.interface import Generation
from easel_server.generation.parameters import GenerationParameters
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.jobs.reaper import reap_forever
from easel_server.stores.opening import open_stores
from easel_server.telemetry.metrics import ServerMetrics
from easel_server.worker.worker import Worker, WorkerSettings

from tests.support.fake_engine import FakeEngine, FakeGeneration

LEASE_SECONDS = 1.0
MAX_ATTEMPTS = 10


class SigningGeneration(FakeGeneration):
    """Its images are the worker's name."""

    name = ""

    def encode_images(self) -> list[bytes]:
        return [f"{self.parameters.seed} by {self.name}".encode()]


class SigningEngine(FakeEngine):
    """Sleeps between steps."""

    def __init__(self, name: str, step_seconds: float) -> None:
        super().__init__()
        self._name = name
        self._step_seconds = step_seconds

    def begin(
        self,
        parameters: GenerationParameters,
        inputs: Mapping[str, bytes],
        *,
        checkpoint: bytes | None = None,
        add_ons: Sequence[AddOnConfig] = (),
    ) -> FakeGeneration:
        del inputs, checkpoint, add_ons
        generation = SigningGeneration(parameters, self)
        generation.name = self._name
        return generation

    def step(self, generations: Sequence[Generation]) -> None:
        time.sleep(self._step_seconds)
        super().step(generations)


async def work(url: str, namespace: str, name: str, step_seconds: float) -> None:
    stores = open_stores(url, namespace=namespace, service="sd", bounds=JobBounds(max_attempts=MAX_ATTEMPTS))
    worker = Worker(
        stores.jobs,
        stores.images,
        SigningEngine(name, step_seconds),
        WorkerSettings(name=name, lease_seconds=LEASE_SECONDS, drain_seconds=10.0),
        metrics=ServerMetrics(gateway=False, worker=True),
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.drain)
    reaping = asyncio.create_task(
        reap_forever(stores.jobs, stores.ping, list, grace_seconds=LEASE_SECONDS, period_seconds=0.1)
    )
    await worker.run()
    reaping.cancel()
    await asyncio.wait([reaping])
    await stores.close()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
