"""Has the operator hold rights to Secrets where services live, and nowhere else.

The chart names a ClusterRole that nobody is bound to. The operator binds itself to it in each namespace with services,
and takes the binding away with the last one. It may bind that role alone, under that name alone. Where the chart has
bound it itself (``operator.watchNamespaces``), there is nothing to do.
"""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from easel_operator.cluster.client import ApiRefusedError, KubernetesClient, KubernetesError
from easel_operator.decide.tenancy.bindings import build_secrets_binding, plan_bindings
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.objects import CLUSTER_ROLES, ROLE_BINDINGS, SECRETS, Json

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0  # at the services that are known; costs no request
# An API server learns of a new binding by its own watch, a moment later.
EFFECT_ATTEMPTS: Final = 40
EFFECT_PAUSE_SECONDS: Final = 0.05


class SecretsAccess:
    """One per process; only the replica that leads may use it."""

    def __init__(
        self,
        client: KubernetesClient,
        services: ServiceStore,
        *,
        role: str,
        account: str,
        account_namespace: str,
        monotonic: Callable[[], float],
        resync_seconds: float,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """``role``: the ClusterRole, empty where rights to Secrets are given otherwise; ``account``: the operator's."""
        self._client = client
        self._services = services
        self._role = role
        self._account = account
        self._account_namespace = account_namespace
        self._monotonic = monotonic
        self._resync_seconds = resync_seconds
        self._look_seconds = look_seconds
        self._granted: set[str] = set()
        self._lock = asyncio.Lock()
        self._listed_at: float | None = None

    async def run(self) -> None:
        """Follow the services for ever; only with a role. They must have been listed; what fails is tried again."""
        while True:
            try:
                if self._must_list():
                    await self.settle()
            except KubernetesError as error:
                logger.warning("Rights to Secrets aren't as they should be, trying again: %s", error)
            await asyncio.sleep(self._look_seconds)

    def _must_list(self) -> bool:
        is_old = self._listed_at is None or self._monotonic() - self._listed_at >= self._resync_seconds
        return is_old or self._find_namespaces() != self._granted

    def _find_namespaces(self) -> set[str]:
        return {key.namespace for key, _ in self._services}

    async def settle(self) -> None:
        """Look at all bindings; make what is missing, take away what isn't needed. Raises KubernetesError."""
        async with self._lock:
            role = await self._read_role()
            live, _ = await self._client.list_all(ROLE_BINDINGS, None, name=self._role)
            wanted = {namespace: self._build(namespace, role) for namespace in self._find_namespaces()}
            plan = plan_bindings(wanted, live)
            self._granted = set(plan.kept)
            self._listed_at = self._monotonic()
            for namespace in plan.applies:
                await self._apply(wanted[namespace])
            for binding in plan.deletes:
                await self._delete(binding)

    async def grant(self, namespace: str) -> None:
        """Have the right in this namespace, now. Raises KubernetesError."""
        if not self._role or namespace in self._granted:
            return
        async with self._lock:
            if namespace not in self._granted:
                await self._apply(self._build(namespace, await self._read_role()))

    def doubt(self, namespace: str) -> None:
        """The API server has refused a Secret there: somebody has taken the binding away."""
        self._granted.discard(namespace)

    def _build(self, namespace: str, role: Json) -> Json:
        return build_secrets_binding(namespace, role, account=self._account, account_namespace=self._account_namespace)

    async def _read_role(self) -> Json:
        role = await self._client.get(CLUSTER_ROLES, None, self._role)
        if role is None:
            path = CLUSTER_ROLES.path(None, self._role)
            raise ApiRefusedError(
                "GET", path, HTTPStatus.NOT_FOUND, "NotFound", "the chart has this ClusterRole: install it again"
            )
        return role

    async def _apply(self, binding: Json) -> None:
        namespace = binding["metadata"]["namespace"]
        await self._client.apply(ROLE_BINDINGS, binding)
        for _ in range(EFFECT_ATTEMPTS):
            if await self._client.may("get", SECRETS, namespace):
                break
            await asyncio.sleep(EFFECT_PAUSE_SECONDS)
        self._granted.add(namespace)
        logger.info("Services live in namespace %s: the operator may read and write Secrets there", namespace)

    async def _delete(self, binding: Json) -> None:
        metadata = binding["metadata"]
        if metadata["namespace"] in self._find_namespaces():  # by now
            return
        await self._client.delete(ROLE_BINDINGS, metadata["namespace"], metadata["name"], uid=metadata["uid"])
        logger.info(
            "No service lives in namespace %s any more: the operator has no right to its Secrets", metadata["namespace"]
        )
