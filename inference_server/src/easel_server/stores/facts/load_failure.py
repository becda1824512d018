"""Whether anybody can load the model: what workers report that can't, and those that hold it, for gateways.

A worker that fails to load its model ends, and is started again and again; nobody else would know why requests wait.
"""

import time
from collections.abc import Callable
from typing import Final

from easel_server.stores.errors import StoreError
from easel_server.stores.facts.interface import FactStore

# Longer than Kubernetes' longest pause before it starts a container again: five minutes.
FAILURE_SECONDS: Final = 330.0
HOLD_SECONDS: Final = 30.0  # a worker that holds the model says so again within this
HOLD_AGAIN_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 1.0
MAX_MESSAGE_BYTES: Final = 1000


async def publish_load_failure(store: FactStore, model_key: str, message: str) -> None:
    """A worker couldn't load the model. Raises StoreUnavailableError."""
    await store.put(_failure(model_key), message.encode()[:MAX_MESSAGE_BYTES], ttl_seconds=FAILURE_SECONDS)


async def clear_load_failure(store: FactStore, model_key: str) -> None:
    """A worker could. Raises StoreUnavailableError."""
    await store.remove(_failure(model_key))


async def publish_hold(store: FactStore, model_key: str) -> None:
    """A worker holds the model, for HOLD_SECONDS as far as others know. Raises StoreUnavailableError."""
    await store.put(_hold(model_key), b"1", ttl_seconds=HOLD_SECONDS)


async def is_model_held(store: FactStore, model_key: str) -> bool:
    """Whether a worker has said so within HOLD_SECONDS. Raises StoreError."""
    return await store.get(_hold(model_key)) is not None


class SharedLoadFailure:
    """A gateway's view."""

    def __init__(
        self, store: FactStore, model_key: Callable[[], str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``model_key`` is of the model that is served now."""
        self._store = store
        self._model_key = model_key
        self._clock = clock
        self._looked_at: float | None = None
        self._failure: str | None = None

    async def look(self) -> str | None:
        """Why nobody holds the model, as at most LOOK_SECONDS ago; None where somebody does, or nothing is known."""
        if self._looked_at is None or self._clock() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = self._clock()
            try:
                self._failure = await self._find()
            except StoreError:
                self._failure = None  # the request goes on to meet the store itself
        return self._failure

    async def _find(self) -> str | None:
        key = self._model_key()
        failure = await self._store.get(_failure(key))
        if failure is None or await is_model_held(self._store, key):
            return None
        return failure.decode(errors="replace")


def _failure(model_key: str) -> str:
    return f"load-failure-{model_key}"


def _hold(model_key: str) -> str:
    return f"model-held-{model_key}"
