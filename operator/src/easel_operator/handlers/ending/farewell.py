"""The operator's last words, after a signal: what it leaves to other replicas, and what it says if there are none."""

import asyncio
import logging
from http import HTTPStatus
from typing import Final

from easel_operator.cluster.client import ApiRefusedError, KubernetesClient, KubernetesError
from easel_operator.cluster.leadership import LEASE_NAME, Leadership
from easel_operator.cluster.metrics_endpoint import MetricsEndpoint
from easel_operator.handlers.ending.last_words import LastWords
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.objects import DEPLOYMENTS, LEASES, is_living

logger = logging.getLogger(__name__)

ASK_SECONDS: Final = 5.0  # for each question to an API server that may be away
# Those who route learn of a pod's end later than the pod does; and of replicas that end together each must know so.
SERVE_ON_SECONDS: Final = 5.0


class Farewell:
    """Said once, when nothing else writes any more."""

    def __init__(
        self,
        *,
        client: KubernetesClient,
        last_words: LastWords,
        services: ServiceStore,
        endpoint: MetricsEndpoint,
        leadership: Leadership,
        namespace: str,
        deployment: str,
        pod_name: str,
        serve_on_seconds: float = SERVE_ON_SECONDS,
    ) -> None:
        """``deployment`` is the operator's own; empty where it isn't known, and then no end is for good."""
        self._client = client
        self._last_words = last_words
        self._services = services
        self._endpoint = endpoint
        self._leadership = leadership
        self._namespace = namespace
        self._deployment = deployment
        self._pod_name = pod_name
        self._serve_on_seconds = serve_on_seconds

    async def say(self) -> None:
        """Leave the lease and the metrics API to others at once; where there will be none, tell services so.

        Then the registration is given back too. Never raises: what can't be said isn't.
        """
        try:
            async with asyncio.timeout(ASK_SECONDS):
                is_for_good = await self._is_for_good()
        except (KubernetesError, TimeoutError) as error:
            logger.warning("Whether operators are wanted any more isn't known, so this is a restart: %s", error)
            is_for_good = False
        if not is_for_good:
            await self._leadership.release()
            await self._serve_on()
            return
        # The lease is kept: another replica, about to be told to end, must not write over it.
        if self._leadership.is_leader():
            await self._last_words.report_to([service for _, service in self._services])
        await self._last_words.give_back()

    async def _is_for_good(self) -> bool:
        """Whether the Deployment is gone, or going, or wants no pods; or the right to ask is gone with the rest."""
        if not self._deployment:
            return False
        try:
            live = await self._client.get(DEPLOYMENTS, self._namespace, self._deployment)
        except ApiRefusedError as error:
            # Where its namespace is deleted, the Role may go before the Deployment. Without the Lease nobody can lead.
            if error.status != HTTPStatus.FORBIDDEN or not await self._is_forbidden_to_lead():
                raise
            return True
        return live is None or not is_living(live) or live.get("spec", {}).get("replicas") == 0

    async def _is_forbidden_to_lead(self) -> bool:
        try:
            await self._client.get(LEASES, self._namespace, LEASE_NAME)
        except ApiRefusedError as error:
            return error.status == HTTPStatus.FORBIDDEN
        return False

    async def _serve_on(self) -> None:
        """Answer autoscalers for a moment; then, if nobody else does, give the registration back.

        Where nobody serves it, Kubernetes can delete no namespace; autoscalers hold what they have either way.
        """
        if not self._endpoint.is_serving:
            return
        await asyncio.sleep(self._serve_on_seconds)
        try:
            async with asyncio.timeout(ASK_SECONDS):
                if await self._endpoint.is_served_by_others(self._pod_name):
                    return
        except (KubernetesError, TimeoutError) as error:
            logger.warning("Whether others serve the external metrics API isn't known; it stays registered: %s", error)
            return
        await self._last_words.give_back()
