"""Warns of services outside of the namespaces that are watched, which no operator looks after."""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus

from easel_operator.cluster.client import ApiRefusedError, KubernetesClient, KubernetesError
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.decide.tenancy.outside import build_unwatched_event, find_unattended, list_some
from easel_operator.manifests.metadata import read_owner
from easel_operator.objects import SERVICES_OF_EASEL, ServiceKey, to_service_key
from easel_operator.operator_metrics import OUTSIDE_SERVICES

logger = logging.getLogger(__name__)


class OutsideServices:
    """One per process; only the replica that leads warns."""

    def __init__(
        self,
        client: KubernetesClient,
        writer: ClusterWriter,
        *,
        wanted: tuple[str, ...],
        namespace: str,
        is_leader: Callable[[], bool],
        look_seconds: float,
    ) -> None:
        """``wanted``: namespaces that are to be watched, there or not; ``namespace``: the operator's own."""
        self._client = client
        self._writer = writer
        self._wanted = wanted
        self._namespace = namespace
        self._is_leader = is_leader
        self._look_seconds = look_seconds
        self._unattended: dict[ServiceKey, tuple[str, int]] = {}  # at the last look
        self._warned: dict[ServiceKey, tuple[str, int]] = {}

    async def run(self) -> None:
        """Look for ever, but where nothing outside may be read."""
        while True:
            try:
                if self._is_leader():
                    await self.look()
            except ApiRefusedError as error:
                if error.status == HTTPStatus.FORBIDDEN:
                    logger.info("Services outside of %s aren't looked for: %s", list_some(self._wanted), error)
                    await asyncio.Event().wait()  # for ever: a loop that ends would end the operator
                logger.warning("Services outside of %s can't be looked for: %s", list_some(self._wanted), error)
            except KubernetesError as error:
                logger.warning("Services outside of %s can't be looked for: %s", list_some(self._wanted), error)
            await asyncio.sleep(self._look_seconds)

    async def look(self) -> None:
        """Once. Raises KubernetesError."""
        bodies, _ = await self._client.list_all(SERVICES_OF_EASEL, None)
        found = find_unattended(bodies, self._wanted)
        lasting = {key: seen for key, seen in found.items() if self._unattended.get(key) == seen}
        self._unattended = found
        OUTSIDE_SERVICES.set(len(lasting))
        for body in bodies:
            key = to_service_key(body)
            if key in lasting and self._warned.get(key) != lasting[key]:
                event = build_unwatched_event(key, self._wanted, self._namespace)
                logger.warning("%s: %s", key, event.note)
                await self._writer.write_event(read_owner(body), event)
        self._warned = lasting
