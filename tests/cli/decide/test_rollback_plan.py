"""Which revision a service goes back to."""

from typing import Any

import pytest
from easel_cli.decide.rollback_plan import plan_clearing, plan_rollback
from easel_cli.errors import UsageError


def build_service(ready: dict[int, bool], to_revision: int | None = None) -> dict[str, Any]:
    """Revisions by number, and whether a worker of each was ready."""
    revisions = [
        {
            "number": number,
            "since": "2026-11-27T10:00:00Z",
            "image": f"server:{number}",
            **({"readyAt": "2026-11-27T10:05:00Z"} if was_ready else {}),
        }
        for number, was_ready in ready.items()
    ]
    rollout = {"rollout": {"toRevision": to_revision}} if to_revision else {}
    return {"metadata": {"namespace": "art", "name": "sdxl"}, "spec": rollout, "status": {"revisions": revisions}}


def test_it_goes_back_to_the_last_good_revision() -> None:
    plan = plan_rollback(build_service({3: True, 4: True, 5: False, 6: False}), None)
    assert plan.change == {"spec": {"rollout": {"toRevision": 4}}}
    assert "runs revision 6 (server:6)" in plan.sentences[0]
    assert "revision 4 (server:4)" in plan.sentences[0]


def test_one_that_never_served_may_be_named_and_is_warned_of() -> None:
    plan = plan_rollback(build_service({4: True, 5: False, 6: True}), 5)
    assert plan.to_revision == 5
    assert "No worker of revision 5 was ever ready" in plan.sentences[-1]


@pytest.mark.parametrize(
    ("ready", "to", "message"),
    [
        ({}, None, "has no revisions yet"),
        ({1: True}, None, "has no earlier revision that a worker was ready of; there are 1"),
        ({1: False, 2: True}, None, "there are 1 (never ready), 2"),
        ({1: True, 2: True}, 7, "--to 7: sdxl keeps no such revision; there are 1, 2"),
        ({1: True, 2: True}, 2, "--to 2: that is what sdxl runs"),
    ],
)
def test_what_can_not_be_is_said_with_what_there_is(ready: dict[int, bool], to: int | None, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        plan_rollback(build_service(ready), to)
    assert message in str(refused.value)


def test_a_second_time_it_goes_further_back() -> None:
    """Not forward again to what it has just left; the fourth entry is that of the first time."""
    assert plan_rollback(build_service({1: True, 2: True, 3: True, 4: True}, to_revision=2), None).to_revision == 1


def test_one_that_is_held_at_a_revision_is_let_go() -> None:
    held = build_service({1: True, 2: True, 3: True}, to_revision=2)
    assert plan_clearing(held).change == {"spec": {"rollout": {"toRevision": None}}}
    with pytest.raises(UsageError, match="is at revision 2 already; easel rollback sdxl --clear"):
        plan_rollback(held, 2)
    with pytest.raises(UsageError, match="isn't held at a revision"):
        plan_clearing(build_service({1: True}))
