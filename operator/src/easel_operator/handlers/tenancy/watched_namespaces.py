"""Which of the namespaces that are to be watched there are, and may be read.

One that doesn't exist, or where the operator has no rights yet, is said and waited for; the others are watched.
"""

import asyncio
import logging
from collections.abc import Callable
from enum import StrEnum
from http import HTTPStatus
from typing import Final

from easel_operator.cluster.client import ApiRefusedError, KubernetesClient, KubernetesError
from easel_operator.objects import NAMESPACES, SERVICES_OF_EASEL
from easel_operator.operator_metrics import WATCHED_NAMESPACES

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 15.0
SYNC_SECONDS: Final = 0.2  # between looks while the objects of a namespace are being listed


class NamespaceState(StrEnum):
    """What is known of one namespace."""

    UNKNOWN = "Unknown"  # not looked at yet
    LISTING = "Listing"  # readable, and its objects aren't known yet
    WATCHED = "Watched"
    MISSING = "Missing"
    FORBIDDEN = "Forbidden"


EXPLANATIONS: Final = {
    NamespaceState.MISSING: "Namespace %s of operator.watchNamespaces doesn't exist. It is watched once it is there "
    "and the chart has been applied again, which gives the operator its rights there.",
    NamespaceState.FORBIDDEN: "Namespace %s of operator.watchNamespaces can't be watched: the operator has no rights "
    "there. Apply the chart again; what runs there goes on running, and isn't looked after until then.",
    NamespaceState.WATCHED: "Namespace %s is watched",
}
SETTLED: Final = frozenset({NamespaceState.WATCHED, NamespaceState.MISSING, NamespaceState.FORBIDDEN})


class WatchedNamespaces:
    """``wanted``: by name; the whole cluster if there are none, and then there is nothing to look at."""

    def __init__(
        self,
        client: KubernetesClient,
        wanted: tuple[str, ...],
        *,
        is_listed: Callable[[str], bool],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """``is_listed`` says whether the objects of a namespace are known, so that its services can be looked at."""
        self._client = client
        self._is_listed = is_listed
        self._look_seconds = look_seconds
        self._states = dict.fromkeys(wanted, NamespaceState.UNKNOWN)
        self._changed = asyncio.Condition()
        self.is_settled = asyncio.Event()  # each has been looked at, and those that are watched are known
        if not wanted:
            self.is_settled.set()

    @property
    def is_cluster_wide(self) -> bool:
        """Whether all namespaces are watched."""
        return not self._states

    @property
    def watched(self) -> tuple[str, ...]:
        """Those whose services are looked after at the moment, in order."""
        return self._select(NamespaceState.WATCHED)

    @property
    def missing(self) -> tuple[str, ...]:
        """Those that don't exist."""
        return self._select(NamespaceState.MISSING)

    def _select(self, state: NamespaceState) -> tuple[str, ...]:
        return tuple(sorted(name for name, each in self._states.items() if each is state))

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await self.look()
            is_listing = NamespaceState.LISTING in self._states.values()
            await asyncio.sleep(min(SYNC_SECONDS, self._look_seconds) if is_listing else self._look_seconds)

    async def look(self) -> None:
        """Ask of each namespace. What can't be asked is believed to be as it was."""
        for name, before in list(self._states.items()):
            try:
                state = await self._judge(name)
            except KubernetesError as error:
                logger.warning("Whether namespace %s can be watched isn't known: %s", name, error)
                continue
            if state is not before:
                await self._change(name, state)
        if set(self._states.values()) <= SETTLED:
            self.is_settled.set()

    async def _judge(self, name: str) -> NamespaceState:
        if not await self._exists(name):
            return NamespaceState.MISSING
        if not await self._client.may("watch", SERVICES_OF_EASEL, name):
            return NamespaceState.FORBIDDEN
        return NamespaceState.WATCHED if self._is_listed(name) else NamespaceState.LISTING

    async def _exists(self, name: str) -> bool:
        try:
            return await self._client.get(NAMESPACES, None, name) is not None
        except ApiRefusedError as error:
            if error.status != HTTPStatus.FORBIDDEN:
                raise
            return True  # rights that somebody else gave: then the next question decides

    async def _change(self, name: str, state: NamespaceState) -> None:
        if state in EXPLANATIONS:
            logger.log(logging.INFO if state is NamespaceState.WATCHED else logging.WARNING, EXPLANATIONS[state], name)
        async with self._changed:
            self._states[name] = state
            self._changed.notify_all()
        for each in NamespaceState:
            WATCHED_NAMESPACES.labels(each).set(len(self._select(each)))

    async def wait_until_readable(self, name: str | None) -> None:
        """Until its objects can be listed; all of the cluster's (None) always can."""
        if name is None:
            return
        readable = (NamespaceState.LISTING, NamespaceState.WATCHED)
        async with self._changed:
            await self._changed.wait_for(lambda: self._states[name] in readable)

    async def wait_for_others(self, watched: tuple[str, ...]) -> None:
        """Until other namespaces are watched than these."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.watched != watched)
