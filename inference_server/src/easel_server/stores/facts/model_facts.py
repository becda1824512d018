"""What gateways must know of the model that workers have loaded; the fact store carries it.

A worker has the model's files, a gateway often hasn't. So a worker publishes what suits the model and what it can do,
and gateways look it up: ``SharedModelFacts``. What jobs cost is learned from all workers together: ``SharedCostModel``.
"""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from easel_contract.gateway_config import DefaultsConfig
from easel_contract.server_config import ModelConfig
from pydantic import TypeAdapter, ValidationError

from easel_server.generation.cost import CostModel
from easel_server.generation.models import MODEL_INDEX, GenerationDefaults, ModelFacts, override_defaults, read_defaults
from easel_server.stores.errors import StoreError
from easel_server.stores.facts.interface import FactStore
from easel_server.stores.jobs.interface import JobQueue

# Long: a service that is scaled to zero still has its gateways. Workers write it again while they run.
TTL_SECONDS: Final = 30 * 24 * 3600.0
PUBLISH_INTERVAL_SECONDS: Final = 600.0
REFRESH_SECONDS: Final = 10.0
COST_REFRESH_SECONDS: Final = 2.0

logger = logging.getLogger(__name__)

_WIRE: Final = TypeAdapter(ModelFacts)


async def publish_facts(store: FactStore, model: ModelConfig, facts: ModelFacts) -> None:
    """Report to the gateways. Raises StoreUnavailableError."""
    await store.put(_name(model), _WIRE.dump_json(facts), ttl_seconds=TTL_SECONDS)


async def publish_defaults(store: FactStore, model: ModelConfig, defaults: GenerationDefaults) -> None:
    """Report what is known before the model is loaded, unless a worker that had loaded it reported more.

    Raises StoreUnavailableError.
    """
    if await store.get(_name(model)) is None:
        await publish_facts(store, model, ModelFacts(defaults=defaults))


class SharedModelFacts:
    """A gateway's view: what was configured, over the model's files, over what a worker published, over guesses."""

    def __init__(
        self,
        store: FactStore,
        model: Callable[[], ModelConfig],
        configured: DefaultsConfig | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``model`` gives the one that is served now; a gateway that sees its files reads the defaults there itself."""
        self._store = store
        self._find_model = model
        self._configured = configured
        self._clock = clock
        self._forget(model())

    def _forget(self, model: ModelConfig) -> None:
        self._model = model
        self._known = _read_defaults_if_visible(model)
        self._is_found = False
        self._looked_at: float | None = None
        self._facts = self._override(ModelFacts())

    async def look(self) -> ModelFacts:
        """The facts as far as they are known now. Outages leave the last ones."""
        if (model := self._find_model()) is not self._model:
            self._forget(model)
        if self._is_look_due():
            self._looked_at = self._clock()
            await self._refresh()
        return self._facts

    def _is_look_due(self) -> bool:
        # Until a worker has reported, every request looks: an image of the wrong size is worse than one more question.
        if self._looked_at is None or not self._is_found:
            return True
        return self._clock() - self._looked_at >= REFRESH_SECONDS

    async def _refresh(self) -> None:
        try:
            found = await self._store.get(_name(self._model))
            if found is not None:
                self._facts = self._override(_WIRE.validate_json(found))
                self._is_found = True
        except StoreError:
            return  # the request goes on to meet the store itself, and says so if it's still away
        except ValidationError as error:
            logger.warning("facts of the model that another version published are ignored: %s", error)

    def _override(self, facts: ModelFacts) -> ModelFacts:
        defaults = override_defaults(self._known or facts.defaults, self._configured, self._model.scheduler)
        return replace(facts, defaults=defaults)


class SharedCostModel:
    """A gateway's view of what jobs cost on this service's GPUs."""

    def __init__(self, queue: JobQueue, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue = queue
        self._clock = clock
        self._model = CostModel()
        self._looked_at: float | None = None

    async def look(self) -> CostModel:
        """The line as fitted at most COST_REFRESH_SECONDS ago. Outages leave the last one."""
        if self._looked_at is None or self._clock() - self._looked_at >= COST_REFRESH_SECONDS:
            self._looked_at = self._clock()
            try:
                self._model = (await self._queue.cost_sums()).fit()
            except StoreError as error:
                logger.debug("costs are not read for now: %s", error)
        return self._model


def _read_defaults_if_visible(model: ModelConfig) -> GenerationDefaults | None:
    directory = Path(model.source)
    return read_defaults(directory) if directory.is_absolute() and (directory / MODEL_INDEX).is_file() else None


def _name(model: ModelConfig) -> str:
    file = f"\n{model.file}" if model.file else ""
    return "model-" + hashlib.sha256(f"{model.source}\n{model.revision}{file}".encode()).hexdigest()
