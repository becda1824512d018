"""Keeps the external metrics API served and registered, and notices what changes about what the cluster can do."""

import asyncio
import logging
from collections.abc import Callable
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
                note = await self._endpoint.register(is_leader=self._is_leader())
                if note != self._shared.capabilities.metrics_api_note:
                    await self._probe()
            except KubernetesError as error:
                logger.warning("The external metrics API isn't registered, trying again: %s", error)
            await asyncio.sleep(REGISTRATION_SECONDS)

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
