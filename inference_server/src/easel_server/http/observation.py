"""What the HTTP side counts; ``main`` wires it to the process's metrics."""

from enum import StrEnum
from typing import Protocol


class CacheResult(StrEnum):
    """Whether a request was answered from the result cache."""

    HIT = "hit"
    MISS = "miss"
    SHARED = "shared"  # an equal request was under way: both get its images
    BYPASS = "bypass"  # not looked up: no seed was given, the client or the configuration said no


class RequestMetrics(Protocol):
    """Counters of a gateway."""

    def count_request(self, route: str, code: int) -> None:
        """A request was answered; ``route`` is the template, never the path as sent."""
        ...

    def count_submitted(self) -> None:
        """A job was handed to the broker."""
        ...

    def count_predicted(self, gpu_seconds: float) -> None:
        """So much work was handed to the broker."""
        ...

    def count_cache(self, result: CacheResult) -> None:
        """A generation met the result cache."""
        ...

    def count_refusal(self, reason: str) -> None:
        """A request was refused; ``reason`` is the refusal's code."""
        ...

    def count_streams(self, change: int) -> None:
        """Event streams were opened (1) or closed (-1)."""
        ...
