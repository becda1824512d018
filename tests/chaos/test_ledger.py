"""The ledger finds what it is there to find: each broken promise, seen from outside."""

from typing import Any

import pytest

from chaos.ledger import Ledger
from chaos.requests import PlannedJob

PLANNED = PlannedJob(
    id="job",
    customer="alice",
    input={"num_outputs": 1},
    has_webhook=True,
    is_webhook_refused_once=False,
    is_canceled=False,
    waits=False,
)


def look(status: str, completed_at: str | None = None, output: list[str] | None = None) -> dict[str, Any]:
    return {"id": "job", "status": status, "completed_at": completed_at, "output": output, "error": None}


RUNNING = look("processing")
SUCCEEDED = look("succeeded", "2026-11-24T20:00:00+00:00", ["http://a/v1/predictions/job/output/0"])
AGAIN = look("succeeded", "2026-11-24T20:00:01+00:00", ["http://a/v1/predictions/job/output/0"])


def find_broken(looks: list[dict[str, Any]], webhooks: list[tuple[str, dict[str, Any]]]) -> list[str]:
    ledger = Ledger((PLANNED,))
    entry = ledger.entries["job"]
    entry.accepted = True
    for seen in looks:
        ledger.note_look(entry, seen)
    entry.images = 1
    for webhook_id, body in webhooks:
        ledger.note_webhook("job", webhook_id, body)
    return [str(broken) for broken in ledger.find_broken()]


def test_a_job_that_ended_once_and_was_reported_under_one_id_has_no_fault() -> None:
    elsewhere = SUCCEEDED | {"output": ["http://b/v1/predictions/job/output/0"]}
    assert (
        find_broken([RUNNING, SUCCEEDED, elsewhere], [("job.completed", SUCCEEDED), ("job.completed", SUCCEEDED)]) == []
    )


@pytest.mark.parametrize(
    ("looks", "webhooks", "fault"),
    [
        ([RUNNING], [], "was lost: last seen as processing"),
        ([SUCCEEDED, AGAIN], [("a", SUCCEEDED)], "completed more than once"),
        ([SUCCEEDED, RUNNING], [("a", SUCCEEDED)], "was processing after its end"),
        ([look("failed", "2026-11-24T20:00:00+00:00")], [], "ended as failed"),
        ([SUCCEEDED], [], "its end was never reported"),
        ([SUCCEEDED], [("a", SUCCEEDED), ("b", SUCCEEDED)], "reported under 2 ids: ['a', 'b']"),
        ([SUCCEEDED], [("a", AGAIN)], "was reported to have ended as"),
    ],
)
def test_a_broken_promise_is_found(
    looks: list[dict[str, Any]], webhooks: list[tuple[str, dict[str, Any]]], fault: str
) -> None:
    assert any(fault in found for found in find_broken(looks, webhooks))
