"""What the customers and their webhook receiver saw, and what is wrong with it. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tests.soak.plan import PlannedJob

FINAL_STATUSES: Final = frozenset({"succeeded", "failed", "canceled"})


@dataclass(frozen=True)
class End:
    """How a job ended, as one look showed it."""

    status: str
    completed_at: str | None
    output: tuple[str, ...]

    @classmethod
    def of(cls, prediction: dict[str, Any]) -> "End":
        """From a prediction as it travels. The host that was asked is part of links; it says nothing."""
        links = prediction["output"] or ()
        return cls(prediction["status"], prediction["completed_at"], tuple(link.partition("/v1/")[2] for link in links))


@dataclass
class Entry:
    """Everything about one job."""

    planned: PlannedJob
    accepted: bool = False
    looks: list[dict[str, Any]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)  # answers that an accepted job must not get
    webhooks: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)  # event, webhook-id: bodies
    images: tuple[bytes, ...] = ()

    @property
    def ends(self) -> set[End]:
        """All the ends that were seen."""
        return {End.of(look) for look in self.looks if look["status"] in FINAL_STATUSES}


class Ledger:
    """Of one soak."""

    def __init__(self, jobs: tuple[PlannedJob, ...]) -> None:
        self.entries = {planned.id: Entry(planned) for planned in jobs}
        self.strange_webhooks: list[str] = []

    def has_ended(self, jobs: int) -> bool:
        """Whether the end of at least so many jobs was seen."""
        return sum(bool(entry.ends) for entry in self.entries.values()) >= jobs

    def missing_webhooks(self) -> list[str]:
        """Jobs whose end has not been reported yet."""
        return [
            name
            for name, entry in self.entries.items()
            if entry.planned.has_webhook and not entry.webhooks.get("completed")
        ]

    def note_webhook(self, job_id: str, webhook_id: str, body: dict[str, Any]) -> None:
        """A delivery that the receiver accepted."""
        entry = self.entries.get(job_id)
        if entry is None or body["id"] != job_id:
            self.strange_webhooks.append(f"webhook {webhook_id} for {job_id} reports {body['id']}")
            return
        event = "completed" if body["status"] in FINAL_STATUSES else "start"
        entry.webhooks.setdefault(event, {}).setdefault(webhook_id, []).append(body)

    def find_faults(self) -> list[str]:
        """One sentence for each promise that was broken."""
        faults = list(self.strange_webhooks)
        for name, entry in self.entries.items():
            faults += [f"{name}: {fault}" for fault in _find_faults(entry)]
        return faults


def _find_faults(entry: Entry) -> Iterator[str]:
    yield from entry.gone
    if not entry.accepted:
        yield "was never accepted"
    if not entry.ends:
        yield f"was lost: last seen as {entry.looks[-1]['status'] if entry.looks else 'nothing'}"
    if len(entry.ends) > 1:
        yield f"completed more than once: {sorted(map(str, entry.ends))}"
    for end in entry.ends:
        allowed = {"succeeded", "canceled"} if entry.planned.is_canceled else {"succeeded"}
        if end.status not in allowed:
            yield f"ended as {end.status} ({entry.looks[-1]['error']}), expected {' or '.join(sorted(allowed))}"
        if end.status == "succeeded" and len(entry.images) != entry.planned.input["num_outputs"]:
            yield f"has {len(entry.images)} images, asked for {entry.planned.input['num_outputs']}"
    final_seen = False
    for look in entry.looks:
        if final_seen and look["status"] not in FINAL_STATUSES:
            yield f"was {look['status']} after its end"
        final_seen = final_seen or look["status"] in FINAL_STATUSES
    yield from _find_webhook_faults(entry)


def _find_webhook_faults(entry: Entry) -> Iterator[str]:
    if not entry.planned.has_webhook:
        if entry.webhooks:
            yield "was reported without having asked for it"
        return
    if not entry.webhooks.get("completed"):
        yield "its end was never reported"
    for event, deliveries in entry.webhooks.items():
        if len(deliveries) > 1:
            yield f"its {event} was reported under {len(deliveries)} ids: {sorted(deliveries)}"
    reported = {End.of(body) for bodies in entry.webhooks.get("completed", {}).values() for body in bodies}
    if reported and reported != entry.ends:
        yield f"was reported to have ended as {reported}, seen as {entry.ends}"
