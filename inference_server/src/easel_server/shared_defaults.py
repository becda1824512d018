"""How gateways learn what suits the model: a worker has its files, a gateway often hasn't, so the broker carries it."""

import hashlib
import logging
import time
from collections.abc import Callable

from easel_contract.server_config import DefaultsConfig, ModelConfig
from pydantic import TypeAdapter, ValidationError

from easel_server.broker.interface import BrokerError, FactStore
from easel_server.generation_defaults import GenerationDefaults, override_defaults

# Long: a service that is scaled to zero still has its gateways. Workers write it again while they run.
TTL_SECONDS = 30 * 24 * 3600.0
PUBLISH_INTERVAL_SECONDS = 600.0
REFRESH_SECONDS = 10.0

logger = logging.getLogger(__name__)

_WIRE = TypeAdapter(GenerationDefaults)


async def publish_defaults(facts: FactStore, model: ModelConfig, defaults: GenerationDefaults) -> None:
    """Tell the gateways. Raises BrokerUnavailableError."""
    await facts.put_fact(_key(model), _WIRE.dump_json(defaults), ttl_seconds=TTL_SECONDS)


class SharedDefaults:
    """A gateway's view: what was configured, over what a worker published, over Stable Diffusion 1.5's."""

    def __init__(
        self,
        facts: FactStore,
        model: ModelConfig,
        configured: DefaultsConfig | None,
        known: GenerationDefaults | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``known`` is for a gateway that sees the model's files itself; nothing is looked up then."""
        self._facts = facts
        self._model = model
        self._configured = configured
        self._defaults = known or GenerationDefaults()
        self._is_fixed = known is not None
        self._is_found = False
        self._clock = clock
        self._looked_at: float | None = None

    async def look(self) -> GenerationDefaults:
        """The defaults as far as they are known now."""
        if not self._is_fixed and self._is_look_due():
            self._looked_at = self._clock()
            await self._refresh()
        return override_defaults(self._defaults, self._configured)

    def _is_look_due(self) -> bool:
        # Until a worker has told, every request looks: a picture of the wrong size is worse than one more question.
        if not self._is_found or self._looked_at is None:
            return True
        return self._clock() - self._looked_at >= REFRESH_SECONDS

    async def _refresh(self) -> None:
        try:
            found = await self._facts.get_fact(_key(self._model))
            if found:
                self._defaults = _WIRE.validate_json(found)
                self._is_found = True
        except BrokerError:
            return  # the request goes on to meet the broker itself, and says so if it's still away
        except ValidationError as error:
            logger.warning("defaults published by another version are ignored: %s", error)


def _key(model: ModelConfig) -> str:
    return "model-defaults-" + hashlib.sha256(f"{model.source}\n{model.revision}".encode()).hexdigest()
