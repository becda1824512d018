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

Which of its entries an owner's turn takes: the oldest while it can still finish within its target (``start_by``), and
once it has been overtaken for as long as it may be (``first_from``); until then the oldest that can still finish in
time, if there is one. So work that is late anyway makes nobody behind it late, and waits for a bounded time. An entry
is overtaken no more once it has waited that long, and those before it, though their bounds be longer, go then too. What
costs whom how much is the same either way.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from easel_contract.server_config import Priority

from easel_server.stores.jobs.interface import QueuePosition

PRIORITIES: Final = (Priority.HIGH, Priority.NORMAL, Priority.LOW)  # in the order in which they are served
BATCH_OWNERS: Final = 16  # of these, from the first in the schedule, entries are looked at that may share a batch,
BATCH_ENTRIES: Final = 16  # and this many of each
LATE_ENTRIES: Final = 500  # are passed at the most by one look for a timely entry; if there is none, the oldest goes
POSITION_OWNERS: Final = 100  # others that are looked at one by one for a position; of those behind, no more is known
RANK_DECIMALS: Final = 6  # beyond these, a difference is rounding
ANY_MODEL: Final = ""  # of work that anybody may take
LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


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
    start_by: datetime | None = field(compare=False, default=None)  # None: first come first served
    first_from: datetime = field(compare=False, default=LONG_AGO)

    @property
    def charge(self) -> float:
        """Virtual time that it takes."""
        return self.gpu_seconds / self.weight

    def is_timely(self, now: datetime) -> bool:
        """Whether it has a target, and can still finish within it."""
        return self.start_by is not None and now <= self.start_by


