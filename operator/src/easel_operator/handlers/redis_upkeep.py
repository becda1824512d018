"""Has Redis, its Secret and all services agree on its address, users and passwords, for ever."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from easel_contract import names
from easel_contract.redis_url import add_certificate_authority

from easel_operator.cluster.client import ApiRefusedError, KubernetesClient, KubernetesError
from easel_operator.cluster.redis.figures import REDIS_FIGURES
from easel_operator.cluster.redis.password import read_password
from easel_operator.cluster.redis.password_keeper import PasswordKeeper, RedisSource, read_url
from easel_operator.cluster.redis.service_keys import RedisUnreachableError, ServiceKeys, fetch_cluster_uid
from easel_operator.cluster.redis.service_users import ServiceUsers
from easel_operator.decide.deletion import find_prefix
from easel_operator.decide.drift import is_applied
from easel_operator.handlers.reconciler import Reconciler
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.handlers.work_queue import WorkQueue
from easel_operator.manifests.redis_policy import build_redis_policy, name_policy
from easel_operator.objects import NETWORK_POLICIES, SECRETS, ServiceKey

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
NEWS_SECONDS: Final = 0.25  # a new service's pods need longer than that to start
MAX_SECRETS_ASKED: Final = 5


class RedisUpkeep:
    """Only the replica that leads may run it; with a URL that is fixed there is nothing to keep up."""

    def __init__(
        self,
        *,
        client: KubernetesClient,
        source: RedisSource,
        services: ServiceStore,
        keys: ServiceKeys,
        reconciler: Reconciler,
        queue: WorkQueue,
        grant: Callable[[str], Awaitable[None]],
        clock: Callable[[], datetime],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._client = client
        self._source = source
        self._services = services
        self._keys = keys
        self._reconciler = reconciler
        self._queue = queue
        self._grant = grant  # the right to a namespace's Secrets
        self._look_seconds = look_seconds
        self._keeper = PasswordKeeper(client, source, find_served=self._find_served, clock=clock)
        self._users = ServiceUsers(
            client,
            namespace=source.namespace,
            secret=f"{source.secret}-service-users",
            is_ours=source.is_ours,
            service=source.service if source.is_ours else "",
            clock=clock,
        )
        self._cluster_uid = ""  # by which this cluster's services are noted in Redis while they live and end
        self._noted: set[ServiceKey] = set()  # as far as Redis has told
        self._access: tuple[str, str, str, str] | None = None  # as services were last told: see _take_over
        self._own_url = ""  # as this process uses it
        self._reaching: set[str] = set()  # prefixes of services whose pods the NetworkPolicy lets in
        self.has_url = asyncio.Event()  # nothing is reconciled before services can be told where Redis is

    async def run(self) -> None:
        """Look again and again. Services must have been listed."""
        for step in itertools.cycle((self._look, self._await_next_look)):
            try:
                await step()
            except (KubernetesError, ValueError, OSError) as error:
                logger.warning("The address and password of Redis aren't looked after, trying again: %s", error)

    async def _look(self) -> None:
        await self._users.read_key()
        prefixes = self._list_prefixes()
        url = await self._keeper.look(self._users.list_lines(prefixes))
        if url is None:
            return
        self._cluster_uid = self._cluster_uid or await fetch_cluster_uid(self._client)
        own_url, authorities = url, _read_authorities(self._source.ca_file)
        if authorities:
            own_url = add_certificate_authority(url, self._source.ca_file)
            url = add_certificate_authority(url, f"{names.REDIS_DIRECTORY}/{names.SECRET_KEY_AUTHORITIES}")
        await self._users.admit(own_url, prefixes, names.redis_registry_key(self._cluster_uid))
        if own_url != self._own_url:
            await self._keys.use(own_url)
            self._own_url = own_url
        await self._read_noted()
        await self._let_pods_reach_redis()
        self._take_over(url, authorities)
        await REDIS_FIGURES.look(own_url)

    async def _await_next_look(self) -> None:
        """Let new services in meanwhile."""
        step_seconds = min(NEWS_SECONDS, self._look_seconds)
        for _ in range(round(self._look_seconds / step_seconds)):
            await asyncio.sleep(step_seconds)
            prefixes = self._list_prefixes()
            if not prefixes <= self._reaching:
                await self._let_pods_reach_redis()
            if self._access is not None and self._users.lack(prefixes):
                await self._users.admit(self._own_url, prefixes, names.redis_registry_key(self._cluster_uid))

    async def _let_pods_reach_redis(self) -> None:
        """Where the chart's policy keeps everybody else out.

        Those of a deleted service, too, until nothing is left of it: they tell its waiters how their jobs end.
        """
        self._reaching = self._list_prefixes()
        try:
            await self._keep_policy()
        except ApiRefusedError as error:
            if error.is_transient:
                raise
            # What services are told mustn't wait for it: those that are let in already go on with another password.
            logger.warning("The policy that lets pods of services reach Redis can't be kept: %s", error)

    async def _keep_policy(self) -> None:
        namespace, name = self._source.namespace, self._source.secret
        charts = await self._client.get(NETWORK_POLICIES, namespace, name) if self._source.is_ours else None
        if charts is None:
            return
        wanted = build_redis_policy(charts, self._noted | {key for key, _ in self._services})
        if not is_applied(await self._client.get(NETWORK_POLICIES, namespace, name_policy(name)), wanted):
            await self._client.apply(NETWORK_POLICIES, wanted)

    async def _read_noted(self) -> None:
        """While Redis is away, what it said last counts."""
        with contextlib.suppress(RedisUnreachableError):
            registry = await self._keys.read_registry(self._cluster_uid)
            places = (place.partition("/") for place in registry.values())
            self._noted = {ServiceKey(namespace, name) for namespace, _, name in places}

    def _list_prefixes(self) -> set[str]:
        return {find_prefix(service) for _, service in self._services}

    def _take_over(self, url: str, authorities: str) -> None:
        access = (url, authorities, self._users.key, self._users.refusal)
        if access == self._access:
            return
        self._reconciler.use_redis(*access)
        self._access = access
        self.has_url.set()
        for key, _ in self._services:
            self._queue.add(key)

    async def _find_served(self) -> str | None:
        """The password that services were given before this process began: of the first few, the first that has one."""
        for key, _ in itertools.islice(self._services, MAX_SECRETS_ASKED):
            await self._grant(key.namespace)
            secret = await self._client.get(SECRETS, key.namespace, names.redis_secret_name(key.name))
            if secret is not None and (password := read_password(read_url(secret))):
                return password
        return None


def _read_authorities(file: str) -> str:
    """PEM; empty without a file. Raises OSError."""
    return Path(file).read_text(encoding="ascii") if file else ""
