"""When customers saw what: each success, and what kind each other answer was. Written and read as plain data. Pure."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import httpx2


def describe(answer: httpx2.Response | None) -> str:
    """An answer's kind: its status, and what a client needs to go on. None: the connection broke, or nothing came."""
    if answer is None:
        return "no answer"
    if answer.status_code < 400:
        return str(answer.status_code)
    hint = " with Retry-After" if "retry-after" in answer.headers else ""
    shape = "" if "json" in answer.headers.get("content-type", "") else ", plain text"
    return f"{answer.status_code}{hint}{shape}"


@dataclass
class Observations:
    """Moments are seconds since the run began."""

    finished_at: list[float] = field(default_factory=list)  # when a job was first seen to have ended
    latencies_seconds: list[float] = field(default_factory=list)  # from its first request until then
    answers: Counter[str] = field(default_factory=Counter)  # by kind
    refused_at: Counter[tuple[int, str]] = field(default_factory=Counter)  # by second and kind: those without success
    # Requests that nobody may send: without a key, with a wrong one, for another customer's job.
    foreign_asked: Counter[str] = field(default_factory=Counter)
    foreign_served: list[str] = field(default_factory=list)

    def note_answer(self, at_seconds: float, kind: str) -> None:
        """One that a customer got."""
        self.answers[kind] += 1
        if not kind.startswith("2"):
            self.refused_at[int(at_seconds), kind] += 1

    def note_end(self, at_seconds: float, latency_seconds: float) -> None:
        """A job was seen to have ended."""
        self.finished_at.append(at_seconds)
        self.latencies_seconds.append(latency_seconds)

    def to_record(self) -> dict[str, Any]:
        """For a file."""
        return {
            "finished_at": [round(moment, 2) for moment in self.finished_at],
            "latencies_seconds": [round(latency, 2) for latency in self.latencies_seconds],
            "answers": dict(self.answers),
            "refused_at": [[second, kind, count] for (second, kind), count in self.refused_at.items()],
            "foreign_asked": dict(self.foreign_asked),
            "foreign_served": self.foreign_served,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """What ``to_record`` made."""
        return cls(
            finished_at=record["finished_at"],
            latencies_seconds=record["latencies_seconds"],
            answers=Counter(record["answers"]),
            refused_at=Counter({(second, kind): count for second, kind, count in record["refused_at"]}),
            foreign_asked=Counter(record["foreign_asked"]),
            foreign_served=record["foreign_served"],
        )
