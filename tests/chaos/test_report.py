"""A record says what was broken, and becomes the page's tables."""

from typing import Any

import pytest

from chaos.ledger import Ledger, Promise
from chaos.observations import Observations
from chaos.plan import FORMS, FaultKind, plan_run
from chaos.recovery import Injected
from chaos.report import build_page, build_record, list_hard_faults

PLAN = plan_run(FORMS["short"], 1, 50)
PROVENANCE = {
    "date": "2026-11-27",
    "commit": "abc",
    "machine": {"cores": 2},
    "load_average_before": 0.5,
    "load_average_after": 3.0,
}


def build(**changes: Any) -> dict[str, Any]:
    observations = Observations(finished_at=list(PLAN.arrivals), latencies_seconds=[0.5] * len(PLAN.jobs))
    seen = {
        "counts": Ledger(PLAN.jobs).count(),
        "broken": [],
        "receiver_errors": [],
        "internal_errors": [],
        "observations": observations.to_record(),
        **changes,
    }
    killed = Injected(FaultKind.REDIS_KILLED, "redis-0", 40.0, 41.0, {"node_back_after_seconds": 12.0})
    return build_record(PLAN, "short", seen, [killed])


def test_nothing_broken_is_nothing_to_report() -> None:
    assert list_hard_faults(build()) == []


@pytest.mark.parametrize(
    ("promise", "name"),
    [
        (Promise.KEPT, "lost"),
        (Promise.ENDS_ONCE, "finished_twice"),
        (Promise.ENDS_WELL, "ended_otherwise"),
        (Promise.REPORTED, "webhooks_missing"),
        (Promise.REPORTED_ONCE, "webhooks_doubled"),
    ],
)
def test_a_broken_promise_is_counted_under_its_name_and_said(promise: Promise, name: str) -> None:
    record = build(broken=[[str(promise), "job-1: something"]])
    assert record["counts"][name] == 1
    assert list_hard_faults(record) == [f"{name}: 1", "job-1: something"]


def test_a_foreign_request_that_was_served_is_a_fault() -> None:
    observations = Observations(foreign_served=["wrong key: PUT /x was answered 201"])
    record = build(observations=observations.to_record())
    assert "wrong key: PUT /x was answered 201" in list_hard_faults(record)


def test_the_page_has_what_was_counted_and_a_row_for_each_kind_of_fault() -> None:
    page = build_page(build() | PROVENANCE)
    assert "| **lost** | **0** |" in page
    assert "| Redis killed | 1 |" in page
    assert "node back after 12 s" in page
    assert "worker killed" not in page
