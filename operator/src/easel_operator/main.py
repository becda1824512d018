"""``easel-operator``: reads the configuration, builds every part, and ties them together. All wiring is here."""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from typing import Any, Final

from easel_contract import names
from prometheus_client import REGISTRY

from easel_operator import farewell_command
from easel_operator.cluster.capabilities import Installation, probe_capabilities
from easel_operator.cluster.client import KubernetesClient, KubernetesError
from easel_operator.cluster.external_metrics import ExternalMetricsServer
from easel_operator.cluster.health_server import HealthServer
from easel_operator.cluster.informer import Informer
from easel_operator.cluster.leadership import Leadership
from easel_operator.cluster.metrics_endpoint import MetricsEndpoint
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.cluster.prometheus import Prometheus
from easel_operator.cluster.redis.password_keeper import RedisSource
from easel_operator.cluster.redis.service_keys import ServiceKeys
from easel_operator.cluster.scraper import Scraper
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.config import ENVIRONMENT_PREFIX, ConfigurationError, OperatorConfig
from easel_operator.decide.snapshot import Capabilities
from easel_operator.handlers.cleanup import Cleanup
from easel_operator.handlers.ending.farewell import Farewell
from easel_operator.handlers.ending.last_words import LastWords
from easel_operator.handlers.loop_guard import LoopGuard
from easel_operator.handlers.metrics_api_upkeep import MetricsApiUpkeep
from easel_operator.handlers.past_reader import MAX_ANSWER_BYTES, PastReader
from easel_operator.handlers.reconciler import Reconciler
from easel_operator.handlers.redis_upkeep import RedisUpkeep
from easel_operator.handlers.references import ReferenceLookups
from easel_operator.handlers.scaling_loop import ScalingLoop
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.handlers.shared_state import RolloutTurns, SharedState
from easel_operator.handlers.tenancy.outside_services import OutsideServices
from easel_operator.handlers.tenancy.secrets_access import SecretsAccess
from easel_operator.handlers.tenancy.service_watch import ServiceWatch
from easel_operator.handlers.tenancy.watched_namespaces import WatchedNamespaces
from easel_operator.handlers.work_queue import WorkQueue
from easel_operator.logs import configure_logging
from easel_operator.manifests.metadata import Release
from easel_operator.objects import CHILD_RESOURCES, PODS, SECRETS
from easel_operator.operator_metrics import IS_LEADER, QUEUE_LENGTH, SERVICES, WRITES, show_build
from easel_operator.telemetry.service_figures import ServiceFigures

logger = logging.getLogger("easel_operator")

SCRAPE_TIMEOUT_SECONDS: Final = 1.5
METRICS_STALE_AFTER: Final = timedelta(seconds=30)
MAX_SILENCE_SECONDS: Final = 300.0  # of a watch; longer than one that is ended and begun anew on schedule
MAX_TICK: Final = timedelta(seconds=60)
SHUTDOWN_SECONDS: Final = 10.0
START_ATTEMPTS: Final = 20
START_PAUSE_SECONDS: Final = 2.0
# A tick makes many objects that live for a minute and no cycles. With Python's defaults (700, 10, 10) the collector
# looks for cycles among all that the operator knows, again and again: 43 % of its processor time with 1,000 services.
GARBAGE_COLLECTION_THRESHOLDS: Final = (20_000, 20, 10)


def main() -> None:
    """Run until SIGTERM; exit status 1 after a bug or a lost leadership, so that Kubernetes starts a new one.

    ``easel-operator farewell`` is another program, which runs to its end.
    """
    if read_arguments(sys.argv[1:]).command == "farewell":
        farewell_command.main()
        return
    try:
        config = OperatorConfig.from_environment(os.environ)
    except ConfigurationError as error:
        sys.exit(str(error))
    configure_logging(config.log_level)
    collect_garbage_seldom()
    sys.exit(asyncio.run(run_operator(config)))


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line; ends the process where it asks for help, or can't be read."""
    parser = argparse.ArgumentParser(
        prog="easel-operator",
        description="Easel's operator. Its environment, which the chart writes, says what it is to do.",
    )
    parser.add_argument(
        "command", nargs="?", choices=["farewell"], help="what a Job runs before an installation is deleted"
    )
    parser.add_argument("--version", action="version", version=f"easel-operator {version(names.DISTRIBUTION)}")
    return parser.parse_args(words)


def collect_garbage_seldom() -> None:
    """Set the process's garbage collector to GARBAGE_COLLECTION_THRESHOLDS."""
    gc.set_threshold(*GARBAGE_COLLECTION_THRESHOLDS)


def now() -> datetime:
    """The clock of everything that asks for one."""
    return datetime.now(UTC)


