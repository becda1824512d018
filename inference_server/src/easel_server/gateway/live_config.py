"""What of the configuration changes while a gateway runs: its model, the add-ons that requests may ask for, how far its
service may scale, in which order requests are taken, and that keys are asked for, which it can't check but must not
ignore.

To roll gateways for any but the last would end what waits there, and nothing else of a gateway changes with them; the
operator leaves them out of what it rolls gateways for. In a cluster the configuration file is a ConfigMap's, which the
kubelet renews in place: within seconds as the operator annotates the pod, else within about a minute.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from easel_contract import names
from easel_contract.add_ons import AddOnsConfig
from easel_contract.gateway_config import QueueConfig
from easel_contract.server_config import EngineKind, ModelConfig, ServerConfig
from pydantic import ValidationError

from easel_server.generation.models import RequestedModel, find_requested_model
from easel_server.stores.errors import StoreError

RECHECK_SECONDS: Final = 1.0
logger = logging.getLogger(__name__)


class LiveConfig:
    """As it is configured now. Jobs that were submitted before keep the model that they were submitted for."""

    def __init__(
        self, config: ServerConfig, is_held: Callable[[str], Awaitable[bool]], queue: QueueConfig | None = None
    ) -> None:
        """``is_held`` says whether a worker holds the model of this key; it may raise StoreError."""
        self._is_held = is_held
        self.queue = queue or QueueConfig()
        self.model: ModelConfig = config.model
        self.engine: EngineKind = config.engine.kind
        self.add_ons: AddOnsConfig = config.add_ons
        self.max_workers: int | None = config.gateway.max_workers
        # A gateway that began without keys can't check any. Its successors may never start, since what they need is
        # missing; it then goes on, and must let nobody in.
        self.asks_for_keys: bool = config.gateway.api_keys_directory is not None
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
        """Take over what has changed in the configuration file, and in that of the queue beside it, until cancelled."""
        seen = None  # it may have changed since this process read it
        seen_queue = None
        wanted: ServerConfig | None = None  # what isn't taken over yet
        while True:
            await asyncio.sleep(period_seconds)
            if file is not None and (content := _read(queue_file(file))) not in (None, seen_queue):
                seen_queue = content
                self.queue = _parse_queue(content or b"", self.queue)
            if file is not None and (content := _read(file)) not in (None, seen):
                seen = content
                try:
                    wanted = ServerConfig.model_validate_json(content or b"")
                except ValidationError as error:
                    logger.warning("the changed configuration file is not valid, what was in it stays: %s", error)
            if wanted is not None and await self.change_to(wanted):
                wanted = None

    async def change_to(self, config: ServerConfig) -> bool:
        """Take over what may be; whether that was all."""
        self.add_ons = config.add_ons
        self.max_workers = config.gateway.max_workers
        self.asks_for_keys = config.gateway.api_keys_directory is not None
        if (config.model, config.engine.kind) == (self.model, self.engine):
            return True
        requested = find_requested_model(config.model, config.engine.kind)
        try:
            if not await self._is_held(requested.key) and await self._is_held(self._requested.key):
                return False
        except StoreError:
            return False
        self.model, self.engine, self._requested = config.model, config.engine.kind, requested
        logger.info("another model is served", extra={"model": self.name, "key": self._requested.key})
        return True


def read_queue_config(file: Path | None) -> QueueConfig:
    """What stands beside the configuration file of the order in which requests are taken; nothing where none does."""
    content = _read(queue_file(file)) if file is not None else None
    return QueueConfig() if content is None else _parse_queue(content, QueueConfig())


def queue_file(file: Path) -> Path:
    """Where what is said of the queue stands, beside the configuration file."""
    return file.with_name(names.CONFIG_KEY_QUEUE)


def _parse_queue(content: bytes, known: QueueConfig) -> QueueConfig:
    """``known`` where it can't be understood: requests are taken in either order."""
    try:
        return QueueConfig.model_validate_json(content)
    except ValidationError as error:
        logger.warning("%s is not valid, what was known of the queue stays: %s", names.CONFIG_KEY_QUEUE, error)
        return known


def _read(file: Path) -> bytes | None:
    """The file's content; None while it can't be read, as it may be for a moment when it is replaced."""
    try:
        return file.read_bytes()
    except OSError as error:
        logger.debug("configuration file %s can't be read for now: %s", file, error)
        return None
