"""A gateway's live configuration where no worker says that it holds a model."""

from easel_contract.gateway_config import QueueConfig
from easel_contract.server_config import ServerConfig
from easel_server.gateway.live_config import LiveConfig


async def is_held_by_nobody(key: str) -> bool:
    del key
    return False


def build_live_config(config: ServerConfig, queue: QueueConfig | None = None) -> LiveConfig:
    return LiveConfig(config, is_held_by_nobody, queue)
