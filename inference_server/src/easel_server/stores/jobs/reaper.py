"""The tasks that look every second for what is due, in every gateway and worker: whoever comes first does the work."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.images.interface import ImageStore
from easel_server.stores.jobs.interface import Reapable, ReapReport

logger = logging.getLogger(__name__)

PERIOD_SECONDS: Final = 1.0


async def reap_forever(
    jobs: Reapable,
    ping: Callable[[], Awaitable[None]],
    models: Callable[[], Sequence[str]],
    *,
    grace_seconds: float,
    period_seconds: float = PERIOD_SECONDS,
) -> None:
    """Reap until cancelled; ``models`` gives the keys of those that this process serves then.

    After an outage, every lease may have run out though its worker is well: nothing is reaped for ``grace_seconds``
    (a lease's length) after the last ``ping`` that failed, so that workers can report first.
    """
    loop = asyncio.get_running_loop()
    hold_until = loop.time()
    while True:
        try:
            if loop.time() >= hold_until:
                report = await jobs.reap(models())
                _log(report)
                if report.closed:
                    continue  # whoever deletes the service waits for the end of its jobs
            else:
                await ping()
        except StoreUnavailableError as error:
            if loop.time() >= hold_until:
                logger.warning("lost jobs are not looked for until the job store is back: %s", error)
            hold_until = loop.time() + grace_seconds
        await asyncio.sleep(period_seconds)


async def purge_forever(images: ImageStore, *, period_seconds: float = PERIOD_SECONDS) -> None:
    """Delete expired images until cancelled. Apart from the reaping of jobs, since a bucket may take its time."""
    is_away = False
    while True:
        try:
            await images.purge()
            is_away = False
        except StoreUnavailableError as error:
            if not is_away:
                logger.warning("expired images are not deleted for now: %s", error)
            is_away = True
        await asyncio.sleep(period_seconds)


def _log(report: ReapReport) -> None:
    if report != ReapReport():
        logger.warning(
            "reaped jobs: %d requeued, %d failed, %d canceled, %d ended since the service is being deleted",
            *(report.requeued, report.failed, report.canceled, report.closed),
        )
