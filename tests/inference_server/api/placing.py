"""Orders placed without HTTP, on the in-memory broker with a clock that tests set."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

from easel_contract.server_config import GatewayConfig, ModelConfig
from easel_server.api.openai.fields import NAMES
from easel_server.gateway.admission import Wanted
from easel_server.gateway.api_keys import Customer
from easel_server.gateway.orders import Order, Placed
from easel_server.gateway.submit import Generation
from easel_server.generation.cost import CostModel
from easel_server.generation.models import GenerationDefaults, ModelFacts
from easel_server.stores.cache.interface import ResultCache
from easel_server.stores.jobs.interface import BrokerSettings, Succeeded
from easel_server.stores.memory import MemoryBroker

from tests.inference_server.api.serving import MODEL, CountingMetrics

ALICE = Customer("alice")
LOAD_SECONDS = 30.0


class Placing:
    """A gateway's middle. Each image takes ``gpu_seconds`` by prediction."""

    def __init__(
        self, config: GatewayConfig, *, gpu_seconds: float = 2.0, result_cache: ResultCache | None = None
    ) -> None:
        self.now = datetime.now(UTC)
        settings = BrokerSettings(max_queue_depth=config.limits.max_queue_depth)
        self.broker = MemoryBroker(settings, lambda: self.now)
        self.metrics = CountingMetrics()
        self._numbers = itertools.count()
        facts = ModelFacts(
            defaults=GenerationDefaults(width_pixels=64, height_pixels=64, steps=4),
            engine="fake",
            load_seconds=LOAD_SECONDS,
        )

        async def look() -> ModelFacts:
            return facts

        async def cost_model() -> CostModel:
            return CostModel(overhead_seconds=gpu_seconds, seconds_per_unit=0.0)

        model = ModelConfig(name=MODEL, source="/nowhere")
        self.generation = Generation(
            self.broker, model, config, look, self.metrics, cost_model=cost_model, result_cache=result_cache
        )

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    async def place(
        self, *, prompt: str = "a cat", seed: int | None = None, customer: Customer = ALICE, **changes: Any
    ) -> Placed:
        """Place an order, under a new id unless one is given."""
        order = {
            "customer": customer,
            "job_id": f"job-{next(self._numbers)}",
            "wanted": Wanted(prompt=prompt, seed=seed),
            "names": NAMES,
        }
        return await self.generation.place(Order(**{**order, **changes}))

    async def draw(self, *, count: int = 1, finish: bool = True) -> None:
        """Claim jobs as a worker, and finish them."""
        for _ in range(count):
            claims = await self.broker.claim("worker", lease_seconds=1e6, wait_seconds=0)
            for claim in claims if finish else ():
                await self.broker.finish(claim, Succeeded((b"image",)))
