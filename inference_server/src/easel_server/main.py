"""The inference server's process: puts the parts of a role together, starts them, and ends them in order.

role      serves                     runs                                 on SIGTERM
----      ------                     ----                                 ----------
gateway   the APIs and the probes    reaper, webhook deliverer            finishes open requests
worker    the probes                 reaper, the model, then the worker   finishes its job or releases it
all       the APIs and the probes    all of these                         the first, then the second

The role model-cache serves nothing: it fills the model's cache and ends.
"""

import asyncio
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from easel_contract import names
from easel_contract.metrics import LABEL_NAMESPACE, LABEL_SERVICE
from easel_contract.server_config import EngineKind
from fastapi import FastAPI
from opentelemetry.trace import Tracer

from easel_server.api.app import build_context, build_gateway_app, build_probe_app
from easel_server.api.links import Links
from easel_server.api.replicate.responses import build_prediction
from easel_server.config import Role, Settings, SettingsError
from easel_server.engine.interface import Engine, ModelLoadError
from easel_server.engine.loading import BATCH_CAPS, find_cache_directory, find_directory, load_engine, start_loading
from easel_server.gateway.api_keys import KeyRing
from easel_server.gateway.ending import Ending
from easel_server.gateway.link_signer import LinkSigner, read_link_keys
from easel_server.gateway.live_config import LiveConfig, read_queue_config
from easel_server.gateway.results import find_image_urls
from easel_server.generation.models import (
    EngineDescription,
    ModelFacts,
    describe_model,
    identify_model,
    read_defaults,
)
from easel_server.outbound.guarded_transport import GuardedTransport
from easel_server.start import ENDING_SIGNALS, EXIT_SETTINGS, report_end
from easel_server.stores.errors import StoreError, StoreUnavailableError
from easel_server.stores.facts.add_on_contents import AddOnContents
from easel_server.stores.facts.batch_profiles import share_profiles, take_profiles
from easel_server.stores.facts.load_failure import (
    HOLD_AGAIN_SECONDS,
    clear_load_failure,
    is_model_held,
    publish_hold,
    publish_load_failure,
)
from easel_server.stores.facts.model_facts import (
    PUBLISH_INTERVAL_SECONDS,
    SharedCostModel,
    SharedModelFacts,
    publish_defaults,
    publish_facts,
)
from easel_server.stores.images.interface import MAX_BUCKET_JOBS
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.jobs.reaper import purge_forever, reap_forever
from easel_server.stores.opening import Stores, open_stores
from easel_server.stores.outbox.interface import Delivery
from easel_server.telemetry.logs import configure_logging
from easel_server.telemetry.metrics import ServerMetrics
from easel_server.telemetry.supervision import keep_running
from easel_server.telemetry.tracing import NO_TRACER, TracingUnavailableError, open_tracer
from easel_server.telemetry.worker_start import WorkerStart
from easel_server.transport.probes import Readiness, ReadyReason, RenderMetrics, look_at_room
from easel_server.transport.server import EmbeddedServer
from easel_server.transport.usage import UsageReport
from easel_server.webhooks.deliverer import Deliverer, build_client
from easel_server.worker.engine_health import EngineFailedError
from easel_server.worker.gathering import watch_add_ons
from easel_server.worker.worker import Worker, WorkerSettings

PROBE_GRACE_SECONDS = 1
CANCEL_ATTEMPTS = 20
CANCEL_SECONDS = 0.25
# More than the requests hold that a busy gateway has open; CPython's own is 700. Young objects are looked through
# whenever their number has grown by that, and with open requests it goes up and down by more.
YOUNG_OBJECTS = 10_000

logger = logging.getLogger(__name__)


def serve(settings: Settings, start: WorkerStart) -> int:
    """Serve until a signal, or fill the model's cache; the exit code. ``start`` measures a worker's."""
    if settings.role is Role.MODEL_CACHE:
        return _fill(settings)
    try:
        with (
            open_tracer(settings.config, role=settings.role, instance=settings.pod_name) as tracer,
            asyncio.Runner(loop_factory=_find_loop_factory()) as runner,
        ):
            configure_logging(settings.log_level.upper(), is_traced=tracer is not NO_TRACER)
            runner.run(Process(settings, start, tracer).run())
    except (SettingsError, TracingUnavailableError) as error:
        sys.stderr.write(f"easel-server: {error}\n")
        return EXIT_SETTINGS
    except (ModelLoadError, EngineFailedError) as error:
        report_end(str(error), Path(names.TERMINATION_MESSAGE_PATH))
        has_loaded = isinstance(error, EngineFailedError)
        return names.EXIT_ENGINE_FAILED if has_loaded else names.EXIT_MODEL_LOAD_FAILED
    return 0


