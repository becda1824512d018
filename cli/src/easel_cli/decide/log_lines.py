"""Which lines of gateways' and workers' logs speak of a job, and in which order they were written.

Lines are JSON objects, as the server writes them (``easel_contract.log_lines``). What is written for a request carries
its ``request_id``, in the gateway and in the worker that does its job.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

SHOWN_APART: Final = ("time", "level", "logger", "message", "request_id", "exception")
NO_TIME: Final = ""


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line, and who wrote it."""

    pod: str
    time: str  # ISO 8601 in UTC, so that it sorts as text
    level: str
    message: str
    request_id: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)  # what else it says
    exception: str = ""

    def mentions(self, job: str) -> bool:
        """Whether a job's id stands in it."""
        return job in self.message or job in map(str, self.fields.values())


def parse_line(pod: str, text: str) -> LogLine:
    """Of what is no JSON, such as a traceback of the interpreter's, the text is the message."""
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        return LogLine(pod, NO_TIME, "", text)
    return LogLine(
        pod,
        str(said.get("time", NO_TIME)),
        str(said.get("level", "")),
        str(said.get("message", "")),
        said.get("request_id"),
        {name: value for name, value in said.items() if name not in SHOWN_APART},
        str(said.get("exception", "")),
    )


def select_lines(lines: Iterable[LogLine], *, job: str | None, request: str | None) -> list[LogLine]:
    """Those that name the job, or were written for the request that it came by or for ``request``; by time."""
    known = list(lines)
    requests = {request} if request is not None else set[str | None]()
    if job is not None:
        requests |= {line.request_id for line in known if line.mentions(job)}
    requests -= {None}
    chosen = [line for line in known if line.request_id in requests or (job is not None and line.mentions(job))]
    return sorted(chosen, key=lambda line: line.time)
