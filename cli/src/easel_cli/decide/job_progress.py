"""How far a job is, from the events of its stream, in a line."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

WAITING = "starting"  # Replicate's word for a prediction that waits
RUNNING = "processing"


@dataclass(frozen=True, slots=True)
class Event:
    """A server-sent event."""

    name: str
    data: str

    def read(self) -> Mapping[str, Any]:
        """Its data as JSON; empty for what is none."""
        try:
            found = json.loads(self.data)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def parse_events(lines: Iterable[str]) -> Iterator[Event]:
    """As https://html.spec.whatwg.org/multipage/server-sent-events.html says; comments and ids are left out."""
    name, data = "message", list[str]()
    for line in lines:
        if not line:
            if data:
                yield Event(name, "\n".join(data))
            name, data = "message", []
            continue
        key, _, value = line.partition(":")
        if key == "event":
            name = value.removeprefix(" ")
        elif key == "data":
            data.append(value.removeprefix(" "))


@dataclass(frozen=True, slots=True)
class JobProgress:
    """What is known of a job that isn't over."""

    steps_done: int = 0
    steps: int = 0
    text: str = "sent"

    def follow(self, event: Event) -> "JobProgress":
        """After one more event."""
        if event.name != "progress":
            return self
        said = event.read()
        return JobProgress(
            steps_done=said.get("steps_done") or 0, steps=said.get("steps") or 0, text=describe_progress(said)
        )


def describe_progress(said: Mapping[str, Any]) -> str:
    """A ``progress`` event for people."""
    eta = said.get("eta_seconds")
    ends = f", some {eta:.0f} s to go" if eta else ""
    if said.get("status") == WAITING:
        if said.get("workers") == 0:
            return f"waiting for the first worker to start{ends}"
        position = said.get("queue_position")
        return (f"waiting, number {position} in the queue" if position else "waiting") + ends
    if said.get("status") == RUNNING:
        return f"step {said.get('steps_done')} of {said.get('steps')}{ends}"
    return str(said.get("status", ""))


@dataclass(slots=True)
class JobEnd:
    """What a stream's last events say."""

    is_over: bool = False
    error: str = ""
    is_canceled: bool = False
    warnings: list[str] = field(default_factory=list)

    def note(self, event: Event) -> None:
        """One more event."""
        if event.name == "error":
            self.error = str(event.read().get("detail") or event.data)
        elif event.name == "logs" and event.data.startswith("warning: "):
            self.warnings += [line.removeprefix("warning: ") for line in event.data.splitlines() if line]
        elif event.name == "done":
            self.is_over = True
            self.is_canceled = event.read().get("reason") == "canceled"
