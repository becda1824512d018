"""Properties of the fair queue, over all histories that hypothesis finds."""

import math
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import pytest
from easel_contract.server_config import Priority
from easel_server.stores.jobs.fair_queue import PRIORITIES, Entry, FairQueue
from hypothesis import given
from hypothesis import strategies as st

WEIGHTS = st.integers(min_value=1, max_value=10)
GPU_SECONDS = st.floats(min_value=0.01, max_value=100, allow_nan=False)
OWNERS = st.sampled_from(["ann", "bob", "cleo"])
ROUNDING = 1e-6
NOW = datetime(2026, 11, 27, tzinfo=UTC)


def build_entry(number: int, owner: str, gpu_seconds: float, weight: int, priority: Priority) -> Entry:
    return Entry(number, owner, priority, gpu_seconds, weight)


def with_terms(entry: Entry, now: datetime, start_within: float | None, overtaken_within: float) -> Entry:
    if start_within is None:
        return entry
    start_by, first_from = (now + timedelta(seconds=seconds) for seconds in (start_within, overtaken_within))
    return replace(entry, start_by=start_by, first_from=first_from)


@given(
    weights=st.lists(WEIGHTS, min_size=2, max_size=5),
    sizes=st.lists(GPU_SECONDS, min_size=1, max_size=60),
    start_within=st.lists(st.none() | st.sampled_from([-1.0, 1.0]), min_size=1, max_size=60),
)
def test_owners_that_always_wait_get_their_weighted_shares_but_for_one_largest_job(
    weights: list[int], sizes: list[float], start_within: list[float | None]
) -> None:
    """The bound of start-time fair queueing: theorem 1 of https://doi.org/10.1109/90.649569. Whoever is late or not."""
    queue = FairQueue()
    served: dict[int, float] = defaultdict(float)
    number = 0

    def refill(owner: int) -> None:
        nonlocal number
        number += 1
        gpu_seconds = sizes[number % len(sizes)]
        entry = build_entry(number, str(owner), gpu_seconds, weights[owner], Priority.NORMAL)
        queue.add(with_terms(entry, NOW, start_within[number % len(start_within)], 10.0))

    for owner in range(len(weights)):
        for _ in range(4):
            refill(owner)
    for _ in range(100):
        entry = queue.next(NOW)
        assert entry is not None
        queue.take(entry)
        served[int(entry.owner)] += entry.gpu_seconds / weights[int(entry.owner)]
        refill(int(entry.owner))
        for one, other in combinations(range(len(weights)), 2):
            bound = max(sizes) / weights[one] + max(sizes) / weights[other]
            assert abs(served[one] - served[other]) <= bound + ROUNDING


@given(
    crowd=st.lists(GPU_SECONDS, min_size=30, max_size=60),
    taken_before=st.integers(min_value=0, max_value=25),
    weights=st.tuples(WEIGHTS, WEIGHTS),
    single=GPU_SECONDS,
)
def test_a_newcomer_waits_for_one_job_at_the_most(
    crowd: list[float], taken_before: int, weights: tuple[int, int], single: float
) -> None:
    queue = FairQueue()
    for number, gpu_seconds in enumerate(crowd):
        queue.add(build_entry(number, "crowd", gpu_seconds, weights[0], Priority.NORMAL))
    for _ in range(taken_before):
        entry = queue.next(NOW)
        assert entry is not None
        queue.take(entry)
    queue.add(build_entry(1000, "newcomer", single, weights[1], Priority.NORMAL))
    owners = []
    for _ in range(2):
        entry = queue.next(NOW)
        assert entry is not None
        queue.take(entry)
        owners.append(entry.owner)
    assert "newcomer" in owners


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "take", "release", "remove"]),
        OWNERS,
        GPU_SECONDS,
        st.sampled_from(PRIORITIES),
        st.integers(min_value=0, max_value=10**6),
    ),
    max_size=80,
)


