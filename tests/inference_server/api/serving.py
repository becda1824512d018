"""A gateway on a loopback port, with stores in memory and a stand-in for workers. No torch."""

import asyncio
import base64
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2
import uvicorn
from easel_contract.add_ons import AddOnsConfig
from easel_contract.gateway_config import GatewayConfig, QueueConfig
from easel_contract.server_config import ModelConfig, SafetyPolicy, ServerConfig
from easel_server.api.app import build_context, build_gateway_app
from easel_server.engine.interface import Engine
from easel_server.gateway.api_keys import KeyRing
from easel_server.gateway.ending import Ending
from easel_server.gateway.link_signer import LinkKeys, LinkSigner
from easel_server.generation.cost import CostModel
from easel_server.generation.messages import describe_flagged
from easel_server.generation.models import GenerationDefaults, ModelFacts, ModelIdentity, override_defaults
from easel_server.stores.facts.add_on_contents import AddOnContents
from easel_server.stores.jobs.interface import Canceled, Claim, Failed, HeartbeatReply, JobBounds, JobQueue
from easel_server.stores.opening import Stores, open_memory_stores
from easel_server.telemetry.gateway_metrics import CacheResult
from easel_server.telemetry.metrics import ServerMetrics
from easel_server.transport.probes import Readiness
from easel_server.transport.protocol import BoundedHttpProtocol
from easel_server.transport.usage import UsageReport
from easel_server.worker.worker import Worker, WorkerSettings
from fastapi import FastAPI

from tests.support.jobs import build_identity
from tests.support.live_configs import build_live_config
from tests.support.stored_images import succeed

T = TypeVar("T")

MODEL = "tiny/sd15"
SERVED = ModelConfig(name=MODEL, source="/nowhere")
IDENTITY = build_identity(SERVED)  # of what workers hold
WARNING = 'the prompt is "too long" for 夜明け'  # what the stand-in says of that prompt
START_TIMEOUT_SECONDS = 120.0
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"a signing secret of 32 bytes....").decode()


def wait_for(condition: Callable[[], T], timeout_seconds: float = 10.0) -> T:
    """The first truthy value of ``condition``."""
    give_up_at = time.monotonic() + timeout_seconds
    while not (value := condition()):
        assert time.monotonic() < give_up_at, f"still {value!r} after {timeout_seconds:g} s"
        time.sleep(0.005)
    return value