async def run_operator(config: OperatorConfig) -> int:
    """Run until a signal (returns 0), or until a part fails (returns 1)."""
    client = await KubernetesClient.connect()
    try:
        capabilities = await _probe_patiently(client, config)
        logger.info("This cluster: %s", capabilities)
        return await Operator(config, client, SharedState(capabilities)).run()
    finally:
        await client.close()


async def _probe(client: KubernetesClient, config: OperatorConfig) -> Capabilities:
    return await probe_capabilities(client, _describe_installation(config))


def _describe_installation(config: OperatorConfig) -> Installation:
    return Installation(
        namespace=config.operator_namespace,
        service=config.metrics_service,
        is_api_wanted=config.external_metrics == "Auto",
        cluster_role=config.cluster_role,
        certificate_secret=config.metrics_certificate_secret,
        watched_namespace=next(iter(config.watch_namespaces), ""),
    )


async def _probe_patiently(client: KubernetesClient, config: OperatorConfig) -> Capabilities:
    """Wait for an API server that is away, rather than end at once: restarts would come at growing intervals."""
    for _ in range(START_ATTEMPTS - 1):
        try:
            return await _probe(client, config)
        except KubernetesError as error:
            logger.warning("The API server doesn't answer as it should, trying again: %s", error)
            await asyncio.sleep(START_PAUSE_SECONDS)
    return await _probe(client, config)


