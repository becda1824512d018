"""What add-ons hold, as workers last saw it: gateways look images up under what a job would get.

A source may change: a branch moves, a file on a volume is written anew. Where nothing was reported, nothing is
looked up; what was generated is kept under what was really used (``Job.generated_by``).
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from easel_contract.add_ons import AddOnConfig

from easel_server.stores.facts.interface import FactStore

TTL_SECONDS: Final = 24 * 3600.0
MAX_REMEMBERED: Final = 2048


class AddOnContents:
    """Of one process: a worker reports, a gateway asks. Both raise StoreUnavailableError."""

    def __init__(self, store: FactStore) -> None:
        self._store = store
        self._reported: dict[str, str] = {}  # by key: what this process said last

    async def report(self, digests: Mapping[str, str]) -> None:
        """The digests of add-ons, by the keys of their configurations; what is known already isn't said again."""
        for key, digest in digests.items():
            if self._reported.get(key) == digest and await self._find(key) == digest:
                continue
            await self._store.put(_name(key), digest.encode(), ttl_seconds=TTL_SECONDS)
            self._reported[key] = digest
            if len(self._reported) > MAX_REMEMBERED:
                del self._reported[next(iter(self._reported))]

    async def find(self, add_ons: Sequence[AddOnConfig]) -> dict[str, str] | None:
        """Digests by name, or None unless all are known."""
        found = await asyncio.gather(*(self._find(each.key) for each in add_ons))
        digests = {each.name: digest for each, digest in zip(add_ons, found, strict=True) if digest is not None}
        return digests if len(digests) == len(add_ons) else None

    async def _find(self, key: str) -> str | None:
        value = await self._store.get(_name(key))
        return value.decode() if value is not None else None


def _name(key: str) -> str:
    return f"add-on-{key}"