class CountingMetrics:
    """Counts in memory."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, ...]] = Counter()
        self.predicted_gpu_seconds = 0.0
        self.bounded_gpu_seconds = 0.0
        self.open_streams = 0

    def count_request(self, route: str, code: int, method: str, seconds: float) -> None:
        del method, seconds
        self.counts["request", route, str(code)] += 1

    def count_submitted(self) -> None:
        self.counts["submitted",] += 1

    def count_predicted(self, gpu_seconds: float, bounded_gpu_seconds: float) -> None:
        self.predicted_gpu_seconds += gpu_seconds
        self.bounded_gpu_seconds += bounded_gpu_seconds

    def count_streams(self, change: int) -> None:
        self.open_streams += change

    def count_cache(self, result: CacheResult) -> None:
        self.counts["cache", result] += 1

    def count_refusal(self, reason: str) -> None:
        self.counts["refusal", reason] += 1

    def count_input_fetch(self, result: str) -> None:
        self.counts["fetch", result] += 1


class StandInWorker:
    """Claims jobs and finishes them with bytes that name the parameters. Holds still while ``is_held``."""

    def __init__(self, jobs: JobQueue, identity: ModelIdentity) -> None:
        self._jobs = jobs
        self._identity = identity
        self._free = asyncio.Event()
        self._free.set()
        self._held = asyncio.Event()
        self.seen: list[str] = []
        self.claims: list[Claim] = []
        self.steps = asyncio.Semaphore(0)

    async def run(self) -> None:
        while True:
            if not self._free.is_set():
                self._held.set()
                await self._free.wait()
                self._held.clear()
            for claim in await self._jobs.claim("stand-in", [self._identity.key], lease_seconds=10, wait_seconds=0.05):
                self.seen.append(claim.job.id)
                self.claims.append(claim)
                await self._run(claim)

    async def _run(self, claim: Claim) -> None:
        parameters = claim.job.parameters
        if parameters.prompt == "fail":
            await self._jobs.finish(claim, Failed("the model refused the request: no"))
            return
        if parameters.prompt == "refused":
            await self._jobs.finish(claim, Failed(describe_flagged([0], parameters.images, SafetyPolicy.REFUSE)))
            return
        reply = await self._jobs.heartbeat(claim, 1)
        if parameters.prompt == "step by step":
            reply = await self._go_step_by_step(claim)
        while parameters.prompt == "slow" and reply is HeartbeatReply.CONTINUE:
            await asyncio.sleep(0.01)
            reply = await self._jobs.heartbeat(claim, 2)
        if reply is HeartbeatReply.CONTINUE:
            images = [f"{parameters.prompt} {parameters.seed + i}".encode() for i in range(parameters.images)]
            warnings = (WARNING,) if parameters.prompt == "too long" else ()
            if parameters.prompt == "flagged":
                warnings = (describe_flagged([parameters.images - 1], parameters.images, SafetyPolicy.BLUR),)
            await succeed(self._jobs, claim, tuple(images), generated_by=self._identity, warnings=warnings)
        else:
            await self._jobs.finish(claim, Canceled())

    async def _go_step_by_step(self, claim: Claim) -> HeartbeatReply:
        """Shows a preview after each step, and takes a step when a test lets it: ``steps.release``."""
        reply = HeartbeatReply.CONTINUE
        for step in range(2, claim.job.parameters.steps + 1):
            await self.steps.acquire()
            previews = [f"preview {step}".encode()] if step - 2 < claim.job.wanted_previews else []
            reply = await self._jobs.heartbeat(claim, step, previews=previews)
        await self.steps.acquire()
        return reply

    async def hold(self) -> None:
        """Claims nothing more, once this returns."""
        self._free.clear()
        await self._held.wait()

    def go_on(self) -> None:
        self._free.set()

    def reset(self) -> None:
        """As at first: claims, and takes no step of its own."""
        self.go_on()
        self.steps = asyncio.Semaphore(0)


class RunningGateway:
    """The gateway's app in a thread of its own. A context manager."""

    def __init__(
        self,
        config: GatewayConfig | None = None,
        *,
        keys: Path | None = None,
        link_keys: LinkKeys | None = None,
        is_signing_configured: bool = False,
        engine: Engine | None = None,
        add_ons: AddOnsConfig = AddOnsConfig(),  # noqa: B008  # frozen
        model: ModelConfig = SERVED,
        vae_digest: str = "",
        wrap: Callable[[Stores], Stores] = lambda stores: stores,
    ) -> None:
        gateway = config or GatewayConfig()
        if keys is not None:
            gateway = gateway.model_copy(update={"api_keys_directory": str(keys)})
        self._config = ServerConfig(model=model, gateway=gateway, add_ons=add_ons)
        self._identity = build_identity(model).model_copy(update={"vae": vae_digest})
        self._keys = keys
        self._link_keys = link_keys or LinkKeys()
        self._is_signing_configured = is_signing_configured
        self._engine = engine
        self._wrap = wrap
        self._started: Future[None] = Future()
        self._stop: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self.stores: Stores
        self.worker: StandInWorker
        self.app: FastAPI
        self.readiness: Readiness
        self.ending: Ending
        self.metrics = CountingMetrics()
        defaults = GenerationDefaults(width_pixels=64, height_pixels=64, steps=4)
        self.facts = ModelFacts(
            defaults=override_defaults(defaults, gateway.defaults, model.scheduler), identity=self._identity
        )
        self.cost_model = CostModel()
        self.url = ""

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run on the gateway's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=20)

    def do(self, function: Callable[[], None]) -> None:
        """Call on the gateway's loop."""

        async def on_loop() -> None:
            function()

        self.call(on_loop())

    def client(self, **headers: str) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers=headers, timeout=20)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        gateway = self._config.gateway
        bounds = JobBounds(
            max_queue_depth=gateway.limits.max_queue_depth,
            result_ttl_seconds=gateway.results.ttl_seconds,
            max_image_bytes=self._config.max_image_bytes,
            max_input_bytes=self._config.max_input_bytes,
            is_shared=self._keys is not None,
        )
        self.stores = self._wrap(open_memory_stores(bounds))
        self.worker = StandInWorker(self.stores.jobs, self._identity)
        self.readiness = Readiness(self.stores.ping)
        self.ending = Ending(jobs_outlive=True)

        async def facts() -> ModelFacts:
            return self.facts

        async def cost_model() -> CostModel:
            return self.cost_model

        context = build_context(
            self._config,
            self.stores,
            model_facts=facts,
            cost_model=cost_model,
            keys=KeyRing(self._keys),
            signer=None if self._keys is None else LinkSigner(self._link_keys, ttl_seconds=gateway.results.ttl_seconds),
            metrics=self.metrics,
            live=build_live_config(self._config),
            ending=self.ending,
            webhook_secrets=(WEBHOOK_SECRET,) if self._is_signing_configured else (),
        )

        async def render_metrics(is_labelled: bool) -> bytes:
            return b"# labelled\n" if is_labelled else b"# bare\n"

        usage = UsageReport(
            self.stores.usage, "studio", "painter", lambda: QueueConfig(price_per_gpu_hour=2.5, currency="EUR")
        )
        app = self.app = build_gateway_app(context, self.readiness, self.metrics, render_metrics, usage=usage)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                port=0,
                http=BoundedHttpProtocol,
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=1,
            )
        )
        serving = asyncio.create_task(server.serve())
        working = asyncio.create_task(self._build_worker().run())
        while not server.started and not serving.done():  # noqa: ASYNC110  # uvicorn has a flag, no event
            await asyncio.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._started.set_result(None)
        await self._stop.wait()
        server.should_exit = True
        await serving
        working.cancel()

    def _build_worker(self) -> StandInWorker | Worker:
        if self._engine is None:
            return self.worker
        settings = WorkerSettings("worker", lease_seconds=10, drain_seconds=1)
        return Worker(
            self.stores.jobs,
            self.stores.images,
            self._engine,
            settings,
            identity=self._identity,
            metrics=ServerMetrics(gateway=False, worker=True),
            contents=AddOnContents(self.stores.facts),
        )

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._started.result(timeout=START_TIMEOUT_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=START_TIMEOUT_SECONDS)
        assert not self._thread.is_alive()