def _fill(settings: Settings) -> int:
    """Fill the model's cache; the exit code."""
    from easel_server.engine.model_cache.filling import fill_cache  # noqa: PLC0415  # a gateway needs no Hub's client
    from easel_server.engine.model_cache.progress import Progress, serve_progress  # noqa: PLC0415
    from easel_server.engine.model_files.selection import ModelFileError  # noqa: PLC0415

    for number in ENDING_SIGNALS:  # with 0 its Job would be taken for done, and without a handler process 1 stays
        signal.signal(number, lambda ending, _frame: os._exit(128 + ending))
    configure_logging(settings.log_level.upper())
    progress = Progress()
    try:
        if settings.metrics_port is not None:
            serve_progress(progress, host=settings.host, port=settings.metrics_port)
        fill_cache(settings.config.model, progress, hub_token=settings.hub_token)
    except ModelFileError as error:
        report_end(f"model {settings.config.model.name}: {error}", Path(names.TERMINATION_MESSAGE_PATH))
    except OSError as error:
        report_end(f"the model cache can't be filled: {error}", Path(names.TERMINATION_MESSAGE_PATH))
    else:
        return 0
    return names.EXIT_MODEL_LOAD_FAILED


def _find_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, which serves about twice as many requests as Python's own; None where there is no uvloop."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    return uvloop.new_event_loop


def open_shared_stores(settings: Settings) -> Stores:
    """The service's stores. Raises SettingsError for no Redis URL, or a missing Memcached client."""
    config = settings.config
    bounds = JobBounds(
        max_queue_depth=config.gateway.limits.max_queue_depth,
        result_ttl_seconds=config.gateway.results.ttl_seconds,
        max_attempts=config.worker.max_attempts,
        max_image_bytes=config.max_image_bytes,
        max_input_bytes=config.max_input_bytes,
        is_shared=config.gateway.api_keys_directory is not None,
        max_bucket_jobs=MAX_BUCKET_JOBS if config.bucket else None,
    )
    try:
        return open_stores(
            settings.redis_url,
            redis_url_file=settings.redis_url_file,
            namespace=config.namespace,
            service=config.service,
            uid=config.uid,
            bounds=bounds,
            max_cache_bytes=config.gateway.cache.max_bytes,
            memcached_address=config.gateway.cache.memcached_address,
            bucket=config.bucket,
        )
    except ValueError as error:
        raise SettingsError(f"{names.ENV_REDIS_URL} is no address of a Redis: {error}") from None
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"gateway.cache.memcachedAddress is set, and the Python package {error.name!r} is missing: "
            f"{names.install_hint('memcached')}, or leave that setting out"
        ) from None


