"""kopf's watch on services, and our own list of them now and then, in the namespaces that can be watched."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import kopf

from easel_operator.cluster.client import KubernetesClient, KubernetesError
from easel_operator.handlers.service_store import ServiceStore, build_registry, build_settings
from easel_operator.handlers.tenancy.watched_namespaces import WatchedNamespaces
from easel_operator.objects import SERVICES_OF_EASEL, Json

logger = logging.getLogger(__name__)

FIRST_LIST_PAUSE_SECONDS: Final = 1.0
RESTART_PAUSE_SECONDS: Final = 1.0


class ServiceWatch:
    """One per process."""

    def __init__(
        self,
        client: KubernetesClient,
        services: ServiceStore,
        namespaces: WatchedNamespaces,
        *,
        identity: str,
        resync_seconds: float,
        on_start: Callable[[], None],
    ) -> None:
        """``on_start`` is called each time that kopf has begun, which sets signal handlers of its own then."""
        self._client = client
        self._services = services
        self._namespaces = namespaces
        self._identity = identity
        self._resync_seconds = resync_seconds
        self._on_start = on_start
        self.has_listed = asyncio.Event()

    async def watch(self, stop: asyncio.Event) -> None:
        """Until ``stop``. kopf begins anew where other namespaces can be watched than before.

        Raises whatever ends kopf, unless that is a namespace which has just gone.
        """
        while not stop.is_set():
            watched = self._namespaces.watched
            others = asyncio.create_task(self._namespaces.wait_for_others(watched))
            stopped = asyncio.create_task(stop.wait())
            end = asyncio.Event()
            kopfs = [asyncio.create_task(self._run_kopf(watched, end))] if self._can_watch() else []
            try:
                await asyncio.wait([others, stopped, *kopfs], return_when=asyncio.FIRST_COMPLETED)
                end.set()
                await asyncio.gather(*kopfs)
            except Exception as error:
                await self._namespaces.look()
                if self._namespaces.is_cluster_wide or self._namespaces.watched == watched:
                    raise
                logger.warning("The watch of services begins anew: %s", error)
                await asyncio.sleep(RESTART_PAUSE_SECONDS)
                continue
            finally:
                for task in (others, stopped):
                    task.cancel()
            if not others.done() and kopfs and not stop.is_set():
                return  # kopf ended by itself

    def _can_watch(self) -> bool:
        return self._namespaces.is_cluster_wide or bool(self._namespaces.watched)

    async def _run_kopf(self, namespaces: tuple[str, ...], end: asyncio.Event) -> None:
        ready = asyncio.Event()
        starting = asyncio.create_task(self._note_start(ready))
        try:
            await kopf.operator(
                registry=build_registry(self._services),
                settings=build_settings(),
                clusterwide=not namespaces,
                namespaces=namespaces,
                standalone=True,
                # Named, or kopf would look the user up, and a container's user id has no name.
                identity=self._identity,  # type: ignore[arg-type] # a NewType of str that kopf doesn't export
                ready_flag=ready,
                stop_flag=end,
            )
        finally:
            starting.cancel()

    async def _note_start(self, ready: asyncio.Event) -> None:
        await ready.wait()
        self._on_start()

    async def keep_listing(self) -> None:
        """List at the start, and now and then; see ServiceStore."""
        while True:
            await self._namespaces.is_settled.wait()
            try:
                self._services.replace_all(*await self._fetch())
                self.has_listed.set()
            except KubernetesError as error:
                logger.warning("Listing services failed, the watch goes on: %s", error)
            await asyncio.sleep(self._resync_seconds if self.has_listed.is_set() else FIRST_LIST_PAUSE_SECONDS)

    async def _fetch(self) -> tuple[list[Json], str]:
        """All services, and the version of the first list: what came after that one is newer than some of them.

        Of a namespace that can't be read at the moment what was known stands; one that is gone has none.
        """
        if self._namespaces.is_cluster_wide:
            return await self._client.list_all(SERVICES_OF_EASEL, None)
        watched, missing = self._namespaces.watched, self._namespaces.missing
        lists = [await self._client.list_all(SERVICES_OF_EASEL, namespace) for namespace in watched]
        for key, _ in self._services:
            if key.namespace in missing:
                self._services.forget(key)
        kept = [body for key, body in self._services if key.namespace not in watched]
        return [*kept, *(body for bodies, _ in lists for body in bodies)], lists[0][1] if lists else "0"
