"""Each customer's latest job: what ``progress`` and ``interrupt`` speak of, since they name none."""

import hashlib

from easel_server.broker.interface import FactStore


class LatestJobs:
    """Kept in the broker, so that any gateway knows."""

    def __init__(self, facts: FactStore, *, ttl_seconds: float) -> None:
        self._facts = facts
        self._ttl_seconds = ttl_seconds

    async def remember(self, customer: str, job_id: str) -> None:
        """This is the latest now. Raises BrokerUnavailableError."""
        await self._facts.put_fact(_name(customer), job_id.encode(), ttl_seconds=self._ttl_seconds)

    async def find(self, customer: str) -> str | None:
        """The id of the latest, if there was any lately. Raises BrokerUnavailableError."""
        found = await self._facts.get_fact(_name(customer))
        return found.decode() if found is not None else None


def _name(customer: str) -> str:
    return "automatic1111-latest-" + hashlib.sha256(customer.encode()).hexdigest()
