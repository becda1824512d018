"""After a restart: reads in the background what services did before, where there is a Prometheus that knows.

One service after the other, in queries of bounded size and time. A failure costs nothing but what isn't known then: it
is logged and counted, and tried again a few times.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

from easel_operator.autoscaling.replay.past import PastStep
from easel_operator.cluster.prometheus import Prometheus, PrometheusError
from easel_operator.handlers.scaling_loop import PastWanted, ScalingLoop
from easel_operator.logs import logged_for
from easel_operator.operator_metrics import FAULTS, HISTORY_READS
from easel_operator.simulation.history import COUNTERS, Growth, History, HistoryError, select_gateways

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 30.0  # between two looks for services whose past wasn't read
SERVICE_TIMEOUT_SECONDS: Final = 300.0
MAX_ATTEMPTS: Final = 3
RETRY_SECONDS: Final = 600.0
MAX_ANSWER_BYTES: Final = 8 << 20  # of one query: some hundred pods
SHARE_OF_TIME: Final = 0.2  # of one core, that this may take from the scaling of services
MAX_PAUSE_STEPS: Final = 1.5


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of the past, with its resolution."""

    begins_ago_seconds: int
    ends_ago_seconds: int
    step_seconds: int
    query_seconds: int


# The last 36 hours as finely as most Prometheus servers scrape; what recurs by days and weeks shows in minutes.
STRETCHES: Final = (Stretch(14 * 86400, 36 * 3600, 60, 6 * 3600), Stretch(36 * 3600, 0, 15, 2 * 3600))


class PastReader:
    """Gives the scaling loop the past of each service that it follows, once."""

    def __init__(
        self,
        server: Prometheus,
        scaling_loop: ScalingLoop,
        *,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._server, self._scaling_loop = server, scaling_loop
        self._clock, self._monotonic, self._sleep = clock, monotonic, sleep
        self._attempts: dict[str, int] = {}  # by uid, of services whose past couldn't be read
        self._retry_at: dict[str, float] = {}

    async def run(self) -> None:
        """Look for ever for services whose past wasn't read."""
        async with self._server:
            while True:
                await self.read_all()
                await self._sleep(LOOK_SECONDS)

    async def read_all(self) -> None:
        """One round over the services that the scaling loop follows and whose past wasn't read."""
        wanted = self._scaling_loop.list_wanted_pasts()
        uids = {each.uid for each in wanted}
        self._attempts = {uid: number for uid, number in self._attempts.items() if uid in uids}
        self._retry_at = {uid: at for uid, at in self._retry_at.items() if uid in uids}
        for each in wanted:
            if (
                self._attempts.get(each.uid, 0) < MAX_ATTEMPTS
                and self._retry_at.get(each.uid, 0.0) <= self._monotonic()
            ):
                with logged_for(each.key):
                    await self._read_service(each)

    async def _read_service(self, wanted: PastWanted) -> None:
        began_at = self._monotonic()
        try:
            async with asyncio.timeout(SERVICE_TIMEOUT_SECONDS):
                steps = await read_past(self._server, wanted, self._clock())
                await self._scaling_loop.take_past(wanted, steps)
        except (PrometheusError, HistoryError, TimeoutError) as error:
            self._note_failure(wanted, str(error) or f"it took more than {SERVICE_TIMEOUT_SECONDS:g} s")
        except Exception:  # the services go on being scaled without their past
            FAULTS.labels("past").inc()
            logger.exception("%s: reading its past met a fault of the operator's own", wanted.key)
            self._note_failure(wanted, "a fault of the operator's own")
        else:
            HISTORY_READS.labels("read" if any(step.jobs for step in steps) else "empty").inc()
            logger.info("%s: its past was read, %d steps", wanted.key, len(steps))
        took_seconds = self._monotonic() - began_at
        await self._sleep(took_seconds * (1.0 / SHARE_OF_TIME - 1.0))

    def _note_failure(self, wanted: PastWanted, problem: str) -> None:
        HISTORY_READS.labels("failed").inc()
        attempts = self._attempts[wanted.uid] = self._attempts.get(wanted.uid, 0) + 1
        self._retry_at[wanted.uid] = self._monotonic() + RETRY_SECONDS
        again = f"it is tried again in {RETRY_SECONDS:g} s" if attempts < MAX_ATTEMPTS else "it isn't tried again"
        logger.warning("%s: its past isn't known, and is learned anew; %s: %s", wanted.key, again, problem)


async def read_past(server: Prometheus, wanted: PastWanted, now: datetime) -> list[PastStep]:
    """All that is known of STRETCHES, oldest first. Raises PrometheusError, and HistoryError where pods come twice."""
    selector = select_gateways(wanted.key.namespace, wanted.key.name)
    history, past, end = History(), Past(), int(now.timestamp())
    for stretch in STRETCHES:
        for ago in range(stretch.begins_ago_seconds, stretch.ends_ago_seconds, -stretch.query_seconds):
            seconds = min(stretch.query_seconds, ago - stretch.ends_ago_seconds)
            # The times of a subquery are multiples of its step, whenever who was scraped.
            query = f"{{{COUNTERS},{selector}}}[{seconds}s:{stretch.step_seconds}s]"
            found = await server.query(query, end - ago + seconds)
            history.add(found)
            past.add((at for each in found for at, _ in each.samples), history.take_growths(), stretch.step_seconds)
    return past.list_steps()


class Past:
    """What all gateways together accepted, between the times at which any was read."""

    def __init__(self) -> None:
        self._accepted: dict[float, tuple[int, float]] = {}  # by the end of the step: jobs, GPU-seconds
        self._longest_seconds: dict[float, float] = {}  # by that end, how long a step may be

    def add(self, times: Iterable[float], growths: Sequence[Growth], step_seconds: int) -> None:
        """Readings at Unix times, ``step_seconds`` apart. What grew over a longer pause came nobody knows when, and is
        left out.
        """
        self._longest_seconds |= dict.fromkeys(times, MAX_PAUSE_STEPS * step_seconds)
        for growth in growths:
            if growth.until_seconds - growth.since_seconds <= self._longest_seconds[growth.until_seconds]:
                jobs, gpu_seconds = self._accepted.get(growth.until_seconds, (0, 0.0))
                self._accepted[growth.until_seconds] = (jobs + growth.jobs, gpu_seconds + growth.gpu_seconds)

    def list_steps(self) -> list[PastStep]:
        """Oldest first, without pauses."""
        return [
            PastStep(until, until - since, *self._accepted.get(until, (0, 0.0)))
            for since, until in pairwise(sorted(self._longest_seconds))
            if until - since <= self._longest_seconds[until]
        ]
