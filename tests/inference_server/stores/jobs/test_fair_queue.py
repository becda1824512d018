"""Properties of the fair queue, over all histories that hypothesis finds."""

from collections import defaultdict
from itertools import combinations

from easel_contract.server_config import Priority
from easel_server.stores.jobs.fair_queue import PRIORITIES, Entry, FairQueue
from hypothesis import given
from hypothesis import strategies as st

WEIGHTS = st.integers(min_value=1, max_value=10)
GPU_SECONDS = st.floats(min_value=0.01, max_value=100, allow_nan=False)
OWNERS = st.sampled_from(["ann", "bob", "cleo"])
ROUNDING = 1e-6


def build_entry(number: int, owner: str, gpu_seconds: float, weight: int, priority: Priority) -> Entry:
    return Entry(number, owner, priority, gpu_seconds, weight)


@given(
    weights=st.lists(WEIGHTS, min_size=2, max_size=5),
    sizes=st.lists(GPU_SECONDS, min_size=1, max_size=60),
)
def test_owners_that_always_wait_get_their_weighted_shares_but_for_one_largest_job(
    weights: list[int], sizes: list[float]
) -> None:
    """The bound of start-time fair queueing: theorem 1 of https://doi.org/10.1109/90.649569."""
    queue = FairQueue()
    served: dict[int, float] = defaultdict(float)
    number = 0

    def refill(owner: int) -> None:
        nonlocal number
        number += 1
        gpu_seconds = sizes[number % len(sizes)]
        queue.add(build_entry(number, str(owner), gpu_seconds, weights[owner], Priority.NORMAL))

    for owner in range(len(weights)):
        refill(owner)
        refill(owner)
    for _ in range(100):
        entry = queue.next()
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
        entry = queue.next()
        assert entry is not None
        queue.take(entry)
    queue.add(build_entry(1000, "newcomer", single, weights[1], Priority.NORMAL))
    owners = []
    for _ in range(2):
        entry = queue.next()
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
            first = queue.next()
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
            assert 0 <= queue.position(entry).jobs_ahead < len(waiting)
    while (first := queue.next()) is not None:
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
    while (first := plain.next()) is not None:
        assert with_canceled.next() == first
        plain.take(first)
        with_canceled.take(first)
    assert len(with_canceled) == 0