@given(OPERATIONS)
def test_nothing_is_lost_and_each_owner_s_work_keeps_its_order(
    operations: list[tuple[str, str, float, Priority, int]],
) -> None:
    """Against a plain model: the set of what waits."""
    queue = FairQueue()
    waiting: dict[int, Entry] = {}
    taken: list[Entry] = []
    released: set[int] = set()
    for number, (operation, owner, gpu_seconds, priority, choice) in enumerate(operations):
        if operation == "add":
            entry = build_entry(number, owner, gpu_seconds, 1, priority)
            queue.add(entry)
            waiting[number] = entry
        elif operation == "take" and waiting:
            first = queue.next(NOW)
            assert first is not None
            rivals = [entry for entry in waiting.values() if entry.owner == first.owner or first.number in released]
            assert first == min(
                (entry for entry in rivals if (entry.number in released) == (first.number in released)),
                key=lambda entry: (PRIORITIES.index(entry.priority), entry.number),
            )
            queue.take(first)
            del waiting[first.number]
            released.discard(first.number)
            taken.append(first)
        elif operation == "release" and taken:
            entry = taken.pop(choice % len(taken))
            queue.release(entry)
            waiting[entry.number] = entry
            released.add(entry.number)
        elif operation == "remove" and waiting:
            entry = waiting.pop(sorted(waiting)[choice % len(waiting)])
            released.discard(entry.number)
            queue.remove(entry)
        assert len(queue) == len(waiting)
        assert queue.oldest == min(waiting, default=None)
        for entry in waiting.values():
            assert 0 <= queue.position(entry, NOW).jobs_ahead < len(waiting)
    while (first := queue.next(NOW)) is not None:
        queue.take(first)
        del waiting[first.number]
    assert not waiting


@given(OPERATIONS)
def test_canceled_work_costs_nothing(operations: list[tuple[str, str, float, Priority, int]]) -> None:
    """Two histories that differ only in work that was added and removed again give the same order."""
    plain, with_canceled = FairQueue(), FairQueue()
    canceled = []
    for number, (operation, owner, gpu_seconds, priority, _) in enumerate(operations):
        entry = build_entry(number, owner, gpu_seconds, 1, priority)
        if operation == "add":
            plain.add(entry)
        else:
            canceled.append(entry)
        with_canceled.add(entry)
    for entry in canceled:
        with_canceled.remove(entry)
    while (first := plain.next(NOW)) is not None:
        assert with_canceled.next(NOW) == first
        plain.take(first)
        with_canceled.take(first)
    assert len(with_canceled) == 0


OPERATION_NAMES = ("add", "add", "add", "take", "take", "take_batch", "release", "remove", "extend")
HISTORIES, STEPS = 40, 150


