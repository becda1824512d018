"""The model that this gateway takes requests for. It changes while the gateway runs: to roll gateways for another model
would end what waits at them, and nothing else of them changes with it.

In a cluster the configuration file is a ConfigMap's, which the kubelet renews in place, within about a minute.
"""

import asyncio
import logging
from pathlib import Path
from typing import Final

from easel_contract.server_config import EngineKind, ModelConfig, ServerConfig
from pydantic import ValidationError

from easel_server.generation.models import RequestedModel, find_requested_model

RECHECK_SECONDS: Final = 1.0
logger = logging.getLogger(__name__)


class ServedModel:
    """What is configured now. Jobs that were submitted before keep the model that they were submitted for."""

    def __init__(self, config: ServerConfig) -> None:
        self.model: ModelConfig = config.model
        self.engine: EngineKind = config.engine.kind
        self._requested = find_requested_model(self.model, self.engine)

    @property
    def name(self) -> str:
        """As clients see it."""
        return self._requested.name

    @property
    def requested(self) -> RequestedModel:
        """What a job that is submitted now asks for."""
        return self._requested

    async def follow(self, file: Path | None, period_seconds: float = RECHECK_SECONDS) -> None:
        """Take over the model of the configuration file whenever it has changed, until cancelled."""
        seen = _read(file) if file is not None else None
        while True:
            await asyncio.sleep(period_seconds)
            if file is None or (content := _read(file)) in (None, seen):
                continue
            seen = content
            try:
                self.change_to(ServerConfig.model_validate_json(content or b""))
            except ValidationError as error:
                logger.warning("the changed configuration file is not valid, %s stays the model: %s", self.name, error)

    def change_to(self, config: ServerConfig) -> None:
        """Serve this configuration's model from now on."""
        if (config.model, config.engine.kind) == (self.model, self.engine):
            return
        self.model, self.engine = config.model, config.engine.kind
        self._requested = find_requested_model(self.model, self.engine)
        logger.info("another model is served", extra={"model": self.name, "key": self._requested.key})


def _read(file: Path) -> bytes | None:
    """The file's content; None while it can't be read, as it may be for a moment when it is replaced."""
    try:
        return file.read_bytes()
    except OSError as error:
        logger.debug("configuration file %s can't be read for now: %s", file, error)
        return None
