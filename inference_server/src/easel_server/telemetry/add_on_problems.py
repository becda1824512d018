"""Which add-ons can't be used, as this worker found last: a metric, from which the operator makes a condition.

Two find it: jobs that ask for an add-on and don't get it, and a look at what lies on volumes, ahead of any job.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from easel_contract import metrics as contract
from easel_contract.add_ons import AddOnConfig
from easel_contract.conditions import shorten
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

MAX_PROBLEMS: Final = 64  # whoever reads more of them looks at the volume
MAX_MESSAGE_BYTES: Final = 400
KEEP_SECONDS: Final = 3600.0  # what a job met so long ago may be mended by now, and nobody has asked since


@dataclass(frozen=True)
class AddOnProblem:
    """Of one add-on."""

    name: str  # as clients say it
    key: str  # of its configured source: one that was corrected has another
    message: str


class AddOnProblems(Collector):
    """Of one worker. In any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._met: dict[str, tuple[AddOnProblem, float]] = {}  # by key: by a job, and when
        self._missing: Mapping[str, AddOnProblem] = {}  # by key: on a volume

    def note_met(self, add_on: AddOnConfig, message: str) -> None:
        """A job asked for it, and couldn't have it."""
        problem = _describe(add_on, message)
        with self._lock:
            self._met.pop(add_on.key, None)
            self._met[add_on.key] = problem, self._clock()
            if len(self._met) > MAX_PROBLEMS:
                del self._met[next(iter(self._met))]

    def note_usable(self, add_on: AddOnConfig) -> None:
        """A job has it."""
        with self._lock:
            self._met.pop(add_on.key, None)

    def set_missing(self, found: Mapping[AddOnConfig, str]) -> list[AddOnProblem]:
        """All that isn't where it should be on volumes, with the reason; which of it is news."""
        missing = {add_on.key: _describe(add_on, message) for add_on, message in found.items()}
        with self._lock:
            news = [problem for key, problem in missing.items() if self._missing.get(key) != problem]
            self._missing = missing
        return news

    def list_problems(self) -> list[AddOnProblem]:
        """Those that are known now, the first by name."""
        since = self._clock() - KEEP_SECONDS
        with self._lock:
            met = {key: problem for key, (problem, at) in self._met.items() if at >= since}
            found = {**met, **self._missing}
        return sorted(found.values(), key=lambda each: (each.name, each.key))[:MAX_PROBLEMS]

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks."""
        gauge = GaugeMetricFamily(
            contract.ADD_ON_UNAVAILABLE,
            "Add-ons that requests can't have on this worker, and why; always 1.",
            labels=[contract.LABEL_NAME, contract.LABEL_KEY, contract.LABEL_MESSAGE],
        )
        for each in self.list_problems():
            gauge.add_metric([each.name, each.key, each.message], 1)
        yield gauge


def _describe(add_on: AddOnConfig, message: str) -> AddOnProblem:
    return AddOnProblem(add_on.name, add_on.key, shorten(" ".join(message.split()), MAX_MESSAGE_BYTES))
