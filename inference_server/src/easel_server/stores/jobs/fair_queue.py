"""Start-time fair queueing between owners, within strict priorities. Pure; ``lua/queue.lua`` is the same on Redis.

Each priority has a schedule for each model, with a virtual time. Of the owners that have work in it, the one with the
smallest start tag is next, with its oldest entry; at equal tags, the one whose entry is older. Taking an entry moves
the virtual time to the start tag and the owner's tag on by gpu_seconds / weight. An owner that comes back after a pause
starts at the virtual time, so a pause earns nothing. https://doi.org/10.1109/90.649569

Tags belong to owners, not to entries: what leaves the schedule before it was next has never cost anything. An entry
that is released after it was taken goes before everybody and is not charged again; if it leaves then, its owner's
charge is refunded.

Models have schedules of their own since they have workers of their own: those of one may be far behind those of
another, and no virtual time suits both. Who holds several models takes, of their first entries, the one that is least
ahead of its schedule's virtual time, and the oldest of those. Work for no model in particular may be taken by anybody.
"""

import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from easel_contract.server_config import Priority

from easel_server.stores.jobs.interface import QueuePosition

PRIORITIES: Final = (Priority.HIGH, Priority.NORMAL, Priority.LOW)  # in the order in which they are served
BATCH_OWNERS: Final = 16  # of these, from the first in the schedule, entries are looked at that may share a batch,
BATCH_ENTRIES: Final = 16  # and this many of each
POSITION_OWNERS: Final = 100  # others that are looked at one by one for a position; of those behind, no more is known
RANK_DECIMALS: Final = 6  # beyond these, a difference is rounding
ANY_MODEL: Final = ""  # of work that anybody may take


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
    model: str = field(compare=False, default=ANY_MODEL)

    @property
    def charge(self) -> float:
        """Virtual time that it takes."""
        return self.gpu_seconds / self.weight


@dataclass
class _Schedule:
    """The waiting work of one priority and model."""

    virtual_time: float = 0.0
    tags: dict[str, float] = field(default_factory=dict)  # where the next entry of an owner starts, if that is later
    queues: dict[str, list[Entry]] = field(default_factory=dict)  # by number; none is empty
    released: list[Entry] = field(default_factory=list)  # were taken before; by number

    def start_tag(self, owner: str) -> float:
        return max(self.virtual_time, self.tags.get(owner, 0.0))

    def owners(self) -> list[str]:
        """In schedule order."""
        return sorted(self.queues, key=lambda owner: (self.start_tag(owner), self.queues[owner][0].number))

    def next(self) -> tuple[float, Entry] | None:
        """What is next, and how far ahead of the virtual time it is."""
        if self.released:
            return -math.inf, self.released[0]
        if not self.queues:
            return None
        first = min(self.queues, key=lambda owner: (self.start_tag(owner), self.queues[owner][0].number))
        return self.start_tag(first) - self.virtual_time, self.queues[first][0]

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
        yield from self.released
        for queue in self.queues.values():
            yield from queue


