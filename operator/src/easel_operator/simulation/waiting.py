"""The requests that wait, and which of them a free pod takes."""

from bisect import insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from easel_contract.resource import QueueOrder


@dataclass(frozen=True, slots=True)
class OrderRule:
    """The order and its figures: with QueueOrder.TARGET_FIRST the oldest of all goes first once it has waited for
    ``max_overtaken_seconds``.
    """

    order: QueueOrder
    target_seconds: float
    max_overtaken_seconds: float


class Waiting:
    """Requests by their index, which is their order of arrival.

    Those that can't finish within the target any more are parted from the others when they would be next: such a
    request never becomes timely again, so each is moved once.
    """

    def __init__(self, arrivals: Sequence[float], works: Sequence[float], rule: OrderRule) -> None:
        self._arrivals, self._works, self._rule = arrivals, works, rule
        self._timely: deque[int] = deque()  # and some that aren't any more, behind the first that is
        self._overdue: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._timely) + len(self._overdue)

    def add(self, request: int) -> None:
        """One that arrives."""
        self._timely.append(request)

    def put_back(self, request: int, now: float) -> None:
        """One that was taken and isn't finished: to its place, before those that came after it."""
        if self._rule.order is QueueOrder.FIRST_COME_FIRST_SERVED or self._is_timely(request, now):
            self._timely.appendleft(request)
        else:
            insort(self._overdue, request)

    def find_oldest(self) -> int | None:
        """The one that has waited longest."""
        return min((queue[0] for queue in (self._overdue, self._timely) if queue), default=None)

    def take(self, now: float) -> int:
        """The next one. IndexError if none waits."""
        if self._rule.order is QueueOrder.FIRST_COME_FIRST_SERVED:
            return self._timely.popleft()
        while self._timely and not self._is_timely(self._timely[0], now):
            self._overdue.append(self._timely.popleft())
        if self._overdue and (not self._timely or self._is_long_overtaken(self._overdue[0], now)):
            return self._overdue.popleft()
        return self._timely.popleft()

    def _is_timely(self, request: int, now: float) -> bool:
        return now - self._arrivals[request] + self._works[request] <= self._rule.target_seconds

    def _is_long_overtaken(self, request: int, now: float) -> bool:
        return now - self._arrivals[request] >= self._rule.max_overtaken_seconds
