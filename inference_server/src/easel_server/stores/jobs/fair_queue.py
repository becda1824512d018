"""Start-time fair queueing between owners, within strict priorities. Pure; ``lua/shared.lua`` is the same on Redis.

Each priority is a line of its own, with a virtual time. Of the owners that have work in the line, the one with the
smallest start tag is next, with its oldest entry; at equal tags, the one whose entry is older. Taking an entry moves
the virtual time to the start tag and the owner's tag on by gpu_seconds / weight. An owner that comes back after a pause
starts at the virtual time, so a pause earns nothing. https://doi.org/10.1109/90.649569

Tags belong to owners, not to entries: what leaves the line before its turn has never cost anything. An entry that is
put back after its turn goes before everybody and is not charged again; if it leaves then, its owner gets the charge
back.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from easel_contract.server_config import Priority

PRIORITIES: Final = (Priority.HIGH, Priority.NORMAL, Priority.LOW)  # in the order in which they are served
BATCH_OWNERS: Final = 16  # of these, from the first in line, entries are looked at that may share a batch,
BATCH_ENTRIES: Final = 16  # and this many of each
POSITION_OWNERS: Final = (
    100  # as many others are looked at one by one for a position; of those behind, no more is known
)
TURNS_DECIMALS: Final = 6  # beyond these, a difference is rounding


@dataclass(frozen=True, order=True)
class Entry:
    """Work that waits. Entries are ordered by their number, which is the order of submission."""

    number: int
    owner: str = field(compare=False)
    priority: Priority = field(compare=False)
    gpu_seconds: float = field(compare=False)
    weight: int = field(compare=False)
    batch_key: str = field(compare=False, default="")
    images: int = field(compare=False, default=1)

    @property
    def charge(self) -> float:
        """Virtual time that it takes."""
        return self.gpu_seconds / self.weight


@dataclass
class _Line:
    """The waiting work of one priority."""

    virtual_time: float = 0.0
    tags: dict[str, float] = field(default_factory=dict)  # where the next entry of an owner starts, if that is later
    queues: dict[str, list[Entry]] = field(default_factory=dict)  # by number; none is empty
    returned: list[Entry] = field(default_factory=list)  # had their turn before; by number

    def start_tag(self, owner: str) -> float:
        return max(self.virtual_time, self.tags.get(owner, 0.0))

    def owners(self) -> list[str]:
        """In the order of their turns."""
        return sorted(self.queues, key=lambda owner: (self.start_tag(owner), self.queues[owner][0].number))

    def next(self) -> Entry | None:
        if self.returned:
            return self.returned[0]
        if not self.queues:
            return None
        first = min(self.queues, key=lambda owner: (self.start_tag(owner), self.queues[owner][0].number))
        return self.queues[first][0]

    def charge(self, owner: str, amount: float) -> None:
        self.tags[owner] = self.start_tag(owner) + amount
        for name in [name for name, tag in self.tags.items() if tag <= self.virtual_time]:
            del self.tags[name]

    def drop(self, entry: Entry) -> bool:
        queue = self.queues.get(entry.owner, [])
        if not _remove(queue, entry):
            return False
        if not queue:
            del self.queues[entry.owner]
        return True

    def entries(self) -> Iterator[Entry]:
        yield from self.returned
        for queue in self.queues.values():
            yield from queue


@dataclass(frozen=True)
class Ahead:
    """What goes before an entry."""

    entries: int
    gpu_seconds: float

    def and_before(self, others: Iterable[Entry]) -> "Ahead":
        """These, and others."""
        work = [other.gpu_seconds for other in others]
        return Ahead(self.entries + len(work), self.gpu_seconds + sum(work))


class FairQueue:
    """Who is next. No method takes longer than it takes to look once at everything that waits."""

    def __init__(self) -> None:
        self._lines = {priority: _Line() for priority in PRIORITIES}
        self._entries: dict[int, Entry] = {}  # in no order

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def gpu_seconds(self) -> float:
        """Predicted, of all that waits."""
        return sum(entry.gpu_seconds for entry in self._entries.values())

    @property
    def oldest(self) -> int | None:
        """The smallest number that waits."""
        return min(self._entries, default=None)

    def add(self, entry: Entry) -> None:
        """Put new work in line."""
        insort(self._lines[entry.priority].queues.setdefault(entry.owner, []), entry)
        self._entries[entry.number] = entry

    def put_back(self, entry: Entry) -> None:
        """Put work that had its turn before all others of its priority."""
        insort(self._lines[entry.priority].returned, entry)
        self._entries[entry.number] = entry

    def next(self) -> Entry | None:
        """Whose turn it is; it stays in line."""
        for priority in PRIORITIES:
            entry = self._lines[priority].next()
            if entry is not None:
                return entry
        return None

    def take(self, entry: Entry) -> None:
        """Hand out an entry that waits. The virtual time moves only if it was its turn, not if it joins a batch."""
        line = self._lines[entry.priority]
        if _remove(line.returned, entry):
            del self._entries[entry.number]
            return
        if line.next() == entry:
            line.virtual_time = line.start_tag(entry.owner)
        line.drop(entry)
        line.charge(entry.owner, entry.charge)
        del self._entries[entry.number]

    def remove(self, entry: Entry) -> None:
        """Take out an entry that will not be run; what it was charged is given back."""
        line = self._lines[entry.priority]
        if _remove(line.returned, entry):
            line.charge(entry.owner, -entry.charge)
        else:
            line.drop(entry)
        self._entries.pop(entry.number, None)

    def reset(self) -> None:
        """Forget who had how much: nothing waits and nothing runs, which ends a busy period."""
        for priority in PRIORITIES:
            self._lines[priority] = _Line()

    def batch_candidates(self, first: Entry) -> list[Entry]:
        """Entries of the same priority and batch key that wait, in the order of their turns."""
        line = self._lines[first.priority]
        found = [(-1.0, entry) for entry in line.returned[:BATCH_ENTRIES]]
        for owner in line.owners()[:BATCH_OWNERS]:
            tag = line.start_tag(owner)
            for entry in islice(line.queues[owner], BATCH_ENTRIES):
                found.append((tag, entry))
                tag += entry.charge
        return [entry for _, entry in sorted(found) if entry.batch_key == first.batch_key and entry != first]

    def ahead_of(self, entry: Entry) -> Ahead:
        """What goes before an entry that waits, as things stand.

        Exact if each owner's entries take equally long; else an owner's work counts as evenly spread over its entries.
        """
        higher = self._higher_than(entry.priority)
        line = self._lines[entry.priority]
        if entry in line.returned:
            return higher.and_before(line.returned[: line.returned.index(entry)])
        rank = bisect_left(line.queues[entry.owner], entry)
        return _ahead_in_line(line, entry, rank, higher.and_before(line.returned))

    def ahead_of_next(self, entry: Entry) -> Ahead:
        """What would go before an entry that came next, whose number is larger than any other."""
        line = self._lines[entry.priority]
        rank = len(line.queues.get(entry.owner, ()))
        return _ahead_in_line(line, entry, rank, self._higher_than(entry.priority).and_before(line.returned))

    def _higher_than(self, priority: Priority) -> Ahead:
        ahead = Ahead(0, 0.0)
        for higher in PRIORITIES[: PRIORITIES.index(priority)]:
            ahead = ahead.and_before(self._lines[higher].entries())
        return ahead


def _ahead_in_line(line: _Line, entry: Entry, rank: int, ahead: Ahead) -> Ahead:
    """What goes before the entry at this rank of its owner's queue, besides what is known to be ahead of it."""
    own = line.queues.get(entry.owner, [])
    own_seconds = sum(other.gpu_seconds for other in own) * rank / len(own) if own else 0.0
    count, gpu_seconds = ahead.entries + rank, ahead.gpu_seconds + own_seconds
    tag = line.start_tag(entry.owner) + own_seconds / entry.weight
    for owner in line.owners()[:POSITION_OWNERS]:
        queue = line.queues[owner]
        mean = sum(other.gpu_seconds for other in queue) / len(queue)
        # When that owner's entry number i starts, in i.
        turns = round((tag - line.start_tag(owner)) * queue[0].weight / mean, TURNS_DECIMALS)
        if owner == entry.owner or turns < 0:
            continue
        before = min(len(queue), math.ceil(turns))
        if before == turns < len(queue) and queue[before] < entry:  # at an equal tag, the older one
            before += 1
        count, gpu_seconds = count + before, gpu_seconds + before * mean
    return Ahead(count, gpu_seconds)


def _remove(entries: list[Entry], entry: Entry) -> bool:
    index = bisect_left(entries, entry)
    if index == len(entries) or entries[index] != entry:
        return False
    del entries[index]
    return True
