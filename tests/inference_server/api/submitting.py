"""Requests submitted without HTTP, in stores in memory with a clock that tests set."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from easel_contract.gateway_config import GatewayConfig, QueueConfig
from easel_contract.server_config import ModelConfig, ServerConfig
from easel_server.api.app import build_context
from easel_server.api.openai.fields import ImagesBody
from easel_server.gateway.api_keys import KeyRing
from easel_server.gateway.ending import Ending
from easel_server.gateway.submit import SubmitResult
from easel_server.generation.cost import CostModel
from easel_server.generation.models import GenerationDefaults, ModelFacts, ModelIdentity
from easel_server.generation.request import Customer, GenerationRequest
from easel_server.stores.cache.interface import ResultCache
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import Stores, open_memory_stores

from tests.inference_server.api.serving import IDENTITY, MODEL, CountingMetrics
from tests.support.live_configs import build_live_config
from tests.support.stored_images import succeed

ALICE = Customer("alice")
LOAD_SECONDS = 30.0


class Submitting:
    """A gateway's middle. Each job takes ``gpu_seconds`` by prediction, and ``seconds_per_unit`` of its work."""

    def __init__(
        self,
        config: GatewayConfig,
        *,
        gpu_seconds: float = 2.0,
        seconds_per_unit: float = 0.0,
        result_cache: ResultCache | None = None,
        is_shared: bool = False,
        queue: QueueConfig | None = None,
        stores: Stores | None = None,
    ) -> None:
        """``is_shared``: several customers share the bounds, as with API keys. ``stores`` in place of its own."""
        self.now = datetime.now(UTC)
        bounds = JobBounds(max_queue_depth=config.limits.max_queue_depth, is_shared=is_shared)
        self.stores = stores or open_memory_stores(bounds, clock=lambda: self.now)
        self.metrics = CountingMetrics()
        self._numbers = itertools.count()
        self.facts = ModelFacts(
            defaults=GenerationDefaults(width_pixels=64, height_pixels=64, steps=4),
            engine="fake",
            identity=IDENTITY,
            load_seconds=LOAD_SECONDS,
        )

        async def look() -> ModelFacts:
            return self.facts

        async def cost_model() -> CostModel:
            return CostModel(overhead_seconds=gpu_seconds, seconds_per_unit=seconds_per_unit)

        server_config = ServerConfig(model=ModelConfig(name=MODEL, source="/nowhere"), gateway=config)
        self.live = build_live_config(server_config, queue)
        self.context = build_context(
            server_config,
            replace(self.stores, cache=result_cache or self.stores.cache),
            model_facts=look,
            cost_model=cost_model,
            keys=KeyRing(None),
            metrics=self.metrics,
            live=self.live,
            ending=Ending(jobs_outlive=True),
        )

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    async def submit(
        self, *, prompt: str = "a cat", seed: int | None = None, customer: Customer = ALICE, **changes: Any
    ) -> SubmitResult:
        """Submit a request, under a new id unless one is given."""
        request = {
            "customer": customer,
            "job_id": f"job-{next(self._numbers)}",
            "given": {"prompt": prompt} | ({} if seed is None else {"seed": seed}),
            "field_names": ImagesBody.field_names(),
        }
        return await self.context.submitter.submit(GenerationRequest(**{**request, **changes}))

    async def work(self, *, count: int = 1, finish: bool = True, generated_by: ModelIdentity = IDENTITY) -> None:
        """Claim jobs as a worker, and finish them."""
        for _ in range(count):
            claims = await self.stores.jobs.claim("worker", [IDENTITY.key], lease_seconds=1e6, wait_seconds=0)
            for claim in claims if finish else ():
                await succeed(self.stores.jobs, claim, (b"image",), generated_by=generated_by)
