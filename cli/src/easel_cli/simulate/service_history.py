"""``easel simulate --from-prometheus``: asks for a service's own history, and makes a trace of it."""

import asyncio
import math
import os
import random
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from easel_contract import metrics
from easel_operator.simulation.history import (
    COUNTERS,
    History,
    HistoryError,
    HistorySummary,
    format_labels,
    select_gateways,
)
from easel_operator.simulation.trace import Trace

from easel_cli.errors import INSTALL_SIMULATE, UsageError
from easel_cli.simulate.arguments import DEFAULT_LAST, Arguments
from easel_cli.simulate.service_file import ServiceFile

if TYPE_CHECKING:
    from easel_operator.cluster.prometheus import Prometheus

UNIT_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
MAX_SECONDS: Final = 366 * 86400
DEFAULT_NAMESPACE: Final = "default"  # kubectl's
READINGS_A_QUERY: Final = 50_000  # of both counters: some 4 MB of JSON
MAX_READINGS: Final = 20_000_000


@dataclass(frozen=True, slots=True)
class Replay:
    """A history as a trace, and how good it is."""

    trace: Trace
    summary: HistorySummary
    asked_seconds: float
    warnings: tuple[str, ...]  # of the server: something may be missing

    def describe(self) -> str:
        """In a line for people."""
        found = self.summary
        hours, asked_hours = found.seconds / 3600, self.asked_seconds / 3600
        line = (
            f"history: {found.readings} readings of gateway pods ({found.gateways}) over {hours:.1f} of the "
            f"{asked_hours:.1f} h asked for, the longest pause between two is {found.longest_pause_seconds:.0f} s"
        )
        return "\n".join((line, *(f"Prometheus warns: {warning}" for warning in self.warnings)))

    def to_record(self) -> dict[str, object]:
        """For JSON."""
        return {
            "gateways": self.summary.gateways,
            "readings": self.summary.readings,
            "asked_seconds": self.asked_seconds,
            "longest_pause_seconds": round(self.summary.longest_pause_seconds, 3),
            "warnings": list(self.warnings),
        }


def load_replay(url: str, arguments: Arguments, service: ServiceFile, source: random.Random) -> Replay:
    """Ask the server at the URL; chance says when within a scrape each job came. Raises UsageError."""
    try:
        from easel_operator.cluster.prometheus import (  # noqa: PLC0415 - aiohttp is optional
            TOKEN_VARIABLE,
            Prometheus,
            PrometheusError,
        )
    except ImportError:
        raise UsageError(f"--from-prometheus needs aiohttp: {INSTALL_SIMULATE}") from None
    last_seconds = parse_last(arguments.last or DEFAULT_LAST)
    selector = arguments.prometheus_selector or build_selector(service)
    token = os.environ.get(TOKEN_VARIABLE, "").strip() or None
    try:
        server = Prometheus(url, token=token)
        history = asyncio.run(_read_history(server, selector, last_seconds, round(time.time(), 3)))
        return Replay(history.build_trace(source), history.summarise(), last_seconds, tuple(server.warnings))
    except (PrometheusError, HistoryError) as error:
        raise UsageError(str(error)) from None


def parse_last(text: str) -> int:
    """``90m``, ``36h``, ``7d`` or ``2w`` in seconds. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,9})([smhdw])", text.strip(), re.ASCII)
    seconds = int(found[1]) * UNIT_SECONDS[found[2]] if found else 0
    if not 0 < seconds <= MAX_SECONDS:
        raise UsageError(f"--last is {text!r}; a time such as 90m, 36h, 7d or 2w, at most 366d, is expected")
    return seconds


def build_selector(service: ServiceFile) -> str:
    """The labels that Prometheus usually gives to a service's gateways. Raises UsageError if the file has no name."""
    name, namespace = service.name, service.namespace or DEFAULT_NAMESPACE
    if not name or not all(re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", text) for text in (name, namespace)):
        raise UsageError(
            f"--service: {service.path}: metadata.name is {name!r} and metadata.namespace {namespace!r}; names as "
            "Kubernetes has them are expected, or --prometheus-selector"
        )
    return select_gateways(namespace, name)


async def _read_history(server: "Prometheus", selector: str, last_seconds: int, now: float) -> History:
    """All readings of the last seconds, in queries of bounded size.

    A range vector has the samples as they were scraped. ``increase`` and steps of a range query would interpolate.
    """
    history = History()
    async with server:
        readings = await _count_readings(server, selector, last_seconds, now)
        queries = math.ceil(readings / READINGS_A_QUERY)
        window_seconds = math.ceil(last_seconds / queries)
        for ago in range(last_seconds, 0, -window_seconds):
            seconds = min(ago, window_seconds)  # windows that overlapped would show a relabelled pod twice
            history.add(await server.query(f"{{{COUNTERS},{selector}}}[{seconds}s]", now - ago + seconds))
    return history


async def _count_readings(server: "Prometheus", selector: str, last_seconds: int, now: float) -> int:
    """How much there is to read. Raises HistoryError if it is nothing, or more than MAX_READINGS."""
    counted = f"{metrics.JOBS_SUBMITTED_TOTAL}{{{selector}}}[{last_seconds}s]"
    found = await server.query(f"sum(count_over_time({counted}))", now)
    readings = int(found[0].samples[0][1]) if found and found[0].samples else 0
    if readings > MAX_READINGS:
        raise HistoryError(
            f"{counted} has {readings} samples; at most {MAX_READINGS} are read: ask for a shorter time by --last"
        )
    if readings:
        return readings
    others = await server.query(f"topk(1, last_over_time({metrics.JOBS_SUBMITTED_TOTAL}[{last_seconds}s]))", now)
    hint = (
        f"it has such series under other labels, for example {format_labels(others[0].labels.items())}: name those of "
        "the service's gateways by --prometheus-selector"
        if others
        else "it has no such series at all: does it scrape the gateways (docs/platform/simulate.md)?"
    )
    raise HistoryError(f"Prometheus has no samples of {counted}; {hint}")