class FairQueue:
    """Who is next. No method takes longer than it takes to look once at everything that waits."""

    def __init__(self) -> None:
        self._schedules: dict[tuple[Priority, str], _Schedule] = defaultdict(_Schedule)
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
        """Schedule new work."""
        insort(self._schedule_of(entry).queues.setdefault(entry.owner, []), entry)
        self._entries[entry.number] = entry

    def release(self, entry: Entry) -> None:
        """Schedule work that had been taken ahead of all else of its priority and model."""
        insort(self._schedule_of(entry).released, entry)
        self._entries[entry.number] = entry

    def next(self, models: Iterable[str] = ()) -> Entry | None:
        """What is next for who holds these models; it stays in the schedule."""
        held = {*models, ANY_MODEL}
        for priority in PRIORITIES:
            schedules = [self._schedules[priority, model] for model in held if (priority, model) in self._schedules]
            first = min(filter(None, (schedule.next() for schedule in schedules)), default=None)
            if first is not None:
                return first[1]
        return None

    def take(self, entry: Entry) -> None:
        """Take an entry that waits. The virtual time moves only if it was next, not if it joins a batch."""
        schedule = self._schedule_of(entry)
        if _remove(schedule.released, entry):
            del self._entries[entry.number]
            return
        first = schedule.next()
        if first is not None and first[1] == entry:
            schedule.virtual_time = schedule.start_tag(entry.owner)
        schedule.drop(entry)
        schedule.charge(entry.owner, entry.charge)
        del self._entries[entry.number]

    def remove(self, entry: Entry) -> None:
        """Remove an entry that will not be run; what it was charged is refunded."""
        schedule = self._schedule_of(entry)
        if _remove(schedule.released, entry):
            schedule.charge(entry.owner, -entry.charge)
        else:
            schedule.drop(entry)
        self._entries.pop(entry.number, None)

    def reset(self) -> None:
        """Forget who had how much: nothing waits and nothing runs, which ends a busy period."""
        self._schedules.clear()

    def batch_candidates(self, first: Entry) -> list[Entry]:
        """Entries of the same priority, model and batch key that wait, in schedule order."""
        schedule = self._schedule_of(first)
        found = [(-1.0, entry) for entry in schedule.released[:BATCH_ENTRIES]]
        for owner in schedule.owners()[:BATCH_OWNERS]:
            tag = schedule.start_tag(owner)
            for entry in islice(schedule.queues[owner], BATCH_ENTRIES):
                found.append((tag, entry))
                tag += entry.charge
        return [entry for _, entry in sorted(found) if entry.batch_key == first.batch_key and entry != first]

    def position(self, entry: Entry) -> QueuePosition:
        """What goes before an entry that waits, as things stand: all work of higher priorities, and its own model's.

        Exact if each owner's entries take equally long; else an owner's work counts as evenly spread over its entries.
        """
        before = self._before(entry.priority)
        schedule = self._schedule_of(entry)
        if entry in schedule.released:
            return _add(before, schedule.released[: schedule.released.index(entry)])
        rank = bisect_left(schedule.queues[entry.owner], entry)
        return _position_in(schedule, entry, rank, _add(before, schedule.released))

    def next_position(self, entry: Entry) -> QueuePosition:
        """What would go before an entry that came next, whose number is larger than any other."""
        schedule = self._schedule_of(entry)
        rank = len(schedule.queues.get(entry.owner, ()))
        return _position_in(schedule, entry, rank, _add(self._before(entry.priority), schedule.released))

    def count_waiting(self, owner: str, model: str) -> int:
        """An owner's entries for the model, or for none; without released ones, which had their place before."""
        schedules = [self._schedules[key] for key in self._schedules if key[1] in {model, ANY_MODEL}]
        return sum(len(schedule.queues.get(owner, ())) for schedule in schedules)

    def count_places(self, entry: Entry) -> int:
        """How many owners, and released entries, are in the schedule that the entry would be in."""
        schedule = self._schedule_of(entry)
        return len(schedule.queues) + len(schedule.released)

    def of_model(self, model: str) -> list[Entry]:
        """All that waits for this model, the oldest first."""
        schedules = (
            self._schedules[priority, model] for priority in PRIORITIES if (priority, model) in self._schedules
        )
        return sorted(entry for schedule in schedules for entry in schedule.entries())

    def forget(self, model: str) -> None:
        """Forget who had how much of a model for which nothing waits."""
        for priority in PRIORITIES:
            self._schedules.pop((priority, model), None)

    def _schedule_of(self, entry: Entry) -> _Schedule:
        return self._schedules[entry.priority, entry.model]

    def _before(self, priority: Priority) -> QueuePosition:
        """All that waits with a higher priority, whatever its model."""
        position = QueuePosition(0, 0.0)
        higher = PRIORITIES[: PRIORITIES.index(priority)]
        for (other, _), schedule in self._schedules.items():
            if other in higher:
                position = _add(position, schedule.entries())
        return position


def _position_in(schedule: _Schedule, entry: Entry, rank: int, before: QueuePosition) -> QueuePosition:
    """What goes before the entry at this rank of its owner's queue, besides what is known to go before it."""
    own = schedule.queues.get(entry.owner, [])
    own_seconds = sum(other.gpu_seconds for other in own) * rank / len(own) if own else 0.0
    count, gpu_seconds = before.jobs_ahead + rank, before.gpu_seconds_ahead + own_seconds
    tag = schedule.start_tag(entry.owner) + own_seconds / entry.weight
    for owner in schedule.owners()[:POSITION_OWNERS]:
        queue = schedule.queues[owner]
        mean = sum(other.gpu_seconds for other in queue) / len(queue)
        # How many of that owner's entries start before the tag, with a fraction.
        starts = round((tag - schedule.start_tag(owner)) * queue[0].weight / mean, RANK_DECIMALS)
        if owner == entry.owner or starts < 0:
            continue
        earlier = min(len(queue), math.ceil(starts))
        if earlier == starts < len(queue) and queue[earlier] < entry:  # at an equal tag, the older one
            earlier += 1
        count, gpu_seconds = count + earlier, gpu_seconds + earlier * mean
    return QueuePosition(count, gpu_seconds)


def _add(position: QueuePosition, entries: Iterable[Entry]) -> QueuePosition:
    work = [entry.gpu_seconds for entry in entries]
    return QueuePosition(position.jobs_ahead + len(work), position.gpu_seconds_ahead + sum(work))


def _remove(entries: list[Entry], entry: Entry) -> bool:
    index = bisect_left(entries, entry)
    if index == len(entries) or entries[index] != entry:
        return False
    del entries[index]
    return True
