"""Has Redis, its Secret and all services agree on its address and password, for ever."""

import asyncio
import itertools
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from easel_contract import names

from easel_operator.cluster.client import KubernetesClient, KubernetesError
from easel_operator.cluster.redis.password import read_password
from easel_operator.cluster.redis.password_keeper import PasswordKeeper, RedisSource, read_url
from easel_operator.cluster.redis.service_keys import ServiceKeys
from easel_operator.handlers.reconciler import Reconciler
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.handlers.work_queue import WorkQueue
from easel_operator.objects import SECRETS

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
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
        clock: Callable[[], datetime],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._client = client
        self._services = services
        self._keys = keys
        self._reconciler = reconciler
        self._queue = queue
        self._look_seconds = look_seconds
        self._keeper = PasswordKeeper(client, source, find_served=self._find_served, clock=clock)
        self._url: str | None = None
        self.has_url = asyncio.Event()  # nothing is reconciled before services can be told where Redis is

    async def run(self) -> None:
        """Look again and again. Services must have been listed."""
        while True:
            try:
                await self._take_over(await self._keeper.look())
            except (KubernetesError, ValueError) as error:
                logger.warning("The password of Redis isn't looked after, trying again: %s", error)
            await asyncio.sleep(self._look_seconds)

    async def _take_over(self, url: str | None) -> None:
        if url is None or url == self._url:
            return
        await self._keys.use(url)
        self._reconciler.use_redis(url)
        self._url = url
        self.has_url.set()
        for key, _ in self._services:
            self._queue.add(key)

    async def _find_served(self) -> str | None:
        """The password that services were given before this process began: of the first few, the first that has one."""
        for key, _ in itertools.islice(self._services, MAX_SECRETS_ASKED):
            secret = await self._client.get(SECRETS, key.namespace, names.redis_secret_name(key.name))
            if secret is not None and (password := read_password(read_url(secret))):
                return password
        return None
