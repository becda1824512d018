"""``oracle``: a plan by one who knows every arrival in advance, run in the same simulation as everybody else.

It minimises GPU time among plans that are late with at most the budget's share of requests and let none wait for longer
than a cap. The price of lateness in the plan (offline_plan.py) is bisected until the *replay* is within the budget, and
the allowance for a request's own length is varied; the cheapest replay counts. It is a plan that could have been had,
so an upper bound on the optimum; ``simulation/lower_bound.py`` is the other side.

Without the cap, requests that come alone at night would best be left waiting for hours: they are few.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import numpy as np
from easel_contract.resource import QueueOrder

from easel_operator.simulation.fleet import Fleet
from easel_operator.simulation.lower_bound import MAX_WAIT_TARGETS
from easel_operator.simulation.oracle.offline_plan import PlanRules, plan_offline
from easel_operator.simulation.oracle.slots import cut_into_slots
from easel_operator.simulation.outcome import Outcome
from easel_operator.simulation.policies.interface import FIRST_TICK_SECONDS
from easel_operator.simulation.policies.registry import ORACLE
from easel_operator.simulation.settings import Settings
from easel_operator.simulation.simulation import simulate
from easel_operator.simulation.trace import Trace

LATE_BUDGET_PERCENT: Final = 5.0
SLOTS_PER_TARGET: Final = 6
MAX_LATE_COST: Final = 4096.0  # GPU-seconds for one late request
ALLOWANCES: Final = 3  # different allowances for a request's own length are tried
FIRST_BISECTIONS: Final = 7  # of the logarithm of the price, for the first of them
NEXT_BISECTIONS: Final = 4
NEIGHBOUR_RANGE: Final = 3.0  # the next one's best price is looked for down to an eighth of the best so far
RELEASE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class OracleRules:
    """What an oracle must keep to."""

    late_budget_percent: float = LATE_BUDGET_PERCENT
    longest_wait_targets: float = MAX_WAIT_TARGETS


class PlannedPolicy:
    """Carries out a plan of ready pods per slot: orders a cold start ahead, scales pods down once they are idle."""

    def __init__(
        self, pods: Sequence[int], slot_seconds: float, cold_start_seconds: float, initial_replicas: int
    ) -> None:
        self.name = ORACLE
        self.initial_replicas = initial_replicas
        self._moves = list_moves(pods, slot_seconds, cold_start_seconds)
        self._wanted = self._moves[0][1]
        self._next = 1
        self.next_tick_at = FIRST_TICK_SECONDS

    def tick(self, fleet: Fleet, now: float) -> int | None:
        """Follow the plan; a pod that is busy, or that others are still to replace, goes later."""
        while self._next < len(self._moves) and self._moves[self._next][0] <= now:
            self._wanted = self._moves[self._next][1]
            self._next += 1
        move_at = self._moves[self._next][0] if self._next < len(self._moves) else math.inf
        surplus = fleet.replicas - self._wanted
        replicas: int | None = self._wanted
        if surplus > 0:
            idle = 0 if fleet.starting else fleet.count_idle()
            fleet.write_deletion_costs()
            replicas = fleet.replicas - min(surplus, idle)
            if idle < surplus:
                move_at = min(move_at, now + RELEASE_SECONDS)
        self.next_tick_at = move_at
        return replicas


def list_moves(pods: Sequence[int], slot_seconds: float, cold_start_seconds: float) -> list[tuple[float, int]]:
    """When to set how many replicas, from second 0, so that ``pods`` are ready in each slot.

    Orders go out a cold start ahead, or at second 0. A dip that is shorter than a cold start is filled: to start pods
    anew would cost more than to keep them.
    """
    changes: list[tuple[float, int]] = []
    level = 0
    for slot, wanted in enumerate(fill_dips(pods, math.floor(cold_start_seconds / slot_seconds))):
        at = slot * slot_seconds
        if wanted > level:
            changes.append((max(0.0, at - cold_start_seconds), wanted - level))
        elif wanted < level:
            changes.append((at, wanted - level))
        level = wanted
    moves, level = [(0.0, 0)], 0
    for at, change in sorted(changes, key=lambda move: (move[0], -move[1])):
        level += change
        if moves[-1][0] == at:
            moves[-1] = (at, level)
        else:
            moves.append((at, level))
    return moves


def fill_dips(pods: Sequence[int], slots: int) -> list[int]:
    """The least profile that is nowhere lower than ``pods`` and has no dip of ``slots`` slots or fewer."""
    if slots <= 0 or not len(pods):
        return [int(count) for count in pods]
    values = np.asarray(pods, dtype=np.int64)
    padded = np.concatenate((np.zeros(slots, dtype=np.int64), values, np.zeros(slots, dtype=np.int64)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, slots + 1)
    widened = windows.max(axis=1)
    closed = np.lib.stride_tricks.sliding_window_view(widened, slots + 1).min(axis=1)
    return [int(count) for count in closed]


def find_oracle(
    trace: Trace, settings: Settings, timeline_step_seconds: float | None = None, rules: OracleRules | None = None
) -> Outcome:
    """The cheapest replay that was found within the budget; the least late one if none is.

    Where late requests yield, plans that reckon with it are tried, and such that
    don't: in the fluid that they plan with, a long request yields in parts.
    """
    found = [
        _find_best(_Search(trace, settings, rules or OracleRules(), kind)) for kind in _list_kinds(trace, settings)
    ]
    search, best = min(found, key=lambda pair: pair[0].rank(pair[1]))
    return best.outcome if timeline_step_seconds is None else search.replay(best.pods, timeline_step_seconds)


class _Kind(Enum):
    """What a plan reckons with."""

    NOBODY_YIELDS = auto()
    LATE_YIELD = auto()
    LONG_YIELD = auto()  # and those that take longer than the target are done when pods would idle


def _list_kinds(trace: Trace, settings: Settings) -> Sequence[_Kind]:
    if settings.scaling.queue_order is QueueOrder.FIRST_COME_FIRST_SERVED:
        return (_Kind.NOBODY_YIELDS,)
    has_long = max(trace.work_seconds, default=0.0) > settings.target_seconds
    return (_Kind.LATE_YIELD, _Kind.NOBODY_YIELDS, *((_Kind.LONG_YIELD,) if has_long else ()))


def _find_best(search: "_Search") -> "tuple[_Search, _Candidate]":
    best = search.bisect(search.ample_slots, -1.0, math.log2(MAX_LATE_COST), FIRST_BISECTIONS)
    for on_time_slots in range(search.ample_slots - 1, max(0, search.ample_slots - ALLOWANCES), -1):
        centre = math.log2(best.late_cost)
        found = search.bisect(on_time_slots, centre - NEIGHBOUR_RANGE, centre + 1.0, NEXT_BISECTIONS)
        best = min(best, found, key=search.rank)
    return search, best


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A plan, the price of lateness that led to it, and what its replay came to."""

    late_cost: float
    pods: Sequence[int]
    outcome: Outcome


