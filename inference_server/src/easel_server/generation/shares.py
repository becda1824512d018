"""How much of what all customers share one of them may hold, so that the others find room beside it. Pure.

Dynamic thresholds (Choudhury and Hahne 1998, https://doi.org/10.1109/90.664262): a customer may hold FACTOR times what
is free. Alone, that is FACTOR parts of FACTOR + 1; of n greedy ones each gets FACTOR parts of n * FACTOR + 1, and one
part stays free. Nobody has to know how many there are. ``stores/redis/lua/shares.lua`` is the same on Redis.
"""

from bisect import bisect_left
from typing import Final

FACTOR: Final = 4


def has_share(size: int, *, held: int, taken: int, bound: int) -> bool:
    """Whether a customer who holds ``held`` of the ``taken`` may take ``size`` more, all of them ``bound`` at most.

    Who holds nothing may take what is free.
    """
    free = bound - taken - size
    return free >= 0 and (held == 0 or held + size <= FACTOR * free)


def has_place(*, held: int, taken: int, bound: int) -> bool:
    """Whether a customer may have one thing more, of those of which each has one at least, whatever is taken.

    So there may be as many above the bound as there are customers.
    """
    return held == 0 or has_share(1, held=held, taken=taken, bound=bound)


def count_ends(*, held: int, taken: int, bound: int, customers: int) -> int:
    """How many must end until there is a place for this customer, if each of so many has one end in turn."""

    def has_room(ended: int) -> bool:
        return has_place(held=held - ended // max(1, customers), taken=taken - ended, bound=bound)

    return 1 + bisect_left(range(1, taken), True, key=has_room)
