"""What the customers and their webhook receiver saw, and which promises were broken. Pure.

It keeps of each look what could break a promise, not the look: a long run takes a hundred thousand jobs.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from chaos.requests import PlannedJob

FINAL_STATUSES: Final = frozenset({"succeeded", "failed", "canceled"})


class Promise(StrEnum):
    """What is promised of each job that was accepted."""

    KEPT = "it isn't lost"
    ENDS_ONCE = "it ends once"
    ENDS_WELL = "it ends as it should, with its images"
    REPORTED = "its webhook arrives"
    REPORTED_ONCE = "under one id"


@dataclass(frozen=True)
class Broken:
    """A promise that wasn't kept."""

    promise: Promise
    sentence: str

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class End:
    """How a job ended, as one look showed it."""

    status: str
    completed_at: str | None
    output: tuple[str, ...]
    error: str | None

    @classmethod
    def of(cls, prediction: dict[str, Any]) -> "End":
        """From a prediction as it travels. The host that was asked is part of links; it says nothing."""
        links = tuple(link.partition("/v1/")[2] for link in prediction["output"] or ())
        return cls(prediction["status"], prediction["completed_at"], links, prediction["error"])


@dataclass
class Entry:
    """Everything about one job."""

    planned: PlannedJob
    accepted: bool = False
    seen_as: str = "nothing"  # its status at the last look
    seen_after_its_end: str = ""  # a status that is no end, seen after one
    ends: set[End] = field(default_factory=set)  # all that were seen
    gone: list[str] = field(default_factory=list)  # answers that an accepted job must not get
    deliveries: dict[str, Counter[str]] = field(default_factory=dict)  # event: of each webhook-id
    reported_ends: set[End] = field(default_factory=set)
    images: int = 0  # that were fetched

    def note_look(self, prediction: dict[str, Any]) -> None:
        """An answer that shows the job."""
        self.seen_as = prediction["status"]
        if self.seen_as in FINAL_STATUSES:
            self.ends.add(End.of(prediction))
        elif self.ends:
            self.seen_after_its_end = self.seen_as

    @property
    def has_succeeded(self) -> bool:
        """As far as was seen."""
        return any(end.status == "succeeded" for end in self.ends)


class Ledger:
    """Of one run."""

    def __init__(self, jobs: tuple[PlannedJob, ...]) -> None:
        self.entries = {planned.id: Entry(planned) for planned in jobs}
        self.strange_webhooks: list[str] = []
        self._ended = 0

    def note_look(self, entry: Entry, prediction: dict[str, Any]) -> None:
        """An answer that shows a job."""
        had_ended = bool(entry.ends)
        entry.note_look(prediction)
        self._ended += bool(entry.ends) and not had_ended

    def has_ended(self, jobs: int) -> bool:
        """Whether the end of at least so many jobs was seen."""
        return self._ended >= jobs

    def missing_webhooks(self) -> list[str]:
        """Jobs whose end has not been reported yet."""
        return [
            name
            for name, entry in self.entries.items()
            if entry.planned.has_webhook and entry.accepted and "completed" not in entry.deliveries
        ]

    def note_webhook(self, job_id: str, webhook_id: str, body: dict[str, Any]) -> None:
        """A delivery that the receiver accepted."""
        entry = self.entries.get(job_id)
        if entry is None or body["id"] != job_id:
            self.strange_webhooks.append(f"webhook {webhook_id} for {job_id} reports {body['id']}")
            return
        is_end = body["status"] in FINAL_STATUSES
        entry.deliveries.setdefault("completed" if is_end else "start", Counter())[webhook_id] += 1
        if is_end:
            entry.reported_ends.add(End.of(body))

    def find_broken(self) -> list[Broken]:
        """One sentence for each promise that was broken."""
        found = [Broken(Promise.REPORTED_ONCE, sentence) for sentence in self.strange_webhooks]
        for name, entry in self.entries.items():
            found += [Broken(promise, f"{name}: {sentence}") for promise, sentence in _find_broken(entry)]
        return found

    def count(self) -> dict[str, int]:
        """What happened, in numbers."""
        entries = self.entries.values()
        ids = [Counter(event) for entry in entries for event in entry.deliveries.values()]
        statuses = Counter(next(iter(entry.ends)).status for entry in entries if entry.ends)
        return {
            "planned": len(entries),
            "accepted": _count(entry.accepted for entry in entries),
            "finished": _count(bool(entry.ends) for entry in entries),
            **{status: statuses[status] for status in sorted(FINAL_STATUSES)},
            "webhooks_promised": _count(entry.planned.has_webhook and entry.accepted for entry in entries),
            "webhooks_received": _count("completed" in entry.deliveries for entry in entries),
            "webhooks_repeated": sum(event.total() - len(event) for event in ids),  # under the same id, as promised
        }


def _count(those: Iterable[bool]) -> int:
    return sum(those)


def _find_broken(entry: Entry) -> Iterator[tuple[Promise, str]]:
    for answer in entry.gone:
        yield Promise.KEPT, answer
    if not entry.accepted:
        yield Promise.KEPT, "was never accepted"
    if not entry.ends:
        yield Promise.KEPT, f"was lost: last seen as {entry.seen_as}"
    if len(entry.ends) > 1:
        yield Promise.ENDS_ONCE, f"completed more than once: {sorted(map(str, entry.ends))}"
    if entry.seen_after_its_end:
        yield Promise.ENDS_ONCE, f"was {entry.seen_after_its_end} after its end"
    allowed = {"succeeded", "canceled"} if entry.planned.is_canceled else {"succeeded"}
    for end in entry.ends:
        if end.status not in allowed:
            yield Promise.ENDS_WELL, f"ended as {end.status} ({end.error}), expected {' or '.join(sorted(allowed))}"
        if end.status == "succeeded" and entry.images != entry.planned.input["num_outputs"]:
            yield Promise.ENDS_WELL, f"has {entry.images} images, asked for {entry.planned.input['num_outputs']}"
    yield from _find_broken_webhooks(entry)


def _find_broken_webhooks(entry: Entry) -> Iterator[tuple[Promise, str]]:
    if not entry.planned.has_webhook:
        if entry.deliveries:
            yield Promise.REPORTED_ONCE, "was reported without having asked for it"
        return
    if "completed" not in entry.deliveries:
        yield Promise.REPORTED, "its end was never reported"
    for event, ids in entry.deliveries.items():
        if len(ids) > 1:
            yield Promise.REPORTED_ONCE, f"its {event} was reported under {len(ids)} ids: {sorted(ids)}"
    if entry.reported_ends and entry.reported_ends != entry.ends:
        yield (
            Promise.REPORTED_ONCE,
            f"was reported to have ended as {entry.reported_ends}, seen as {entry.ends}",
        )
