"""Pods for the work that arrives: bounded, and steady where the rate is."""

import pytest
from easel_operator.autoscaling.headroom import pods_for

STAFF = {
    "nothing arrives": (0.0, 0.0, 0, 0),
    "hardly anything, and the last pod may go": (0.2, 0.0, 1, 0),
    "a pod's work": (1.0, 0.0, 0, 1),
    "a little more is no reason to order": (2.2, 0.0, 0, 2),
    "but one to keep what is there": (2.2, 0.0, 3, 3),
    "more than is needed isn't kept": (2.2, 0.0, 7, 3),
    "much more": (2.5, 0.0, 2, 3),
    "with headroom": (2.0, 2.0, 0, 5),
    "with headroom the last pod stays": (0.01, 2.0, 1, 1),
}


@pytest.mark.parametrize(("busy", "margin", "held", "expected"), STAFF.values(), ids=STAFF.keys())
def test_pods_for_the_work_that_arrives(busy: float, margin: float, held: int, expected: int) -> None:
    assert pods_for(busy, margin, held) == expected
