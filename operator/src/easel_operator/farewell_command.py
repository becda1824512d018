"""``easel-operator farewell``: the Job that runs before an installation is deleted. Its wiring; see Uninstallation."""

import asyncio
import os
import sys
import time
from datetime import UTC, datetime

from easel_operator.cluster.capabilities import Installation
from easel_operator.cluster.client import KubernetesClient
from easel_operator.cluster.metrics_endpoint import Registration
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.config import ConfigurationError, FarewellConfig
from easel_operator.handlers.ending.last_words import LastWords
from easel_operator.handlers.ending.uninstallation import Uninstallation
from easel_operator.logs import configure_logging


def main() -> None:
    """Run to the end; exit status 0 whatever the API server says, as a failed Job would keep the installation."""
    try:
        config = FarewellConfig.from_environment(os.environ)
    except ConfigurationError as error:
        sys.exit(str(error))
    configure_logging(config.log_level)
    asyncio.run(say_farewell(config))


async def say_farewell(config: FarewellConfig) -> None:
    """Build what it takes, and do it."""
    client = await KubernetesClient.connect()

    def now() -> datetime:
        return datetime.now(UTC)

    installation = Installation(config.operator_namespace, config.metrics_service, is_api_wanted=False)
    no_children = ObjectStore(on_change=lambda _key: None)
    writer = ClusterWriter(client, no_children, pod_name=config.pod_name, clock=now)
    last_words = LastWords(writer, give_back=Registration(client, installation).give_back, clock=now)
    try:
        await Uninstallation(client, last_words, config, monotonic=time.monotonic).prepare()
    finally:
        await client.close()