class TimedHistory:
    """A queue, and a plain model beside it: what waits, what was taken, and what of that was released."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.queue, self.now = FairQueue(), NOW
        self.waiting: dict[int, Entry] = {}
        self._taken: list[Entry] = []
        self._released: set[int] = set()
        self._bounds = bounds
        self._all: list[Entry] = []
        self.overtook = 0

    def add(self, owner: str, priority: Priority, start_within: float | None, _: int) -> None:
        number = len(self._all) + 1
        entry = build_entry(number, owner, 1.0, 1, priority)
        entry = with_terms(entry, self.now, start_within, self._bounds[number % len(self._bounds)])
        self._all.append(entry)
        self.queue.add(entry)
        self.waiting[entry.number] = entry

    def take(self, *_: object, along: int = 0) -> None:
        entry = self.queue.next(self.now)
        if entry is None:
            return
        assert self.queue.next(self.now) == entry, "who looks takes nothing"
        if entry.number not in self._released:
            self._expect_next(entry)
        others = self.queue.batch_candidates(entry, self.now)[:along]
        self.queue.take(entry)
        for other in others:
            self.queue.take(other, in_turn=False)
        for each in (entry, *others):
            self._taken.append(self.waiting.pop(each.number))
            self._released.discard(each.number)

    def take_batch(self, *_: object) -> None:
        self.take(along=1)

    def _expect_next(self, entry: Entry) -> None:
        """Nobody is overtaken who is in time or has waited for the bound, and who overtakes is the oldest in time."""
        own = [
            other
            for number, other in sorted(self.waiting.items())
            if number not in self._released and (other.owner, other.priority) == (entry.owner, entry.priority)
        ]
        oldest, overtaken = own[0], [other for other in own if other < entry]
        if overtaken:
            self.overtook += 1
            assert entry.is_timely(self.now)
            assert oldest.start_by is not None, "it is served as it came"
            assert self.now < oldest.first_from
            assert not any(other.is_timely(self.now) for other in overtaken)
            if len(self._bounds) == 1:
                assert all(self.now < other.first_from for other in overtaken if other.start_by is not None)
        elif entry.start_by is not None and entry.start_by < self.now < self._bound_of(entry):
            assert not any(other.is_timely(self.now) for other in own)

    def _bound_of(self, entry: Entry) -> datetime:
        """When it is overtaken no more: by its own bound, or by one that came later and is shorter."""
        return min(
            each.first_from
            for each in self._all
            if each >= entry
            and (each.owner, each.priority) == (entry.owner, entry.priority)
            and each.start_by is not None
        )

    def release(self, *arguments: Any) -> None:
        if self._taken:
            entry = self._taken.pop(arguments[-1] % len(self._taken))
            self.queue.release(entry)
            self.waiting[entry.number] = entry
            self._released.add(entry.number)

    def remove(self, *arguments: Any) -> None:
        if self.waiting:
            entry = self.waiting.pop(self._choose(arguments[-1]))
            self._released.discard(entry.number)
            self.queue.remove(entry)

    def extend(self, *arguments: Any) -> None:
        entry = self.waiting[self._choose(arguments[-1])] if self.waiting else None
        if entry is not None and entry.start_by is not None:
            later = max(entry.start_by, self.now + timedelta(seconds=2))
            self.waiting[entry.number] = self.queue.extend(entry, later)

    def _choose(self, choice: int) -> int:
        return sorted(self.waiting)[choice % len(self.waiting)]


@pytest.mark.parametrize("bounds", [(0.0,), (4.0,), (20.0,), (3.0, 20.0)], ids=str)
def test_nobody_is_overtaken_who_is_in_time_or_has_waited_for_the_bound(bounds: tuple[float, ...]) -> None:
    """By a later one of the same owner and priority, in any history. Where bounds differ, by that of the oldest."""
    overtook = 0
    for seed in range(HISTORIES):
        chance, history = random.Random(seed), TimedHistory(bounds)  # noqa: S311
        for step in range(STEPS):
            history.now += timedelta(seconds=chance.choice((0.0, 0.0, 0.5, 1.0)))
            operation = getattr(history, chance.choice(OPERATION_NAMES))
            priority = chance.choice((Priority.NORMAL, Priority.NORMAL, Priority.HIGH))
            start_within = chance.choice((None, -1.0, -1.0, 1.0, 2.0, 5.0))
            with named_failure(f"seed {seed}, step {step}"):
                operation(chance.choice(("ann", "bob")), priority, start_within, chance.randrange(1000))
                for entry in history.waiting.values():
                    assert 0 <= history.queue.position(entry, history.now).jobs_ahead < len(history.waiting)
        while history.waiting:
            history.take()
        assert len(history.queue) == 0
        overtook += history.overtook
    assert overtook > HISTORIES or bounds == (0.0,), "hardly anybody was late: this says nothing of them"


@contextmanager
def named_failure(where: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{where}: {error}") from error


@given(
    start_within=st.lists(st.none() | st.floats(min_value=-10, max_value=30), min_size=1, max_size=60),
    overtaken_within=st.floats(min_value=0, max_value=40),
)
def test_a_late_job_is_started_within_its_bound_and_the_work_that_was_before_it(
    start_within: list[float | None], overtaken_within: float
) -> None:
    """However much work in time comes meanwhile: one worker, a second a job, and a new job in time each second."""
    queue, now = FairQueue(), NOW
    for number, seconds in enumerate(start_within, 1):
        queue.add(with_terms(build_entry(number, "ann", 1.0, 1, Priority.NORMAL), now, seconds, overtaken_within))
    for step in range(len(start_within) * 2 + 50):
        flood = build_entry(1000 + step, "ann", 1.0, 1, Priority.NORMAL)
        queue.add(with_terms(flood, now, 10.0, overtaken_within))
        entry = queue.next(now)
        assert entry is not None
        queue.take(entry)
        if entry.number < 1000:
            assert (now - NOW).total_seconds() <= math.ceil(overtaken_within) + entry.number
        now += timedelta(seconds=1)
    assert min(queue.oldest or 1000, 1000) == 1000
