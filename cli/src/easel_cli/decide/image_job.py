"""A job of ``generate``: how far it is, from the events of its stream, and the files that its images become."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Final

from easel_cli.errors import UsageError

WAITING: Final = "starting"  # Replicate's word for a prediction that waits
RUNNING: Final = "processing"
SUFFIXES: Final = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
SIZE: Final = re.compile(r"(\d{1,5})[xX](\d{1,5})")
SHOWN_ID: Final = 12  # characters of a job's id that are enough to tell it from others


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


def choose_files(output: PurePath | None, job_id: str, media_types: Sequence[str], *, is_directory: bool) -> list[Path]:
    """A file for each image, numbered from 1 where there are several. ``is_directory``: ``output`` is one."""
    own = f"easel-{job_id[:SHOWN_ID]}"
    base = Path(own) if output is None else Path(output, own) if is_directory else Path(output)
    stem = base if output is None or is_directory else base.with_suffix("")
    files = []
    for number, media_type in enumerate(media_types, start=1):
        asked = "" if output is None or is_directory else base.suffix
        suffix = asked or SUFFIXES.get(media_type.partition(";")[0], ".png")
        mark = f"-{number}" if len(media_types) > 1 else ""
        files.append(stem.with_name(f"{stem.name}{mark}{suffix}"))
    return files


def parse_size(text: str | None) -> tuple[int | None, int | None]:
    """``WIDTHxHEIGHT`` in pixels. Raises UsageError."""
    if text is None:
        return None, None
    found = SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"--size is {text!r}; WIDTHxHEIGHT in pixels, such as 1024x1024, is expected")
    return int(found[1]), int(found[2])
