"""What was found damaged where a service keeps its state, and dropped so that the rest goes on. No I/O lives here."""

import logging
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Final

logger = logging.getLogger(__name__)

# A rate needs a zero to start from.
KINDS: Final = (
    "cache",
    "delivery",
    "field",
    "file",
    "inputs",
    "job",
    "key",
    "objects",
    "place",
    "run",
    "script",
    "webhook",
)
REMEMBERED: Final = 1000  # records, so that each is logged once


class DroppedRecords:
    """Counts them by kind, for the metrics, and logs each once."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()

    @property
    def counts(self) -> Mapping[str, int]:
        """How many of each kind, by this process."""
        return self._counts

    def note(self, kind: str, name: str, reason: str = "it is gone or not what it should be") -> None:
        """A record is left out from now on; ``name`` says which, without what it holds."""
        if (kind, name) in self._seen:
            return
        self._seen[kind, name] = None
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        self._counts[kind] += 1
        logger.error("a stored record was dropped, everything else goes on: %s %s: %s", kind, name, reason)
