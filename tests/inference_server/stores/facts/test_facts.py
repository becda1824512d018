"""What the facts promise, in memory and on Redis."""

from easel_server.stores.opening import Stores

from tests.support.eventually import eventually

LONG_SECONDS = 3600.0


async def test_a_fact_stays_until_its_time_is_over(stores: Stores) -> None:
    assert await stores.facts.get("name") is None
    await stores.facts.put("name", b"old", ttl_seconds=LONG_SECONDS)
    await stores.facts.put("name", b"new", ttl_seconds=0.2)
    assert await stores.facts.get("name") == b"new"

    async def is_gone() -> bool:
        return await stores.facts.get("name") is None

    assert await eventually(is_gone)
