"""The requests of a simulation: when each arrives and how long it keeps one GPU busy."""

import csv
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TextIO

ARRIVAL: Final = "arrival_seconds"
WORK: Final = "work_seconds"
MAX_TRACE_SECONDS: Final = 10 * 366 * 86400.0  # from its first request to its last
MAX_WORK_SECONDS: Final = 86400.0
MAX_SERVICES: Final = 1000
BYTE_ORDER_MARK: Final = "\ufeff"  # which some spreadsheets write before UTF-8


class TraceError(Exception):
    """A file that isn't a trace. The message names the file, the line, the value seen and what is allowed."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their arrival."""

    arrival_seconds: Sequence[float]
    work_seconds: Sequence[float]
    duration_seconds: float  # the time that is simulated at least: to the last arrival, or to the end of a cut
    begins_at: float = 0.0  # what the file's clock says at second 0
    models: Sequence[int] = ()  # by request, for a pool; empty where there is one model

    def __len__(self) -> int:
        return len(self.arrival_seconds)

    @property
    def total_work_seconds(self) -> float:
        """GPU-seconds of all requests."""
        return math.fsum(self.work_seconds)


def build_trace(
    requests: Iterable[tuple[float, float]], duration_seconds: float | None = None, begins_at: float = 0.0
) -> Trace:
    """From pairs of arrival and work in seconds, in any order. ``duration_seconds``: to the last arrival if None."""
    ordered = sorted(requests)
    arrivals = tuple(arrival for arrival, _ in ordered)
    works = tuple(work for _, work in ordered)
    last = arrivals[-1] if arrivals else 0.0
    return Trace(arrivals, works, last if duration_seconds is None else duration_seconds, begins_at)


def parse_trace(lines: Iterable[str], source: str) -> Trace:
    """Read CSV with a header; columns besides arrival_seconds and work_seconds are ignored, rows may be in any order.

    The file's clock may begin anywhere, as one that counts from 1970 does: the trace begins with its first request.
    ``source`` names the file in messages. Raises TraceError.
    """
    return _read(lines, source, None)[""]


def parse_traces(lines: Iterable[str], source: str, column: str) -> Mapping[str, Trace]:
    """As parse_trace, a trace for each value of ``column``, in the order of the values; all of one clock and length.

    Raises TraceError.
    """
    return _read(lines, source, column)


def _read(lines: Iterable[str], source: str, column: str | None) -> dict[str, Trace]:
    reader = csv.reader(lines)
    header = [name.strip() for name in next(reader, [])]
    header[:1] = [name.removeprefix(BYTE_ORDER_MARK) for name in header[:1]]
    missing = [name for name in (ARRIVAL, WORK, column) if name is not None and name not in header]
    if missing:
        seen = ",".join(header) or "nothing"
        raise TraceError(f"{source}:1: no column {' and '.join(missing)} in the header; it has {seen}")
    columns = [header.index(name) for name in (ARRIVAL, WORK, column) if name is not None]
    try:
        rows = [_parse_row(row, columns, f"{source}:{reader.line_num}") for row in reader if row]
    except csv.Error as error:
        raise TraceError(f"{source}:{reader.line_num}: not CSV: {error}") from None
    if not rows:
        raise TraceError(f"{source}: no requests below the header")
    return _part(rows, source)


def _part(rows: Sequence[tuple[float, float, str]], source: str) -> dict[str, Trace]:
    first, last = min(rows)[0], max(rows)[0]
    if last - first > MAX_TRACE_SECONDS:
        raise TraceError(
            f"{source}: {last - first:.0f} s lie between its first request ({ARRIVAL} {first:g}) and its last "
            f"({last:g}); {MAX_TRACE_SECONDS:.0f} are allowed"
        )
    parts: dict[str, list[tuple[float, float]]] = {}
    for arrival, work, part in rows:
        parts.setdefault(part, []).append((arrival - first, work))
    if len(parts) > MAX_SERVICES:
        raise TraceError(f"{source}: {len(parts)} different values; a service each, {MAX_SERVICES} are allowed")
    return {part: build_trace(parts[part], last - first, first) for part in sorted(parts)}


def merge_traces(traces: Sequence[Trace]) -> Trace:
    """All requests of one clock in one trace, each with the index of the trace that it is from as its model."""
    rows = sorted(
        (arrival, work, model)
        for model, trace in enumerate(traces)
        for arrival, work in zip(trace.arrival_seconds, trace.work_seconds, strict=True)
    )
    return Trace(
        tuple(arrival for arrival, _, _ in rows),
        tuple(work for _, work, _ in rows),
        max(trace.duration_seconds for trace in traces),
        min(trace.begins_at for trace in traces),
        tuple(model for _, _, model in rows),
    )


def write_trace(trace: Trace, file: TextIO) -> None:
    """As CSV that parse_trace reads. Of the time before the first arrival and after the last one it says nothing."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow((ARRIVAL, WORK))
    writer.writerows(zip(trace.arrival_seconds, trace.work_seconds, strict=True))


def upscale(trace: Trace, copies: int, jitter_seconds: float, source: random.Random) -> Trace:
    """``copies`` of a trace laid over each other; chance moves each request by up to ``jitter_seconds`` to either side.

    A small jitter keeps bursts together and makes them larger; a large one makes the load smooth.
    """
    if copies == 1 and jitter_seconds == 0:
        return trace
    requests = [
        (max(0.0, arrival + source.uniform(-jitter_seconds, jitter_seconds)), work)
        for _ in range(copies)
        for arrival, work in zip(trace.arrival_seconds, trace.work_seconds, strict=True)
    ]
    return build_trace(requests, begins_at=trace.begins_at)


def cut(trace: Trace, from_seconds: float, until_seconds: float) -> Trace:
    """The requests that arrive in [from, until), with times that begin at 0."""
    requests = [
        (arrival - from_seconds, work)
        for arrival, work in zip(trace.arrival_seconds, trace.work_seconds, strict=True)
        if from_seconds <= arrival < until_seconds
    ]
    return build_trace(requests, until_seconds - from_seconds, trace.begins_at + from_seconds)


def _parse_row(row: Sequence[str], columns: Sequence[int], where: str) -> tuple[float, float, str]:
    """Arrival, work, and the value of the column that parts the trace; nothing where none does."""
    if len(row) <= max(columns):
        raise TraceError(f"{where}: {len(row)} values, but the header has more columns")
    arrival = _parse_number(row[columns[0]], ARRIVAL, where)
    work = _parse_number(row[columns[1]], WORK, where)
    if not 0 < work <= MAX_WORK_SECONDS:
        raise TraceError(f"{where}: {WORK} is {work:g}; more than 0, at most {MAX_WORK_SECONDS:.0f} are allowed")
    return arrival, work, row[columns[2]].strip() if len(columns) > 2 else ""


def _parse_number(text: str, column: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise TraceError(f"{where}: {column} is {text.strip()!r}; a number of seconds is expected")
    return number
