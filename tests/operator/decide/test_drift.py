"""Which differences between what was applied and what lives matter."""

from typing import Any

import pytest
from easel_operator.decide.drift import contains

# situation → (live, wanted, whether the live one carries the wanted)
CASES: dict[str, tuple[Any, Any, bool]] = {
    "equal": ({"a": 1}, {"a": 1}, True),
    "the server added a default": ({"a": 1, "b": 2}, {"a": 1}, True),
    "a field was changed": ({"a": 2}, {"a": 1}, False),
    "a field was removed": ({}, {"a": 1}, False),
    "an empty map was dropped": ({}, {"resources": {}}, True),
    "a quantity in other words": ({"cpu": "500m"}, {"cpu": "0.5"}, True),
    "a quantity as a number": ({"cpu": "2"}, {"cpu": 2}, True),
    "a quantity with a binary suffix": ({"memory": "1Gi"}, {"memory": "1024Mi"}, True),
    "a quantity with an exponent": ({"memory": "1e3"}, {"memory": "1k"}, True),
    "a quantity with an exponent and a sign": ({"memory": "1500M"}, {"memory": "+1.5E+9"}, True),
    "a quantity without a digit before its point": ({"cpu": "500m"}, {"cpu": ".5"}, True),
    "a quantity of exabytes, and one with an exponent": ({"memory": "1E"}, {"memory": "1E3"}, False),
    "another quantity": ({"cpu": "1"}, {"cpu": "1500m"}, False),
    "true is not one": ({"a": True}, {"a": "1"}, False),
    "an entry was added by another": ({"env": [{"name": "A"}, {"name": "B"}]}, {"env": [{"name": "A"}]}, True),
    "entries in another order": ([{"name": "B"}, {"name": "A"}], [{"name": "A"}, {"name": "B"}], True),
    "an entry was changed": ([{"name": "A", "value": "2"}], [{"name": "A", "value": "1"}], False),
    "entries that share their key are compared in order": (
        [{"type": "External", "v": 1}, {"type": "External", "v": 2}],
        [{"type": "External", "v": 1}, {"type": "External", "v": 2}],
        True,
    ),
    "one of the entries that share their key was changed": (
        [{"type": "External", "v": 1}, {"type": "External", "v": 3}],
        [{"type": "External", "v": 1}, {"type": "External", "v": 2}],
        False,
    ),
    "a list of plain values was extended": (["a", "b"], ["a"], False),
    "a list became something else": ({"a": None}, {"a": ["b"]}, False),
}


@pytest.mark.parametrize("situation", CASES)
def test_contains(situation: str) -> None:
    live, wanted, expected = CASES[situation]
    assert contains(live, wanted) is expected


def test_another_kind_of_volume_under_our_name_is_drift() -> None:
    wanted = {"volumes": [{"name": "tmp", "emptyDir": {}}]}
    assert contains({"volumes": [{"name": "tmp", "emptyDir": {}}]}, wanted)
    assert contains({"volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory"}}]}, wanted)
    assert not contains({"volumes": [{"name": "tmp", "hostPath": {"path": "/srv"}}]}, wanted)
