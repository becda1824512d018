"""So many at a time; customers that wait have them in turn, and where it takes long none has all of them."""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from easel_server.generation.shares import has_place, has_share


class TooManyWaitingError(Exception):
    """As many wait as may, or as many of this customer."""

    def __init__(self, waiting: int, bound: int) -> None:
        self.waiting, self.bound = waiting, bound
        super().__init__(f"{waiting} wait already, at most {bound} may")


class Turns:
    """Places that customers have in turn. For one event loop."""

    def __init__(self, places: int, *, is_shared: bool = False, max_waiting: int | None = None) -> None:
        """``is_shared``: something is kept free for who has nothing (``shares.py``)."""
        self._places = places
        self._is_shared = is_shared
        self._max_waiting = max_waiting
        self._taken = 0
        self._of_customer: Counter[str] = Counter()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()  # by customer; none is empty

    @asynccontextmanager
    async def taken(self, customer: str) -> AsyncIterator[None]:
        """A place, once it is this customer's turn. Raises TooManyWaitingError."""
        await self._take(customer)
        try:
            yield
        finally:
            self._pass_on(customer)

    async def _take(self, customer: str) -> None:
        if customer not in self._waiting and self._may_have(customer):
            self._give(customer)
            return
        own, waiting = self._waiting.get(customer, ()), sum(map(len, self._waiting.values()))
        if self._max_waiting is not None and not has_place(held=len(own), taken=waiting, bound=self._max_waiting):
            raise TooManyWaitingError(waiting, self._max_waiting)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(customer, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was this one's turn just now
                self._pass_on(customer)
            raise

    def _may_have(self, customer: str) -> bool:
        if self._is_shared:
            return has_share(1, held=self._of_customer[customer], taken=self._taken, bound=self._places)
        return self._taken < self._places

    def _give(self, customer: str) -> None:
        self._taken += 1
        self._of_customer[customer] += 1

    def _pass_on(self, customer: str) -> None:
        """A place of this customer's is free: to the next customer's first, who then is the last."""
        self._taken -= 1
        self._of_customer[customer] -= 1
        self._of_customer += Counter()  # who has none is forgotten
        for following in list(self._waiting):
            while following in self._waiting and self._may_have(following):
                turns = self._waiting.pop(following)
                turn = turns.popleft()
                if turns:
                    self._waiting[following] = turns
                if not turn.done():  # else its client has left
                    self._give(following)
                    turn.set_result(None)
                    break
