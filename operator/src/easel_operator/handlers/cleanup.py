"""Ends deleted services: their waiters are answered, and then their keys in Redis deleted.

Services are registered in Redis while they live, and nothing keeps the resource: what was seen or registered and lives
no more is ended, whether it went while an operator ran or not. What Redis didn't allow at that time is done by a sweep.
Runs on the leading replica. What to do is decided in ``decide/deletion.py``.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from easel_operator.cluster.client import KubernetesClient, KubernetesError
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.cluster.redis.service_keys import RedisUnreachableError, ServiceKeys, fetch_cluster_uid
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.decide.deletion import (
    REASON,
    Ending,
    EndingStep,
    WorkLeft,
    build_ended_event,
    build_left_event,
    decide_ending,
    find_orphans,
    find_prefix,
    recall_service,
)
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.manifests.metadata import read_owner
from easel_operator.objects import SERVICES_OF_EASEL, Json, ServiceKey, is_living, to_service_key
from easel_operator.operator_metrics import FAULTS, SWEPT_KEYS

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
SWEEP_SECONDS: Final = 300.0
RETRY_SECONDS: Final = 10.0  # of what isn't registered or swept since Redis is away
DELETE_SECONDS: Final = 60.0  # for the keys of one service; more are left to the next sweep
MAX_DELETIONS: Final = 8  # services whose keys are deleted at the same time


class Cleanup:
    """The ends of services, and the sweep."""

    def __init__(
        self,
        *,
        client: KubernetesClient,
        writer: ClusterWriter,
        services: ServiceStore,
        children: ObjectStore,
        keys: ServiceKeys,
        watched_namespaces: tuple[str, ...] = (),
        monotonic: Callable[[], float] = time.monotonic,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._client = client
        self._writer = writer
        self._services = services
        self._children = children
        self._keys = keys
        self._watched_namespaces = watched_namespaces
        self._monotonic = monotonic
        self._look_seconds = look_seconds
        self._deletions = asyncio.Semaphore(MAX_DELETIONS)
        self._seen: dict[str, Json] = {}  # services by prefix that lived at the last look, or wait for their end
        self._endings: dict[str, asyncio.Task[None]] = {}  # by prefix
        self._ended: set[str] = set()  # prefixes that are still registered, for their last pods may write for a while
        self._registered: set[str] = set()  # prefixes
        self._swept_at: float | None = None

    async def run(self) -> None:
        """Look after deleted services and the registry for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._end_services())
            tasks.create_task(self._keep_registry())

    async def _end_services(self) -> None:
        while True:
            self._endings = {prefix: task for prefix, task in self._endings.items() if not task.done()}
            living = {find_prefix(service): service for _, service in self._services if is_living(service)}
            for prefix, service in self._seen.items():
                if prefix not in living and prefix not in self._endings:
                    ending = self._end_safely(prefix, service)
                    self._endings[prefix] = asyncio.create_task(ending, name=f"end of {prefix}")
            self._seen.update(living)
            await asyncio.sleep(self._look_seconds)

    async def _end_safely(self, prefix: str, service: Json) -> None:
        """One service's end; what goes wrong with it is its own affair, and it is begun again at the next look."""
        try:
            if not await self._is_living(prefix, to_service_key(service)):
                await self.end(service)
                self._seen.pop(prefix, None)
        except KubernetesError as error:
            logger.warning("The end of %s failed, trying again: %s", to_service_key(service), error)
        except Exception:
            FAULTS.labels("cleanup").inc()
            logger.exception("A fault in the end of %s, trying again", to_service_key(service))

    async def _is_living(self, prefix: str, key: ServiceKey) -> bool:
        """Whether the service is there, by the API server's own word: the watch may be behind."""
        live = await self._client.get(SERVICES_OF_EASEL, key.namespace, key.name)
        return live is not None and is_living(live) and find_prefix(live) == prefix

    async def end(self, service: Json) -> None:
        """See one deleted service to its end; what Redis doesn't allow is left to the sweep."""
        prefix, started_at = find_prefix(service), self._monotonic()
        busy_at: float | None = None  # when somebody was last seen to wait
        while True:
            work, error = await self._look(prefix)
            now = self._monotonic()
            busy_at = now if work is not None and not work.is_none else busy_at
            quiet_seconds = now - (started_at if busy_at is None else busy_at)
            ending = Ending(now - started_at, work, quiet_seconds, has_pods=self._has_pods(service))
            step = decide_ending(ending)
            if step is EndingStep.DELETE_KEYS:
                deleted, error = await self._try_to_delete(prefix)
                if not error:
                    self._ended.add(prefix)
                    if deleted:  # else an operator before has done it, and said so
                        await self._writer.write_event(read_owner(service), build_ended_event(service, work))
                    return
                step = decide_ending(replace(ending, work=None))
            if step is EndingStep.GIVE_UP:
                await self._writer.write_event(read_owner(service), build_left_event(service, error))
                return
            await asyncio.sleep(self._look_seconds)

    async def _look(self, prefix: str) -> tuple[WorkLeft | None, str]:
        """Mark the service as closing, and what is left to do; None, and why, while Redis doesn't answer.

        What there was before the mark counts, since its waiters read how it ended only now.
        """
        try:
            before = await self._keys.count_work(prefix)
            await self._keys.mark_closing(prefix, REASON)
            return (await self._keys.count_work(prefix) if before.is_none else before), ""
        except RedisUnreachableError as error:
            return None, str(error)

    async def _try_to_delete(self, prefix: str) -> tuple[int, str]:
        """How many keys there were, and why it didn't succeed; empty if it did."""
        try:
            return await self._delete(prefix), ""
        except RedisUnreachableError as error:
            return 0, str(error)

    def _has_pods(self, service: Json) -> bool:
        """Whether a process runs that ends the jobs; ready or not, it does."""
        return any(
            key.kind == "Pod" and body.get("status", {}).get("phase") == "Running"
            for key, body in self._children.of(to_service_key(service)).items()
        )

    async def _delete(self, prefix: str) -> int:
        try:
            async with asyncio.timeout(DELETE_SECONDS), self._deletions:
                return await self._keys.delete_keys(prefix)
        except TimeoutError:
            raise RedisUnreachableError(f"not all keys were deleted within {DELETE_SECONDS:.0f} s") from None

    async def _keep_registry(self) -> None:
        cluster_uid: str | None = None
        while True:
            pause_seconds = self._look_seconds
            try:
                cluster_uid = cluster_uid or await fetch_cluster_uid(self._client)
                if self._swept_at is None or self._monotonic() - self._swept_at >= SWEEP_SECONDS:
                    await self.sweep(cluster_uid)
                    self._swept_at = self._monotonic()
                await self._register(cluster_uid)
            except (RedisUnreachableError, KubernetesError) as error:
                logger.warning("What deleted services left in Redis isn't looked for now, trying again: %s", error)
                pause_seconds = RETRY_SECONDS
            except Exception:
                FAULTS.labels("cleanup").inc()
                logger.exception("What deleted services left in Redis isn't looked for now, trying again")
                pause_seconds = RETRY_SECONDS
            await asyncio.sleep(pause_seconds)

    async def _register(self, cluster_uid: str) -> None:
        living = {
            find_prefix(service): f"{key.namespace}/{key.name}" for key, service in self._services if is_living(service)
        }
        news = {prefix: place for prefix, place in living.items() if prefix not in self._registered}
        await self._keys.register(cluster_uid, news)
        self._registered = set(living)

    async def sweep(self, cluster_uid: str) -> None:
        """Have services ended that live no more, and delete what is left of those that were.

        Raises RedisUnreachableError and KubernetesError.

        A service stays registered until a sweep finds nothing of it: its last pods may write for a while.
        """
        registry = await self._keys.read_registry(cluster_uid)
        self._registered &= set(registry)  # else what a wiped Redis has forgotten would never come back
        services = [service for _, service in self._services]
        for prefix, key in find_orphans(registry, services, self._watched_namespaces).items():
            if prefix not in self._ended:
                self._seen.setdefault(prefix, recall_service(prefix, key))
            elif not await self._is_living(prefix, key):
                await self._sweep_rest(cluster_uid, prefix, key)

    async def _sweep_rest(self, cluster_uid: str, prefix: str, key: ServiceKey) -> None:
        deleted = await self._delete(prefix)
        SWEPT_KEYS.inc(deleted)
        if deleted:
            logger.info("%d keys were left of the deleted service %s, and are deleted", deleted, key)
        else:
            await self._keys.forget(cluster_uid, prefix)
            self._ended.discard(prefix)