class _Search:
    """Plans and their replays."""

    def __init__(self, trace: Trace, settings: Settings, rules: OracleRules, kind: _Kind) -> None:
        self._trace, self._settings, self._rules = trace, settings, rules
        self._lets_late_yield = kind is not _Kind.NOBODY_YIELDS
        target = settings.target_seconds
        self._longest_wait_seconds = rules.longest_wait_targets * target
        self.slots = cut_into_slots(
            trace,
            target / SLOTS_PER_TARGET,
            self._longest_wait_seconds,
            target,
            is_long_planned=kind is not _Kind.LONG_YIELD,
        )
        work = sum(min(seconds, target) for seconds in trace.work_seconds)
        self.ample_slots = max(1, math.floor((target - work / max(1, len(trace))) / self.slots.slot_seconds))

    def bisect(self, on_time_slots: int, low: float, high: float, steps: int) -> _Candidate:
        """The best of ``steps`` prices between 2**low and 2**high: the least that keeps to the budget is sought."""
        best = self._try(on_time_slots, high)
        for _ in range(steps):
            middle = (low + high) / 2
            found = self._try(on_time_slots, middle)
            if found.outcome.late_percent <= self._rules.late_budget_percent:
                high = middle
            else:
                low = middle
            best = min(best, found, key=self.rank)
        return best

    def rank(self, candidate: _Candidate) -> tuple[float, float]:
        """Smaller is better: within the budget first, then cheaper."""
        outcome = candidate.outcome
        return max(outcome.late_percent, self._rules.late_budget_percent), outcome.gpu_hours

    def replay(self, pods: Sequence[int], timeline_step_seconds: float | None = None) -> Outcome:
        """A plan in the simulation."""
        settings = self._settings
        policy = PlannedPolicy(pods, self.slots.slot_seconds, settings.cold_start.seconds, settings.initial_replicas)
        return simulate(self._trace, policy, settings, timeline_step_seconds=timeline_step_seconds)

    def _try(self, on_time_slots: int, price: float) -> _Candidate:
        """``price``: the binary logarithm of a late request's cost. The longest wait leaves time for the work itself,
        as much as the target does."""
        longest = math.floor(self._longest_wait_seconds / self.slots.slot_seconds) - SLOTS_PER_TARGET + on_time_slots
        scaling = self._settings.scaling
        rules = PlanRules(
            on_time_slots=on_time_slots,
            longest_wait_slots=max(on_time_slots, longest),
            cold_start_seconds=self._settings.cold_start.seconds,
            late_cost=2.0**price,
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            initial_replicas=self._settings.initial_replicas,
            lets_late_yield=self._lets_late_yield,
        )
        pods = plan_offline(self.slots, rules).tolist()
        return _Candidate(rules.late_cost, pods, self.replay(pods))
