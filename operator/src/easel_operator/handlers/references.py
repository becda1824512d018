"""Looks whether the Secrets, PersistentVolumeClaims and the like that services name exist; of their contents, how many
nodes may have a claim is asked for, and nothing else.

They are looked up one by one, never listed or watched, which would need the right to read everybody's. A pod that waits
for a volume of one that is missing says nothing of it in its status, so that nobody else would report it.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Final

from easel_contract.resource import ServiceDefaults, StableDiffusionServiceSpec
from pydantic import ValidationError

from easel_operator.cluster.client import ApiRefusedError, KubernetesClient, KubernetesError
from easel_operator.decide.references import is_shared_claim, list_references
from easel_operator.objects import (
    CONFIG_MAPS,
    PERSISTENT_VOLUME_CLAIMS,
    SECRETS,
    SERVICE_ACCOUNTS,
    Json,
    ObjectKey,
    ServiceKey,
)

logger = logging.getLogger(__name__)

# One round over all references takes this long, or as long as the most requests a second allow.
ROUND_SECONDS: Final = 5.0
MAX_LOOKUPS_PER_SECOND: Final = 20
RESOURCES: Final = {
    resource.kind: resource for resource in (SECRETS, PERSISTENT_VOLUME_CLAIMS, CONFIG_MAPS, SERVICE_ACCOUNTS)
}


class ReferenceLookups:
    """What exists of what services name. ``on_change`` is called with each service that news concern."""

    def __init__(
        self,
        client: KubernetesClient,
        *,
        defaults: ServiceDefaults,
        on_change: Callable[[ServiceKey], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._client = client
        self._defaults = defaults
        self._on_change = on_change
        self._monotonic = monotonic
        self._named_by: dict[ObjectKey, set[ServiceKey]] = {}
        self._looked_at: dict[ObjectKey, float] = {}
        self.missing: frozenset[ObjectKey] = frozenset()
        self.shared_claims: frozenset[ObjectKey] = frozenset()  # that pods on several nodes may have at once

    async def check(self, service_key: ServiceKey, service: Json) -> None:
        """Look up what the service names and wasn't looked up within the last round; what it doesn't name any more is
        forgotten. Never raises: what can't be looked up is believed to be as it was."""
        named = self._list_names(service_key, service)
        self._forget_all_but(service_key, named)
        now = self._monotonic()
        for key in named:
            self._named_by.setdefault(key, set()).add(service_key)
            if now - self._looked_at.get(key, -math.inf) >= ROUND_SECONDS:
                await self._look_up(key)

    def forget(self, service_key: ServiceKey) -> None:
        """Drop a service that is gone."""
        self._forget_all_but(service_key, ())

    async def run(self) -> None:
        """Look everything up, round after round, and report what has come or gone."""
        while True:
            await self.run_round()
            await asyncio.sleep(self._pause_seconds())

    async def run_round(self) -> None:
        """One round over everything that is named."""
        for key in sorted(self._named_by):
            if key in self._named_by and await self._look_up(key):
                for service_key in self._named_by[key]:
                    self._on_change(service_key)
            await asyncio.sleep(self._pause_seconds())

    def _pause_seconds(self) -> float:
        return max(1 / MAX_LOOKUPS_PER_SECOND, ROUND_SECONDS / (1 + len(self._named_by)))

    async def _look_up(self, key: ObjectKey) -> bool:
        """Whether there is news of an object."""
        try:
            exists, is_shared = await self._ask(key)
        except KubernetesError as error:
            is_forbidden = isinstance(error, ApiRefusedError) and error.status == HTTPStatus.FORBIDDEN
            # An installation with fewer rights says so once a start, and the pods' own words have to do.
            if not is_forbidden or key not in self._looked_at:
                logger.warning("%s can't be looked up, it is believed to be as it was: %s", key, error)
            self._looked_at[key] = self._monotonic()
            return False
        if key not in self._named_by:
            return False  # it was forgotten meanwhile
        self._looked_at[key] = self._monotonic()
        is_news = exists is (key in self.missing) or is_shared is not (key in self.shared_claims)
        self.shared_claims = self.shared_claims | {key} if is_shared else self.shared_claims - {key}
        self.missing = self.missing - {key} if exists else self.missing | {key}
        return is_news

    async def _ask(self, key: ObjectKey) -> tuple[bool, bool]:
        """Whether an object exists, and whether it is a claim that several nodes may have at once."""
        if key.kind != PERSISTENT_VOLUME_CLAIMS.kind:
            return await self._client.exists(RESOURCES[key.kind], key.namespace, key.name), False
        claim = await self._client.get(PERSISTENT_VOLUME_CLAIMS, key.namespace, key.name)
        return claim is not None, claim is not None and is_shared_claim(claim)

    def _forget_all_but(self, service_key: ServiceKey, named: Collection[ObjectKey]) -> None:
        for key in [key for key, services in self._named_by.items() if service_key in services and key not in named]:
            self._named_by[key].discard(service_key)
            if not self._named_by[key]:
                del self._named_by[key]
                self._looked_at.pop(key, None)
                self.missing -= {key}
                self.shared_claims -= {key}

    def _list_names(self, service_key: ServiceKey, service: Json) -> tuple[ObjectKey, ...]:
        try:
            spec = StableDiffusionServiceSpec.model_validate(service.get("spec", {}))
        except ValidationError:
            return ()
        references = list_references(service_key.namespace, spec, self._defaults)
        return tuple(dict.fromkeys(reference.key for reference in references))