@dataclass
class _Schedule:
    """The waiting work of one priority and model."""

    virtual_time: float = 0.0
    tags: dict[str, float] = field(default_factory=dict)  # where the next entry of an owner starts, if that is later
    queues: dict[str, list[Entry]] = field(default_factory=dict)  # by number; none is empty
    released: list[Entry] = field(default_factory=list)  # were taken before; by number
    # An owner's entry whose bound is over first; from then on those before it are overtaken no more, either.
    bounds: dict[str, Entry] = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=dict)  # none of an owner's entries up to this number is timely

    def start_tag(self, owner: str) -> float:
        return max(self.virtual_time, self.tags.get(owner, 0.0))

    def owners(self) -> list[str]:
        """In schedule order."""
        return sorted(self.queues, key=lambda owner: (self.start_tag(owner), self.queues[owner][0].number))

    def next(self) -> tuple[float, Entry] | None:
        """The oldest entry of whose turn it is, and how far ahead of the virtual time it is."""
        if self.released:
            return -math.inf, self.released[0]
        if not self.queues:
            return None
        first = min(self.queues, key=lambda owner: (self.start_tag(owner), self.queues[owner][0].number))
        return self.start_tag(first) - self.virtual_time, self.queues[first][0]

    def pick(self, oldest: Entry, now: datetime) -> Entry:
        """What a turn takes if this is next: the entry itself, or another one of its owner."""
        if self.released or not self._is_overtaken(oldest, now):
            return oldest
        for entry in islice(self._after_late(oldest.owner), LATE_ENTRIES):
            if entry.is_timely(now):
                return entry
            self.late[oldest.owner] = entry.number
        return oldest

    def in_turn(self, owner: str, now: datetime) -> list[Entry]:
        """Of an owner's entries those that turns would take first; BATCH_ENTRIES of them, and of its timely ones."""
        oldest = self.queues[owner][:BATCH_ENTRIES]
        overtaken = next((index for index, entry in enumerate(oldest) if self._is_overtaken(entry, now)), len(oldest))
        first, rest = oldest[:overtaken], oldest[overtaken:]
        if not rest:
            return first
        behind = (entry for entry in self._after_late(owner) if entry >= rest[0])
        timely = [entry for entry in islice(behind, BATCH_ENTRIES) if entry.is_timely(now)]
        return [*first, *timely, *(entry for entry in rest if entry not in timely)][:BATCH_ENTRIES]

    def _after_late(self, owner: str) -> Iterator[Entry]:
        """An owner's entries behind those that are known not to be timely."""
        queue = self.queues[owner]
        return islice(queue, bisect_right(queue, self.late.get(owner, 0), key=lambda entry: entry.number), None)

    def _is_overtaken(self, entry: Entry, now: datetime) -> bool:
        """Whether later entries of its owner that are timely go before it."""
        if entry.start_by is None or not entry.start_by < now < entry.first_from:
            return False
        soonest = self.bounds.get(entry.owner)
        return soonest is None or soonest < entry or now < soonest.first_from

    def add(self, entry: Entry) -> None:
        queue = self.queues.setdefault(entry.owner, [])
        insort(queue, entry)
        self.look_again(entry)
        if entry.start_by is None or queue[0] == entry:
            return
        soonest = self.bounds.get(entry.owner)
        if soonest is None or soonest < queue[0] or (soonest < entry and entry.first_from <= soonest.first_from):
            self.bounds[entry.owner] = entry

    def count_before(self, entry: Entry, now: datetime) -> int:
        """How many of its owner's entries its turns would take before this one of them, or one that comes next.

        First come those that have waited for their bound, then those that are timely, then the others. With equal terms
        each kind stands together: first the first, then the others, then the timely ones.
        """
        queue = self.queues.get(entry.owner, [])
        rank = bisect_left(queue, entry)
        if entry.start_by is None or (entry.is_timely(now) and (rank == 0 or queue[0].is_timely(now))):
            return rank
        waited = bisect_left(queue, 1, key=lambda other: now < other.first_from)
        soonest = self.bounds.get(entry.owner)
        if soonest is not None and soonest.first_from <= now:
            waited = max(waited, bisect_right(queue, soonest))
        if rank < waited:
            return rank
        timely = bisect_left(queue, 1, lo=waited, key=lambda other: other.is_timely(now))
        if entry.is_timely(now):
            return waited + max(0, rank - timely)
        return rank + max(0, len(queue) - max(timely, rank + 1))

    def look_again(self, entry: Entry) -> None:
        """Forget that an entry isn't timely."""
        if self.late.get(entry.owner, 0) >= entry.number:
            self.late[entry.owner] = entry.number - 1

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
            self.late.pop(entry.owner, None)
            self.bounds.pop(entry.owner, None)
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
        self._schedule_of(entry).add(entry)
        self._entries[entry.number] = entry

    def release(self, entry: Entry) -> None:
        """Schedule work that had been taken ahead of all else of its priority and model."""
        insort(self._schedule_of(entry).released, entry)
        self._entries[entry.number] = entry

    def extend(self, entry: Entry, start_by: datetime) -> Entry:
        """Let an entry that waits start later; the entry as it is now."""
        schedule, extended = self._schedule_of(entry), replace(entry, start_by=start_by)
        for entries in (schedule.released, schedule.queues.get(entry.owner, [])):
            if _remove(entries, entry):
                insort(entries, extended)
        schedule.look_again(extended)
        self._entries[entry.number] = extended
        return extended

    def next(self, now: datetime, models: Iterable[str] = ()) -> Entry | None:
        """What is next for who holds these models; it stays in the schedule."""
        held = {*models, ANY_MODEL}
        for priority in PRIORITIES:
            schedules = [self._schedules[priority, model] for model in held if (priority, model) in self._schedules]
            first = min(filter(None, (schedule.next() for schedule in schedules)), default=None)
            if first is not None:
                return self._schedule_of(first[1]).pick(first[1], now)
        return None

    def take(self, entry: Entry, *, in_turn: bool = True) -> None:
        """Take an entry that waits. The virtual time moves only if its owner's turn took it, not if it joins a batch
        out of turn.
        """
        schedule = self._schedule_of(entry)
        if _remove(schedule.released, entry):
            del self._entries[entry.number]
            return
        if in_turn or ((first := schedule.next()) is not None and first[1] == entry):
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

    def batch_candidates(self, first: Entry, now: datetime) -> list[Entry]:
        """Entries of the same priority, model and batch key that wait, in schedule order."""
        schedule = self._schedule_of(first)
        found = [(-1.0, entry) for entry in schedule.released[:BATCH_ENTRIES]]
        for owner in schedule.owners()[:BATCH_OWNERS]:
            tag = schedule.start_tag(owner)
            for entry in schedule.in_turn(owner, now):
                found.append((tag, entry))
                tag += entry.charge
        return [entry for _, entry in sorted(found) if entry.batch_key == first.batch_key and entry != first]

    def position(self, entry: Entry, now: datetime) -> QueuePosition:
        """What goes before an entry that waits, as things stand: all work of higher priorities, and its own model's.

        Exact if each owner's entries take equally long and have equal terms; else an owner's work counts as evenly
        spread over its entries, and those that came before a timely one as late.
        """
        before = self._before(entry.priority)
        schedule = self._schedule_of(entry)
        if entry in schedule.released:
            return _add(before, schedule.released[: schedule.released.index(entry)])
        rank = schedule.count_before(entry, now)
        return _position_in(schedule, entry, rank, _add(before, schedule.released))

    def next_position(self, entry: Entry, now: datetime) -> QueuePosition:
        """What would go before an entry that came next, whose number is larger than any other."""
        schedule = self._schedule_of(entry)
        rank = schedule.count_before(entry, now)
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
    """What goes before the entry, before which so many of its owner's go, besides what is known to go before it."""
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
