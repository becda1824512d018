"""What a Job does before an installation is deleted, while the rights for it are still there.

Helm deletes the operator and its rights within the same second, so an operator that is told to end by that can't write
any more. This Job has it end first.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from easel_operator.cluster.client import KubernetesClient, KubernetesError
from easel_operator.config import FarewellConfig
from easel_operator.handlers.ending.last_words import LastWords
from easel_operator.objects import DEPLOYMENTS, JOBS, PODS, SERVICES_OF_EASEL, Json

logger = logging.getLogger(__name__)

# Those who make the Job only when they delete an installation, as field managers name them: Helm (and Flux and
# Terraform, which are Helm inside), Argo CD. `helm template | kubectl apply` makes it when it installs.
MAKERS: Final = ("helm", "argocd")
END_SECONDS: Final = 75.0  # for the operators to end: their terminationGracePeriodSeconds, and some more
LOOK_SECONDS: Final = 0.5
ENDED_PHASES: Final = ("Succeeded", "Failed")


class Uninstallation:
    """Ends the operators, then says what they couldn't: none may run, or none be able to."""

    def __init__(
        self,
        client: KubernetesClient,
        last_words: LastWords,
        config: FarewellConfig,
        *,
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._last_words = last_words
        self._config = config
        self._monotonic = monotonic
        self._sleep = sleep

    async def prepare(self) -> None:
        """Do it all. Never raises KubernetesError: an API server in trouble is no reason to keep an installation."""
        try:
            if not await self._is_meant():
                return
        except KubernetesError as error:
            logger.warning("Nothing is done, as who made this Job isn't known: %s", error)
            return
        try:
            await self._end_operators()
        except KubernetesError as error:
            logger.warning("Operators may still run: %s", error)
        await self._last_words.report_to(await self._list_services())
        await self._last_words.give_back()

    async def _is_meant(self) -> bool:
        """Whether this Job was made for an uninstallation."""
        job = await self._client.get(JOBS, self._config.operator_namespace, self._config.farewell_job)
        entries = [] if job is None else job["metadata"].get("managedFields", [])
        managers = sorted({entry.get("manager", "") for entry in entries if not entry.get("subresource")})
        if any(maker in manager.lower() for maker in MAKERS for manager in managers):
            return True
        logger.warning(
            "Job %s/%s was made by %s, who isn't known to make it only before an uninstallation, so nothing is done. "
            "To leave it out of what is rendered: helm template --no-hooks, or operator.farewell.enabled=false",
            self._config.operator_namespace,
            self._config.farewell_job,
            ", ".join(managers) or "nobody that is known",
        )
        return False

    async def _end_operators(self) -> None:
        namespace, name = self._config.operator_namespace, self._config.deployment
        live = await self._client.get(DEPLOYMENTS, namespace, name)
        if live is None:
            return
        await self._client.merge(DEPLOYMENTS, namespace, name, {"spec": {"replicas": 0}})
        labels = live["spec"]["selector"]["matchLabels"]
        selector = ",".join(f"{label}={value}" for label, value in sorted(labels.items()))
        give_up_at = self._monotonic() + END_SECONDS
        while pods := await self._list_running(selector):
            if self._monotonic() > give_up_at:
                logger.warning("Still there after %.0f s: %s", END_SECONDS, ", ".join(pods))
                return
            await self._sleep(LOOK_SECONDS)
        logger.info("No operator runs any more")

    async def _list_running(self, selector: str) -> list[str]:
        pods, _ = await self._client.list_all(PODS, self._config.operator_namespace, label_selector=selector)
        return [pod["metadata"]["name"] for pod in pods if pod.get("status", {}).get("phase") not in ENDED_PHASES]

    async def _list_services(self) -> list[Json]:
        found: list[Json] = []
        for namespace in self._config.watch_namespaces or (None,):
            try:
                services, _ = await self._client.list_all(SERVICES_OF_EASEL, namespace)
                found += services
            except KubernetesError as error:
                place = "all namespaces" if namespace is None else f"namespace {namespace}"
                logger.warning("Services of %s can't be told that no operator is left: %s", place, error)
        return found
