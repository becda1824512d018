"""The outbox on Redis: each step is one script in ``lua/``. Jobs put webhooks in by ``lua/enqueue.lua``."""

from typing_extensions import override

from easel_server.stores.jobs.redis_fields import DamagedRecordError, to_delivery
from easel_server.stores.outbox.interface import (
    MAX_ATTEMPTS_PER_HOST,
    Delivery,
    FindBusyCustomers,
    WebhookOutbox,
    find_none,
)
from easel_server.stores.redis.connection import MICROSECONDS, RedisConnection
from easel_server.stores.redis.wakeups import wait_for


class RedisOutbox(WebhookOutbox):
    """Webhooks to be sent, by any gateway."""

    def __init__(self, connection: RedisConnection) -> None:
        self._connection = connection

    @override
    async def claim(
        self,
        *,
        lease_seconds: float,
        wait_seconds: float,
        find_busy_customers: FindBusyCustomers = find_none,
    ) -> Delivery | None:
        lease_us = round(lease_seconds * MICROSECONDS)

        async def claim_now() -> Delivery | None:
            while reply := await self._connection.script(
                "outbox/claim", lease_us, MAX_ATTEMPTS_PER_HOST, *find_busy_customers()
            ):
                try:
                    return to_delivery(*reply)
                except DamagedRecordError as error:
                    name = reply[0].decode(errors="replace")
                    self._connection.dropped.note("delivery", name, str(error))
                    await self._connection.script("outbox/settle", reply[0], MAX_ATTEMPTS_PER_HOST)
            return None

        return await wait_for(self._connection, ["outbox:bell"], claim_now, wait_seconds)

    @override
    async def settle(self, delivery: Delivery) -> None:
        await self._connection.script("outbox/settle", delivery.id, MAX_ATTEMPTS_PER_HOST)

    @override
    async def postpone(self, delivery: Delivery, delay_seconds: float) -> None:
        delay_us = round(delay_seconds * MICROSECONDS)
        await self._connection.script("outbox/postpone", delivery.id, delivery.attempt, delay_us, MAX_ATTEMPTS_PER_HOST)
