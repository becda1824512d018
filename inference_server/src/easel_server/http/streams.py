"""Bounds the event streams that one gateway holds open."""

from collections.abc import Iterator
from contextlib import contextmanager

from easel_server.http.observation import RequestMetrics
from easel_server.http.refusals import refuse_for_streams


class Streams:
    """Counts them."""

    def __init__(self, bound: int, metrics: RequestMetrics) -> None:
        self._bound = bound
        self._metrics = metrics
        self._open = 0

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold one open for as long as the block lasts. Raises RefusalError (429) if as many are open as may be."""
        if self._open >= self._bound:
            raise refuse_for_streams(self._bound)
        self._open += 1
        self._metrics.count_streams(1)
        try:
            yield
        finally:
            self._open -= 1
            self._metrics.count_streams(-1)
