"""The task that calls ``reap`` every second, in every gateway and worker: whoever comes first does the work."""

import asyncio
import logging
from typing import Final

from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import Reapable, ReapReport

logger = logging.getLogger(__name__)
PERIOD_SECONDS: Final = 1.0


async def reap_forever(broker: Reapable, *, grace_seconds: float, period_seconds: float = PERIOD_SECONDS) -> None:
    """Reap until cancelled.

    After an outage of the broker, every lease may have run out though its worker is well: nothing is reaped for
    ``grace_seconds`` (a lease's length), so that workers can report first.
    """
    loop = asyncio.get_running_loop()
    hold_until = loop.time()
    while True:
        try:
            if loop.time() >= hold_until:
                _log(await broker.reap())
            else:
                await broker.ping()
        except StoreUnavailableError as error:
            if loop.time() >= hold_until:
                logger.warning("lost jobs are not looked for until the broker is back: %s", error)
            hold_until = loop.time() + grace_seconds
        await asyncio.sleep(period_seconds)


def _log(report: ReapReport) -> None:
    if report != ReapReport():
        logger.warning(
            "reaped jobs: %d requeued, %d failed, %d canceled", report.requeued, report.failed, report.canceled
        )
