"""What is said where no operator is left: services aren't looked at any more, and nobody serves the metrics API."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final

from easel_operator.cluster.client import KubernetesError
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.decide.reports import report_gone
from easel_operator.manifests.metadata import read_owner
from easel_operator.objects import Json, is_living

logger = logging.getLogger(__name__)

REPORT_SECONDS: Final = 25.0  # for the last status of all services
GIVE_BACK_SECONDS: Final = 5.0  # of an API server that may be away
MAX_WRITES: Final = 16  # at the same time


class LastWords:
    """Never raises: what can't be said isn't."""

    def __init__(
        self, writer: ClusterWriter, *, give_back: Callable[[], Awaitable[None]], clock: Callable[[], datetime]
    ) -> None:
        """``give_back`` deletes the registration of the metrics API if it is ours; may raise KubernetesError."""
        self._writer = writer
        self._give_back = give_back
        self._clock = clock

    async def report_to(self, services: Sequence[Json]) -> None:
        """Have each service say that no operator is left; one that says so already isn't written."""
        slots = asyncio.Semaphore(MAX_WRITES)
        living = [service for service in services if is_living(service)]
        try:
            async with asyncio.timeout(REPORT_SECONDS):
                reported = await asyncio.gather(*(self._report_to(service, slots) for service in living))
            logger.info("Told %d of %d services that no operator is left", sum(reported), len(living))
        except TimeoutError:
            logger.warning("Not all of %d services could be told that no operator is left", len(living))

    async def _report_to(self, service: Json, slots: asyncio.Semaphore) -> bool:
        plan = report_gone(service, self._clock().replace(microsecond=0))
        if plan.status_patch is None:
            return True
        async with slots:
            try:
                return await self._writer.write_status(read_owner(service), plan.status_patch) is not None
            except KubernetesError as error:
                logger.warning("%s goes on saying what was true: %s", service["metadata"]["name"], error)
                return False

    async def give_back(self) -> None:
        """Give the metrics API back, without which no namespace of the cluster could be deleted."""
        try:
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                await self._give_back()
        except (KubernetesError, TimeoutError) as error:
            logger.warning("The external metrics API stays registered: %s", error)
