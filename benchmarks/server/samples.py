"""Median and spread of repeated measurements. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Summary:
    """Of one figure over several rounds."""

    median: float
    lowest: float
    highest: float
    rounds: int

    def to_record(self, digits: int = 3) -> dict[str, Any]:
        """As it stands in the result file."""
        return {
            "median": round(self.median, digits),
            "lowest": round(self.lowest, digits),
            "highest": round(self.highest, digits),
            "rounds": self.rounds,
        }


def summarize(samples: Sequence[float]) -> Summary:
    """Median, lowest and highest."""
    return Summary(median(samples), min(samples), max(samples), len(samples))


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
