"""Keeps the external metrics API served and registered, and notices what changes about what the cluster can do."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from easel_operator.cluster.capabilities import Installation, probe_capabilities
from easel_operator.cluster.client import KubernetesClient, KubernetesError
from easel_operator.cluster.metrics_endpoint import MetricsEndpoint
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.handlers.shared_state import SharedState
from easel_operator.handlers.work_queue import WorkQueue

logger = logging.getLogger(__name__)

PROBE_SECONDS: Final = 60.0
REGISTRATION_SECONDS: Final = 5.0  # between two looks at whose the API is
FIRST_LOOKS_SECONDS: Final = 0.2  # likewise, at the start
SETTLE_SECONDS: Final = 10.0  # to be registered at the start; after that, services are looked at as things are


class MetricsApiUpkeep:
    """Three loops, one for each of what is kept up."""

    def __init__(
        self,
        *,
        client: KubernetesClient,
        endpoint: MetricsEndpoint,
        installation: Installation,
        shared: SharedState,
        services: ServiceStore,
        queue: WorkQueue,
        is_leader: Callable[[], bool],
    ) -> None:
        self._client = client
        self._endpoint = endpoint
        self._installation = installation
        self._shared = shared
        self._services = services
        self._queue = queue
        self._is_leader = is_leader
        self._is_settled = asyncio.Event()

    async def wait_until_settled(self) -> None:
        """Return once it is known whose the API is, of one that the leader registers if nobody has; SETTLE_SECONDS at
        the most.

        The operator of before may have given the registration back as it ended. Who decides before it is back takes all
        autoscalers away, to make them anew a moment later.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS):
                await self._is_settled.wait()

    async def keep_served(self) -> None:
        """Serve, with a fresh certificate."""
        while True:
            try:
                await self._endpoint.refresh()
            except (KubernetesError, ValueError, RuntimeError, OSError) as error:
                logger.warning("The external metrics API isn't set up, trying again: %s", error)
            await asyncio.sleep(PROBE_SECONDS)

    async def keep_registered(self) -> None:
        """Register where that is for us to do (see Registration.settle), and tell services when it changes hands."""
        while True:
            try:
                could_register = self._is_leader() and self._endpoint.is_serving  # it may begin to serve meanwhile
                note = await self._endpoint.register(is_leader=self._is_leader())
                if note != self._shared.capabilities.metrics_api_note:
                    await self._probe()
                if not note or could_register:
                    self._is_settled.set()
            except KubernetesError as error:
                logger.warning("The external metrics API isn't registered, trying again: %s", error)
            await asyncio.sleep(REGISTRATION_SECONDS if self._is_settled.is_set() else FIRST_LOOKS_SECONDS)

    async def keep_probing(self) -> None:
        """Notice what changes about the cluster."""
        while True:
            try:
                await self._probe()
            except KubernetesError as error:
                logger.warning("What this cluster can do isn't known anew, trying again: %s", error)
            await asyncio.sleep(PROBE_SECONDS)

    async def _probe(self) -> None:
        capabilities = await probe_capabilities(self._client, self._installation)
        if capabilities != self._shared.capabilities:
            logger.info("This cluster changed: %s", capabilities)
            self._shared.capabilities = capabilities
            for key, _ in self._services:
                self._queue.add(key)