class Process:
    """One process in its role, from start to end."""

    def __init__(self, settings: Settings, start: WorkerStart, tracer: Tracer = NO_TRACER) -> None:
        """``start`` measures a worker's, and is told when it is over."""
        self._settings = settings
        self._start = start
        self._tracer = tracer
        self._config = settings.config
        self._serves_apis = settings.role in {Role.GATEWAY, Role.ALL}
        self._runs_worker = settings.role in {Role.WORKER, Role.ALL}
        self._stores = open_shared_stores(settings)
        self._metrics = ServerMetrics(
            gateway=self._serves_apis,
            worker=self._runs_worker,
            dropped=self._stores.dropped,
            labels={LABEL_NAMESPACE: self._config.namespace, LABEL_SERVICE: self._config.service},
        )
        self._metrics.watch_memory(self._stores.is_out_of_memory)
        self._readiness = Readiness(
            self._stores.ping,
            partial(look_at_room, self._stores.images, self._stores.is_out_of_memory, takes_requests=self._serves_apis),
        )
        self._signer = self._build_signer()
        self._stopping = asyncio.Event()
        queue = read_queue_config(settings.config_file)
        self._live = LiveConfig(settings.config, partial(is_model_held, self._stores.facts), queue)
        self._ending = Ending(jobs_outlive=settings.redis_url is not None)
        self._worker: Worker | None = None

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises ModelLoadError, EngineFailedError, SettingsError, and what parts do."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        if self._runs_worker:
            self._readiness.hold(ReadyReason.LOADING, f"loading model {self._config.model.name}")
        server, probes = self._build_servers()
        ports = {each: await _start(each) for each in dict.fromkeys((probes, server))}
        if not self._runs_worker:  # a worker freezes more, once its model is loaded
            raise_gc_threshold()
            freeze_startup_objects()
        extra = {"role": self._settings.role, "host": self._settings.host}
        logger.info("listening", extra={**extra, "port": ports[server], "metrics_port": ports[probes]})
        try:
            await self._run_parts(server, probes)
        finally:
            await server.stop()
            await probes.stop()  # the last: who asks is told to the end that this process is ending
            await self._stores.close()

    def _build_servers(self) -> tuple[EmbeddedServer, EmbeddedServer]:
        """Of the role's work and of the probes: one and the same where there is one port, or no work but probes."""

        async def render_metrics(is_labelled: bool) -> bytes:  # noqa: FBT001
            stores = self._stores
            shared = (stores.images, stores.usage) if self._serves_apis else (None, None)
            return await self._metrics.render(stores.jobs, *shared, is_labelled=is_labelled)

        usage = self._build_usage_report() if self._serves_apis else None
        host, port, metrics_port = self._settings.host, self._settings.port, self._settings.metrics_port
        probe_app = build_probe_app(self._readiness, render_metrics, usage)
        probe_port = port if metrics_port is None else metrics_port
        probes = EmbeddedServer(probe_app, host=host, port=probe_port, grace_seconds=PROBE_GRACE_SECONDS)
        if not self._serves_apis:
            return probes, probes
        server = EmbeddedServer(
            self._build_app(render_metrics, usage),
            host=host,
            port=port,
            grace_seconds=self._config.gateway.drain_seconds,
            on_grace_over=self._ending.begin,
        )
        return server, server if metrics_port is None else probes

    def _build_usage_report(self) -> UsageReport:
        config, live = self._config, self._live
        return UsageReport(self._stores.usage, config.namespace, config.service, lambda: live.queue)

    def _build_app(self, render_metrics: RenderMetrics, usage: UsageReport | None) -> FastAPI:
        config = self._config
        facts = SharedModelFacts(self._stores.facts, lambda: self._live.model, config.gateway.defaults)
        keys = config.gateway.api_keys_directory
        context = build_context(
            config,
            self._stores,
            model_facts=facts.look,
            cost_model=SharedCostModel(self._stores.jobs).look,
            keys=KeyRing(Path(keys) if keys else None, asks_for_keys=lambda: self._live.asks_for_keys),
            signer=self._signer,
            metrics=self._metrics,
            live=self._live,
            ending=self._ending,
            tracer=self._tracer,
            webhook_secrets=self._settings.webhook_secrets,
        )
        return build_gateway_app(
            context,
            self._readiness,
            self._metrics,
            render_metrics,
            tracer=self._tracer,
            usage=usage,
            has_metrics_port=self._settings.metrics_port is not None,
        )

    def _build_signer(self) -> LinkSigner | None:
        """What signs links, where keys are asked for: without them nothing needs a right of its own."""
        gateway = self._config.gateway
        if gateway.api_keys_directory is None:
            return None
        if self._settings.role is Role.GATEWAY and not (gateway.link_keys_directory or self._settings.link_keys):
            logger.warning(
                "links are signed with a key of this process alone: set %s, the same for all gateways",
                names.ENV_LINK_KEYS,
            )
        keys = read_link_keys(gateway.link_keys_directory, self._settings.link_keys)
        return LinkSigner(keys, ttl_seconds=gateway.results.ttl_seconds)

    async def _run_parts(self, server: EmbeddedServer, probes: EmbeddedServer) -> None:
        """Run all parts until they are to stop, then stop them in the order that loses no request."""
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        parts = [
            self._keep_running("reaper", self._reap),
            self._keep_running("purge", lambda: purge_forever(self._stores.images)),
            *(asyncio.create_task(each.wait_until_ended(), name="server") for each in {server, probes}),
        ]
        if not self._runs_worker:  # whose model is loaded once
            parts.append(self._keep_running("live config", lambda: self._live.follow(self._settings.config_file)))
        if self._serves_apis and bool(self._settings.webhook_secrets):
            parts.append(self._keep_running("webhooks", self._deliver_webhooks))
        if self._runs_worker and self._config.engine.kind is EngineKind.DIFFUSERS:  # the synthetic one reads no files
            parts.append(self._keep_running("add-ons", self._watch_add_ons))  # has looked once the model is loaded
        working = asyncio.create_task(self._work(), name="worker") if self._runs_worker else None
        if working is not None:
            parts.append(working)
        try:
            await asyncio.wait({stopping, *parts}, return_when=asyncio.FIRST_COMPLETED)
            _raise_if_ended(parts)
            logger.info("stopping")
            self._readiness.hold(ReadyReason.DRAINING, "the process is ending")
            if self._serves_apis:
                await server.stop()  # open requests still have the worker
            if working is not None:
                await self._stop_working(working)
        finally:
            await _cancel([stopping, *parts])

    def _keep_running(self, name: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        return asyncio.create_task(keep_running(name, run, self._metrics), name=name)

    async def _reap(self) -> None:
        await reap_forever(
            self._stores.jobs,
            self._stores.ping,
            lambda: [self._live.requested.key],
            grace_seconds=self._config.worker.lease_seconds,
        )

    async def _deliver_webhooks(self) -> None:
        config = self._config
        async with build_client(GuardedTransport(config.gateway.webhook.allowed_networks)) as client:
            deliverer = Deliverer(
                self._stores.outbox,
                client,
                signing_secrets=self._settings.webhook_secrets,
                build_body=self._build_webhook_body,
                metrics=self._metrics,
                tracer=self._tracer,
            )
            await deliverer.run_forever()

    async def _build_webhook_body(self, delivery: Delivery) -> bytes:
        links = Links(self._config.gateway.public_url or delivery.job.base_url or "", self._signer)
        prediction = build_prediction(
            delivery.job,
            model=self._live.name,
            links=links,
            image_urls=await find_image_urls(self._stores.images, delivery.job),
        )
        return json.dumps(prediction, ensure_ascii=False).encode()

    async def _work(self) -> None:
        """Load the model, then run the worker until it is drained."""
        config = self._config
        try:
            engine = await self._load()
        except Exception as error:
            message = str(error) if isinstance(error, ModelLoadError) else f"loading failed with {type(error).__name__}"
            await self._try_to_publish(publish_load_failure(self._stores.facts, self._live.requested.key, message))
            raise
        description = engine.description
        logger.info("model loaded", extra=_build_log_extra(description))
        self._metrics.describe_engine(description)
        settings = WorkerSettings(
            name=self._settings.pod_name,
            lease_seconds=config.worker.lease_seconds,
            drain_seconds=config.worker.drain_seconds,
            max_batch_images=config.worker.max_batch_images,
            step_timeout_seconds=config.worker.step_timeout_seconds,
        )
        identity = identify_model(description, config.model, config.engine.kind)
        self._worker = Worker(
            self._stores.jobs,
            self._stores.images,
            engine,
            settings,
            identity=identity,
            contents=AddOnContents(self._stores.facts),
            metrics=self._metrics,
            tracer=self._tracer,
        )
        self._readiness.watch_life(self._worker.find_stall)
        freeze_startup_objects()
        self._start.finish()
        self._metrics.describe_start(self._start)
        phases = {phase: round(seconds, 2) for phase, seconds in self._start.phase_seconds.items()}
        logger.info("ready", extra={"phase_seconds": phases})
        self._readiness.lift(ReadyReason.LOADING)
        facts = describe_model(description, identity)
        publishing = [
            self._keep_running("facts", lambda: self._publish_facts(facts)),
            self._keep_running("hold", self._publish_hold),
        ]
        try:
            await self._worker.run()
        finally:
            for each in publishing:
                each.cancel()

    async def _load(self) -> Engine:
        config = self._config
        is_real = config.engine.kind is EngineKind.DIFFUSERS
        if is_real and (directory := find_directory(config.model)) is not None:
            # Ahead of the model, which takes much longer: requests that are queued meanwhile get its size.
            await self._try_to_publish(publish_defaults(self._stores.facts, config.model, read_defaults(directory)))
        loading = start_loading(
            lambda: load_engine(
                config.model,
                hub_token=self._settings.hub_token,
                engine=config.engine,
                max_batch_images=config.worker.max_batch_images,
                max_add_on_file_bytes=config.worker.max_add_on_file_bytes,
                on_phase=self._start.mark,
            )
        )
        profiles = find_cache_directory(BATCH_CAPS) if is_real else None
        if profiles is None:
            return await loading
        # While the model loads, at the end of which they are read.
        await self._exchange(take_profiles(self._stores.facts, self._live.requested.key, profiles))
        engine = await loading
        await self._exchange(share_profiles(self._stores.facts, self._live.requested.key, profiles))
        return engine

    async def _exchange(self, exchanging: Awaitable[None]) -> None:
        """Without the others' measurements this worker makes its own: nothing of it may keep it from its work."""
        try:
            await exchanging
        except (StoreError, OSError) as error:
            logger.warning("measurements of batches aren't shared with other workers: %s", error)

    async def _publish_hold(self) -> None:
        key = self._live.requested.key
        await self._try_to_publish(clear_load_failure(self._stores.facts, key))
        while True:
            await self._try_to_publish(publish_hold(self._stores.facts, key))
            await asyncio.sleep(HOLD_AGAIN_SECONDS)

    async def _watch_add_ons(self) -> None:
        # A lone process may have others by its command line, and its list never changes.
        file = None if self._serves_apis else self._settings.config_file
        await watch_add_ons(self._config.add_ons, file, self._metrics.add_on_problems)

    async def _publish_facts(self, facts: ModelFacts) -> None:
        while True:
            await self._try_to_publish(publish_facts(self._stores.facts, self._config.model, facts))
            await asyncio.sleep(PUBLISH_INTERVAL_SECONDS)

    async def _try_to_publish(self, publishing: Awaitable[None]) -> None:
        try:
            await publishing
        except StoreUnavailableError as error:
            logger.debug("the model's facts are not published for now: %s", error)

    async def _stop_working(self, working: asyncio.Task[None]) -> None:
        if self._worker is None:
            await _cancel([working])  # still loading: nothing is lost
            return
        self._worker.drain()
        await working


async def _start(server: EmbeddedServer) -> int:
    """The port on which it listens. Raises SettingsError."""
    try:
        return await server.start()
    except OSError as error:
        advice = "choose another by --port or --metrics-port"
        raise SettingsError(f"{error}; is another process using it? {advice}") from None


def _build_log_extra(description: EngineDescription) -> dict[str, Any]:
    """What a reader of the log wants to know of an engine; the rest is for gateways."""
    return {name: value for name, value in asdict(description).items() if isinstance(value, str | float)}


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel, again where need be: until Python 3.12, wait_for loses a cancellation that arrives with its result."""
    for _ in range(CANCEL_ATTEMPTS):
        for task in tasks:
            task.cancel()
        _, pending = await asyncio.wait(tasks, timeout=CANCEL_SECONDS)
        if not pending:
            return
    logger.warning("parts that did not end are left behind", extra={"parts": [task.get_name() for task in pending]})


def _raise_if_ended(parts: Sequence[asyncio.Task[None]]) -> None:
    """A part that ends by itself ends the process: half a server is worse than a restart."""
    for part in parts:
        if part.done():
            part.result()
            raise RuntimeError(f"{part.get_name()} ended by itself")


def freeze_startup_objects() -> None:
    """Never look for garbage again among what there is now. Call it once the process is ready.

    It holds some 100,000 objects of its libraries; a full collection looks through all of them, 50 ms or more in which
    nobody is answered.
    """
    gc.collect()
    gc.freeze()


def raise_gc_threshold() -> None:
    """Look for garbage after YOUNG_OBJECTS new objects. Not for processes whose garbage may hold a GPU's memory."""
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
