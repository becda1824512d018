"""What gateways learn of workers that can't load the model, in all stores."""

from easel_server.stores.facts.load_failure import (
    LOOK_SECONDS,
    SharedLoadFailure,
    clear_load_failure,
    publish_load_failure,
)
from easel_server.stores.opening import Stores

REASON = "directory /models/sdxl has no model_index.json"


async def test_a_failure_is_over_once_a_worker_has_loaded_the_model_or_another_is_served(stores: Stores) -> None:
    now, key = 0.0, "one"
    shared = SharedLoadFailure(stores.facts, lambda: key, clock=lambda: now)
    assert await shared.look() is None
    await publish_load_failure(stores.facts, "one", REASON)
    now += LOOK_SECONDS
    assert await shared.look() == REASON
    key = "two"
    now += LOOK_SECONDS
    assert await shared.look() is None
    key = "one"
    await clear_load_failure(stores.facts, "one")
    now += LOOK_SECONDS
    assert await shared.look() is None
