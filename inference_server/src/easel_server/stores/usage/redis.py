"""The ledger of usage on Redis, read; ``lua/ledger.lua`` writes it with the jobs' ends."""

from datetime import date
from typing import Final

from typing_extensions import override

from easel_server.stores.redis.connection import RedisConnection
from easel_server.stores.usage.interface import CustomerUsage, UsageLedger

EPOCH: Final = date(1970, 1, 1)
FIGURES: Final = 4


class RedisUsage(UsageLedger):
    """The ledger that all processes of a service share."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    @override
    async def read(self, day: date) -> tuple[CustomerUsage, ...]:
        name = f"usage:{(day - EPOCH).days}"
        fields: list[bytes] = await self._connection.command("HGETALL", self._connection.key(name))
        found = []
        for customer, text in zip(fields[::2], fields[1::2], strict=True):
            words = text.split()
            if len(words) != FIGURES or not all(word.isdigit() for word in words):
                self._connection.dropped.note("usage", f"{name} {customer.decode(errors='replace')}")
                continue
            found.append(CustomerUsage(customer.decode(errors="replace"), *map(int, words)))
        return tuple(sorted(found, key=lambda each: each.customer))