class Operator:
    """Every part, and the loops that drive them."""

    def __init__(self, config: OperatorConfig, client: KubernetesClient, shared: SharedState) -> None:
        self._config = config
        self._client = client
        self._shared = shared
        self._guard = LoopGuard(monotonic=time.monotonic)
        self._queue = WorkQueue()
        self._services = ServiceStore(on_change=self._queue.add, on_status=self._queue.add_soon)
        self._children = ObjectStore(on_change=self._queue.add_soon)
        self._references = ReferenceLookups(
            self._client,
            defaults=config.service_defaults,
            on_change=self._queue.add,
            monotonic=time.monotonic,
        )
        self._stop = asyncio.Event()
        self._informers = self._build_informers()
        self._namespaces = WatchedNamespaces(client, config.watch_namespaces, is_listed=self._is_listed)
        self._service_watch = ServiceWatch(
            client,
            self._services,
            self._namespaces,
            identity=config.pod_name,
            resync_seconds=config.resync_interval_seconds,
            on_start=self._listen_for_signals,
        )
        self._access = SecretsAccess(
            client,
            self._services,
            role=config.secrets_role,
            account=config.service_account,
            account_namespace=config.operator_namespace,
            monotonic=time.monotonic,
            resync_seconds=config.resync_interval_seconds,
        )
        self._writer = ClusterWriter(client, self._children, pod_name=config.pod_name, clock=now)
        self._leadership = Leadership(
            client,
            namespace=config.operator_namespace,
            identity=config.pod_name,
            duration_seconds=config.lease_duration_seconds,
            clock=now,
            monotonic=time.monotonic,
        )
        self._reconciler = self._build_reconciler()
        self._keys = ServiceKeys(config.redis_url or None)
        self._redis_upkeep = self._build_redis_upkeep()
        if config.redis_url:
            self._redis_upkeep.has_url.set()
        self._cleanup = Cleanup(
            client=client,
            writer=self._writer,
            services=self._services,
            children=self._children,
            keys=self._keys,
            watched_namespaces=config.watch_namespaces,
        )
        self._scraper = Scraper(timeout_seconds=SCRAPE_TIMEOUT_SECONDS, clock=now)
        self._metrics_server = ExternalMetricsServer(stale_after=METRICS_STALE_AFTER, clock=now)
        self._metrics_endpoint = MetricsEndpoint(
            client,
            self._metrics_server,
            installation=_describe_installation(config),
            port=config.metrics_port,
            clock=now,
        )
        self._metrics_api_upkeep = MetricsApiUpkeep(
            client=client,
            endpoint=self._metrics_endpoint,
            installation=_describe_installation(config),
            shared=shared,
            services=self._services,
            queue=self._queue,
            is_leader=self._leadership.is_leader,
        )
        self._farewell = Farewell(
            client=client,
            last_words=LastWords(self._writer, give_back=self._metrics_endpoint.give_back, clock=now),
            services=self._services,
            endpoint=self._metrics_endpoint,
            leadership=self._leadership,
            namespace=config.operator_namespace,
            deployment=config.deployment,
            pod_name=config.pod_name,
        )
        self._scaling_loop = self._build_scaling_loop()
        self._health_server = HealthServer(
            alive={
                "watches": self._check_watches,
                "scaling loop": self._check_ticks,
                "loops": self._guard.describe_faults,
            },
            ready={"caches": self._check_synced, "external metrics API": self._check_metrics_api},
        )

    def _build_informers(self) -> list[Informer]:
        return [
            Informer(self._client, resource, self._children, namespace=namespace, monotonic=time.monotonic)
            for resource in (*CHILD_RESOURCES, PODS)
            if resource is not SECRETS
            for namespace in self._config.watch_namespaces or (None,)
        ]

    def _build_reconciler(self) -> Reconciler:
        return Reconciler(
            client=self._client,
            writer=self._writer,
            services=self._services,
            references=self._references,
            access=self._access,
            children=self._children,
            shared=self._shared,
            queue=self._queue,
            turns=RolloutTurns(
                max_services=self._config.rollout_max_services_at_once,
                count_services=lambda: len(self._services),
                on_turn=self._queue.add,
            ),
            release=Release(
                worker_image=self._config.worker_image,
                gateway_image=self._config.gateway_image,
                redis_url=self._config.redis_url,
                operator_namespace=self._config.operator_namespace,
                worker_image_pull_policy=self._config.worker_image_pull_policy,
                gateway_image_pull_policy=self._config.gateway_image_pull_policy,
                defaults=self._config.service_defaults,
            ),
            clock=now,
        )

    def _build_redis_upkeep(self) -> RedisUpkeep:
        return RedisUpkeep(
            client=self._client,
            source=RedisSource(
                namespace=self._config.operator_namespace,
                secret=self._config.redis_secret,
                servers=self._config.redis_servers,
                sentinels=self._config.redis_sentinels,
                password_secret=self._config.redis_password_secret,
                password_key=self._config.redis_password_key,
                stateful_set=self._config.redis_stateful_set,
                ca_file=self._config.redis_ca_file,
                service=self._config.metrics_service,
            ),
            services=self._services,
            keys=self._keys,
            reconciler=self._reconciler,
            queue=self._queue,
            grant=self._access.grant,
            clock=now,
        )

    def _build_outside_services(self) -> OutsideServices:
        return OutsideServices(
            self._client,
            self._writer,
            wanted=self._config.watch_namespaces,
            namespace=self._config.operator_namespace,
            is_leader=self._leadership.is_leader,
            look_seconds=self._config.resync_interval_seconds,
        )

    def _build_scaling_loop(self) -> ScalingLoop:
        return ScalingLoop(
            scraper=self._scraper,
            metrics_server=self._metrics_server,
            writer=self._writer,
            services=self._services,
            children=self._children,
            shared=self._shared,
            on_news=self._queue.add,
            is_leader=self._leadership.is_leader,
            clock=now,
            defaults=self._config.service_defaults,
        )

    async def _read_pasts(self) -> None:
        url = f"{ENVIRONMENT_PREFIX}PROMETHEUS_URL"
        token = self._config.prometheus_token or None
        server = Prometheus(self._config.prometheus_url, token=token, named_by=url, max_answer_bytes=MAX_ANSWER_BYTES)
        await PastReader(server, self._scaling_loop, clock=now, monotonic=time.monotonic).run()

    async def run(self) -> int:
        """Run every loop. The first that ends, ends all: 0 after a signal, 1 after anything else.

        A loop that meets something unforeseen begins anew and doesn't end (LoopGuard), but for leadership: a replica
        that can't say whether it leads must not go on writing.
        """
        QUEUE_LENGTH.set_function(lambda: len(self._queue))
        SERVICES.set_function(lambda: len(self._services))
        WRITES.count = lambda: self._writer.writes
        IS_LEADER.set_function(self._leadership.is_leader)
        show_build()
        figures = ServiceFigures(self._services, self._children.of, self._config.service_defaults, now)
        REGISTRY.register(figures)
        await self._health_server.serve(self._config.health_port)
        stop, kopf_stop = self._stop, asyncio.Event()
        self._listen_for_signals()
        loops = [asyncio.create_task(loop, name=name) for name, loop in self._loops().items()]
        loops.append(asyncio.create_task(_wait_for(stop), name="signals"))
        watch = asyncio.create_task(self._service_watch.watch(kopf_stop), name="kopf")
        try:
            done, _ = await asyncio.wait([*loops, watch], return_when=asyncio.FIRST_COMPLETED)
        finally:
            REGISTRY.unregister(figures)
            await self._shut_down(loops, watch, kopf_stop, is_stopped=stop.is_set())
        return _judge(done, is_stopped=stop.is_set())

    def _loops(self) -> dict[str, Coroutine[Any, Any, None]]:
        guarded: dict[str, Callable[[], Awaitable[None]]] = {
            **{f"watch of {informer}": partial(self._inform, informer) for informer in self._informers},
            "list of services": self._service_watch.keep_listing,
            "external metrics API": self._metrics_api_upkeep.keep_served,
            "probe": self._metrics_api_upkeep.keep_probing,
            "registration": self._metrics_api_upkeep.keep_registered,
            **({} if self._config.redis_url else {"password of Redis": self._keep_redis}),
            "reconciler": self._reconcile,
            "references": self._references.run,
            "scaling loop": self._scale,
            "cleanup": self._clean_up,
            **({"rights to Secrets": self._keep_access} if self._config.secrets_role else {}),
            **(self._namespace_loops() if self._config.watch_namespaces else {}),
            **({"past of services": self._read_pasts} if self._config.prometheus_url else {}),
        }
        return {
            **{name: self._guard.keep_going(name, loop) for name, loop in guarded.items()},
            "leadership": self._leadership.run(),
        }

    def _namespace_loops(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {"namespaces": self._namespaces.run, "services outside": self._build_outside_services().run}

    def _is_listed(self, namespace: str) -> bool:
        return all(informer.is_synced.is_set() for informer in self._informers if informer.namespace == namespace)

    async def _inform(self, informer: Informer) -> None:
        await self._namespaces.wait_until_readable(informer.namespace)
        await informer.run()

    async def _keep_access(self) -> None:
        await self._service_watch.has_listed.wait()
        await self._leadership.wait_until_leader()
        await self._access.run()

    async def _keep_redis(self) -> None:
        await self._service_watch.has_listed.wait()
        await self._leadership.wait_until_leader()
        await self._redis_upkeep.run()

    async def _reconcile(self) -> None:
        await self._wait_for_caches()
        await self._leadership.wait_until_leader()
        await self._redis_upkeep.has_url.wait()
        await self._metrics_api_upkeep.wait_until_settled()
        await self._reconciler.run(self._config.reconcile_concurrency)

    async def _scale(self) -> None:
        await self._wait_for_caches()
        await self._scaling_loop.run(self._config.scrape_interval_seconds)

    async def _clean_up(self) -> None:
        await self._wait_for_caches()
        await self._leadership.wait_until_leader()
        await self._redis_upkeep.has_url.wait()
        await self._cleanup.run()

    async def _wait_for_caches(self) -> None:
        await self._service_watch.has_listed.wait()
        await self._namespaces.is_settled.wait()
        if self._namespaces.is_cluster_wide:  # else those that are there are listed by now
            for informer in self._informers:
                await informer.is_synced.wait()

    async def _shut_down(
        self,
        loops: list["asyncio.Task[None]"],
        watch: "asyncio.Task[None]",
        kopf_stop: asyncio.Event,
        *,
        is_stopped: bool,
    ) -> None:
        for loop in loops:
            loop.cancel()
        await asyncio.wait(loops, timeout=SHUTDOWN_SECONDS)
        if is_stopped:
            await self._farewell.say()
        else:
            await self._leadership.release()
        kopf_stop.set()
        await asyncio.wait([watch], timeout=SHUTDOWN_SECONDS)
        await self._metrics_server.close()
        await self._health_server.close()
        await self._scraper.close()
        await self._keys.close()

    def _listen_for_signals(self) -> None:
        """kopf sets handlers of its own when it begins; ours come after, so that our loops end before kopf does."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)

    def _check_watches(self) -> str | None:
        silent = [informer for informer in self._informers if informer.silent_seconds() > MAX_SILENCE_SECONDS]
        if silent:
            return f"no word from the API server for {MAX_SILENCE_SECONDS:.0f} s about {silent[0]}"
        return self._services.describe_silence()

    def _check_ticks(self) -> str | None:
        ticked_at = self._scaling_loop.ticked_at
        if ticked_at is None:
            return None  # a start that takes too long is for /readyz to report
        age = now() - ticked_at
        return f"the last tick was {age.total_seconds():.0f} s ago" if age > MAX_TICK else None

    def _check_synced(self) -> str | None:
        informers = self._informers if self._namespaces.is_cluster_wide else ()
        waiting = [str(informer) for informer in informers if not informer.is_synced.is_set()]
        if not self._namespaces.is_settled.is_set():
            waiting.append("namespaces")
        if not self._service_watch.has_listed.is_set():
            waiting.append("services")
        return f"not listed yet: {', '.join(waiting)}" if waiting else None

    def _check_metrics_api(self) -> str | None:
        if self._metrics_endpoint.is_serving or not self._shared.capabilities.is_metrics_api_ours:
            return None
        return "not serving yet"


async def _wait_for(event: asyncio.Event) -> None:
    await event.wait()


def _judge(done: set["asyncio.Task[None]"], *, is_stopped: bool) -> int:
    for task in done:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.critical("The operator ends because of %s", task.get_name(), exc_info=error)
            return 1
    if is_stopped:
        return 0
    logger.critical("The operator ends because %s ended", ", ".join(sorted(task.get_name() for task in done)))
    return 1
