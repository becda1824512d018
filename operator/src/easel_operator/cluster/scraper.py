"""Reads /metrics of pods, many at once, each bounded by a time-out, so that one dead pod doesn't blind the rest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from easel_contract import names

from easel_operator.autoscaling.observation import PodSample


@dataclass(frozen=True, slots=True)
class ScrapeTarget:
    """A pod to read."""

    pod_name: str
    component: str  # names.COMPONENT_GATEWAY or names.COMPONENT_WORKER
    address: str  # the pod's IP, v4 or v6
    port: int = names.HTTP_PORT


class Scraper:
    """Scrapes pods. Use it as an async context manager, or call close()."""

    def __init__(self, *, timeout_seconds: float, clock: Callable[[], datetime]) -> None: ...

    async def scrape(self, targets: Sequence[ScrapeTarget]) -> tuple[PodSample, ...]:
        """One sample for each target, in their order. A failure is a sample with an error, never an exception."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close the connections."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
