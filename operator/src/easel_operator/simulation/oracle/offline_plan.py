"""The cheapest plan of pods for arrivals that are known in advance, by backward dynamic programming over slots.

State: the pods of the slot before, and the backlog in GPU-seconds. Work is taken for a fluid that is served in the
order of arrival. Cost of a slot: its length for each pod, a cold start for each pod more than before, and ``late_cost``
GPU-seconds for each request that becomes late. Served in order, work that arrived m slots ago is late exactly when the
backlog exceeds what arrived in the last m slots; the same rule with the longest wait in m's place is a bound that costs
too much to break. Where late requests yield, what becomes late leaves the backlog at the price of its own length.
Pods may be ordered a cold start ahead, as the future is known, so the plan counts ready pods; but none is ready before
the first cold start is over, except those that are there from the beginning.

The backlog has a grid that is finer near zero (its square root has equal steps); between, costs are interpolated.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from easel_operator.simulation.oracle.slots import Episode, Floats, Slots, find_episodes, sum_window

GRID_POINTS: Final = 72
OVERDUE_COST: Final = 50.0  # GPU-seconds per GPU-second of work beyond the longest wait, in each slot
STORED_NUMBERS: Final = 16 * 2**20  # costs to go that are kept at a time, 8 bytes each; earlier ones are computed anew

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PlanRules:
    """What a plan must keep to."""

    on_time_slots: int  # work that isn't served within these is late
    longest_wait_slots: int
    cold_start_seconds: float
    late_cost: float
    min_replicas: int
    max_replicas: int
    initial_replicas: int  # ready at second 0; no other pod is before a cold start is over
    lets_late_yield: bool  # late work is done when pods would idle, or costs its own length


def plan_offline(slots: Slots, rules: PlanRules) -> Counts:
    """Ready pods in each slot: int64[slots]."""
    pods = np.full(len(slots.requests), rules.min_replicas, dtype=np.int64)
    wait_seconds = rules.longest_wait_slots * slots.slot_seconds
    for episode in find_episodes(slots, wait_seconds, rules.cold_start_seconds):
        pods[episode.begin : episode.end] = _Planner(slots, episode, rules).solve()
    return pods


class _Planner:
    """One episode: its grid, and the two passes."""

    def __init__(self, slots: Slots, episode: Episode, rules: PlanRules) -> None:
        part = slice(episode.begin, episode.end)
        self.rules, self.slot_seconds = rules, slots.slot_seconds
        self.work = slots.work_seconds[part]
        self.fresh = sum_window(self.work, rules.on_time_slots).tolist()
        allowed = sum_window(self.work, rules.longest_wait_slots)
        self.allowed = allowed.tolist()
        self.due_work = _shift(self.work, rules.on_time_slots).tolist()
        self.due_requests = _shift(slots.requests[part], rules.on_time_slots).tolist()
        # Slots in which there are none but the first pods, and how many rows those are.
        self.early_slots = max(0, math.ceil(rules.cold_start_seconds / slots.slot_seconds) - episode.begin)
        self.early_rows = max(1, rules.initial_replicas - rules.min_replicas + 1)
        # To serve what comes in time, and to catch up soon with what came before any pod could be ready.
        early_work = float(self.work[: self.early_slots].sum())
        needed = max(*self.fresh, early_work) / (max(1, rules.on_time_slots) * slots.slot_seconds)
        highest = min(rules.max_replicas, max(rules.min_replicas, math.ceil(needed) + 1))
        self.pods = np.arange(rules.min_replicas, highest + 1)
        self.largest = float(allowed.max() + self.work.max()) or 1.0
        self.grid = self.largest * (np.arange(GRID_POINTS) / (GRID_POINTS - 1)) ** 2
        self.served = self.pods[:, None] * slots.slot_seconds
        self.row_offsets = np.arange(len(self.pods))[:, None] * GRID_POINTS
        self.start_cost = (self.pods * rules.cold_start_seconds)[:, None].astype(np.float64)
        self.idle = self._locate(self.grid, 0.0, self.largest)

    def solve(self) -> Counts:
        """Ready pods in each slot of the episode."""
        last = len(self.work)
        block = max(1, STORED_NUMBERS // (len(self.pods) * GRID_POINTS))
        value = np.broadcast_to(OVERDUE_COST * self.grid, (len(self.pods), GRID_POINTS))
        checkpoints = {last: value}
        for begin in range((last - 1) // block * block, 0, -block):
            checkpoints[begin] = self._value(begin, min(begin + block, last), checkpoints[min(begin + block, last)])[0]
        chosen = np.zeros(last, dtype=np.int64)
        row, backlog = min(self.early_rows, len(self.pods)) - 1 if self.early_slots else 0, 0.0
        for begin in range(0, last, block):
            end = min(begin + block, last)
            values = self._value(begin, end, checkpoints[end], keep=True)
            for slot in range(begin, end):
                row, backlog = self._decide(slot, row, backlog, values[slot - begin + 1])
                chosen[slot] = row
        return self.pods[chosen]

    def _value(self, begin: int, end: int, after: Floats, *, keep: bool = False) -> list[Floats]:
        """Cost to go by pods before and backlog at ``begin``; with ``keep`` at each slot up to ``end``, in order."""
        values = [after]
        for slot in range(end - 1, begin - 1, -1):
            work = float(self.work[slot])
            is_idle = work == 0.0 and not self.rules.lets_late_yield
            located = self.idle if is_idle else self._locate(self.grid, work, self._most(slot))
            cost = self._cost(slot, located, values[-1])
            below = np.minimum.accumulate(cost, axis=0)
            cost += self.start_cost
            above = np.minimum.accumulate(cost[::-1], axis=0)[::-1]
            above -= self.start_cost
            value = np.minimum(below, above)
            if keep:
                values.append(value)
            else:
                values[0] = value
        return values[::-1]

    def _decide(self, slot: int, row: int, backlog: float, after: Floats) -> tuple[int, float]:
        """The row to have in a slot, from a row and a backlog; and the backlog after it."""
        located = self._locate(np.array([backlog]), float(self.work[slot]), self._most(slot))
        cost = self._cost(slot, located, after)[:, 0]
        starts = np.maximum(self.start_cost[:, 0] - self.start_cost[row, 0], 0.0)
        best = int(np.argmin(cost + starts))
        return best, min(float(located[0][best, 0]), self._most(slot))

    def _most(self, slot: int) -> float:
        """The backlog that can be left after a slot: where late work yields, what is in time yet."""
        return min(self.largest, self.fresh[slot]) if self.rules.lets_late_yield else self.largest

    def _cost(self, slot: int, located: tuple[Floats, Counts, Floats], after: Floats) -> Floats:
        """Cost from this slot on, by the row that it has and the backlog before it."""
        backlog, index, share = located
        flat = after.reshape(-1)
        low = flat.take(index)
        cost: Floats = flat.take(index + 1)
        cost -= low
        cost *= share
        cost += low
        cost += self.served
        due = self.due_work[slot]
        if due > 0.0:
            late = np.minimum(np.maximum(backlog - self.fresh[slot], 0.0), due)
            cost += late * (self.rules.late_cost * self.due_requests[slot] / due + self.rules.lets_late_yield)
        cost += OVERDUE_COST * np.maximum(backlog - self.allowed[slot], 0.0)
        if slot < self.early_slots:
            cost[self.early_rows :] = math.inf
        return cost

    def _locate(self, before: Floats, work: float, most: float) -> tuple[Floats, Counts, Floats]:
        """Backlogs after a slot, by row; the flat index of the grid point below each, and the share of the way on.

        Of a backlog the next slot sees ``most`` at most.
        """
        backlog = np.minimum(np.maximum(before[None, :] + (work - self.served), 0.0), self.largest)
        place = np.sqrt(np.minimum(backlog, most) * ((GRID_POINTS - 1) ** 2 / self.largest))
        index = np.minimum(place.astype(np.int64), GRID_POINTS - 2)
        return backlog, index + self.row_offsets, place - index


def _shift(values: Floats, slots: int) -> Floats:
    """What was there ``slots`` ago."""
    return values if slots == 0 else np.concatenate((np.zeros(slots), values[:-slots]))[: len(values)]
