"""Which cases of many are run each time, and which at night: those that go through the same code in another pairing."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest

Case = TypeVar("Case")


def by_day(cases: Iterable[Case], is_by_day: Callable[[Case], bool]) -> list[Any]:
    """All cases for ``parametrize``, tuples or values; those of which ``is_by_day`` is false are marked nightly."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)), marks=() if is_by_day(case) else pytest.mark.nightly
        )
        for case in cases
    ]
