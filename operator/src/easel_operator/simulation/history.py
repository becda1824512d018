"""A service's own history as a trace: readings of its gateways' counters become arrivals.

Between two readings of a pod, n jobs and w GPU-seconds of predicted work were accepted. When in between, and which job
was how large, the counters don't say: each of the n arrives at a random time, and takes w / n.

A counter that fell belongs to a restarted process: all of its new value is growth. A pod's first reading sets a
baseline and adds nothing, as in the operator (``autoscaling/counters.py``): it may have counted for weeks before it
was scraped at all.
"""

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from easel_contract import metrics, names

from easel_operator.simulation.trace import MAX_WORK_SECONDS, Trace, build_trace

MAX_REQUESTS: Final = 5_000_000
METRIC: Final = "__name__"
POD_LABELS: Final = ("namespace", "pod")
INSTANCE_LABEL: Final = "instance"
COUNTERS: Final = f'__name__=~"{metrics.JOBS_SUBMITTED_TOTAL}|{metrics.PREDICTED_GPU_SECONDS_TOTAL}"'

Labels = frozenset[tuple[str, str]]


class HistoryError(Exception):
    """Readings that can't be made into a trace. The message says what was seen and what to do."""


class Series(NamedTuple):
    """Samples of one series in the order of time: Unix seconds, value."""

    labels: Mapping[str, str]
    samples: Sequence[tuple[float, float]]


class Reading(NamedTuple):
    """Both counters of a pod at one scrape."""

    at_seconds: float
    jobs: float
    gpu_seconds: float


class Growth(NamedTuple):
    """What a pod accepted between two readings."""

    until_seconds: float
    since_seconds: float
    jobs: int
    gpu_seconds: float


@dataclass(frozen=True, slots=True)
class HistorySummary:
    """How good the history is that a trace was made of."""

    gateways: int  # pods, those that are gone among them
    readings: int
    seconds: float  # from the first reading to the last
    longest_pause_seconds: float  # between two readings: within it, times of arrival are unknown


@dataclass(slots=True)
class _Pod:
    labels: Labels
    last: Reading


def select_gateways(namespace: str, name: str) -> str:
    """The labels that Prometheus usually gives to a service's gateways, as a selector's inside."""
    # A pod's name: the Deployment's, the ReplicaSet's hash, five characters. Of long names Kubernetes cuts the hash.
    return f'namespace="{namespace}",pod=~"{names.gateway_name(name)}-?[a-z0-9]+(-[a-z0-9]+)?"'


class History:
    """Takes series window by window, in the order of time, and keeps only what grew."""

    def __init__(self) -> None:
        self._pods: dict[Labels, _Pod] = {}
        self._growths: list[Growth] = []
        self._requests = 0
        self._readings = 0
        self._first_seconds = math.inf
        self._last_seconds = -math.inf
        self._longest_pause_seconds = 0.0

    def add(self, window: Iterable[Series]) -> None:
        """All series of both counters over the next stretch of time. Samples at its edge may come twice.

        Raises HistoryError if a pod comes under two names at a time, or if there are more than MAX_REQUESTS.
        """
        added = sorted(_pair_counters(window), key=lambda pair: pair[1][0].at_seconds)
        self._note_pauses(sorted({reading.at_seconds for _, readings in added for reading in readings}))
        for labels, readings in added:
            self._add_pod(labels, readings)
        if self._requests > MAX_REQUESTS:
            raise HistoryError(f"more than {MAX_REQUESTS} requests were submitted: ask for a shorter time by --last")

    def summarise(self) -> HistorySummary:
        """What was read so far. Raises HistoryError if nothing was."""
        if not self._readings:
            raise HistoryError(
                f"{metrics.JOBS_SUBMITTED_TOTAL} and {metrics.PREDICTED_GPU_SECONDS_TOTAL} were never read together: "
                "both are needed, from the same scrapes and with the same labels"
            )
        seconds = self._last_seconds - self._first_seconds
        return HistorySummary(len(self._pods), self._readings, seconds, self._longest_pause_seconds)

    def take_growths(self) -> list[Growth]:
        """What was accepted since this was last called, for those who make no trace of it: it is forgotten here."""
        taken, self._growths, self._requests = self._growths, [], 0
        return taken

    def build_trace(self, source: random.Random) -> Trace:
        """The requests, from the first reading to the last. Raises HistoryError if there are none."""
        self.summarise()
        if not self._growths:
            raise HistoryError(f"no job was submitted: {metrics.JOBS_SUBMITTED_TOTAL} never grew")
        requests = (
            (source.uniform(growth.since_seconds, growth.until_seconds) - self._first_seconds, _share_work(growth))
            for growth in sorted(self._growths)
            for _ in range(growth.jobs)
        )
        return build_trace(requests, self._last_seconds - self._first_seconds)

    def _note_pauses(self, times: Sequence[float]) -> None:
        """Of all pods together: while nobody was read, pods may have come and gone."""
        for at in times:
            if math.isfinite(self._last_seconds):
                self._longest_pause_seconds = max(self._longest_pause_seconds, at - self._last_seconds)
            self._first_seconds = min(self._first_seconds, at)
            self._last_seconds = max(self._last_seconds, at)

    def _add_pod(self, labels: Labels, readings: Sequence[Reading]) -> None:
        key = _identify_pod(labels)
        pod = self._pods.get(key)
        if pod is None:
            pod = self._pods[key] = _Pod(labels, readings[0])
            self._readings += 1
        elif pod.labels != labels:
            if readings[0].at_seconds <= pod.last.at_seconds:
                raise HistoryError(_explain_double(key, pod.labels, labels))
            pod.labels = labels  # relabelled, or a new address: the same counters all the same
        for reading in readings:
            if reading.at_seconds > pod.last.at_seconds:
                self._grow(pod, reading)

    def _grow(self, pod: _Pod, reading: Reading) -> None:
        before, pod.last = pod.last, reading
        self._readings += 1
        self._longest_pause_seconds = max(self._longest_pause_seconds, reading.at_seconds - before.at_seconds)
        is_reset = reading.jobs < before.jobs or reading.gpu_seconds < before.gpu_seconds
        jobs = round(reading.jobs if is_reset else reading.jobs - before.jobs)
        gpu_seconds = reading.gpu_seconds if is_reset else reading.gpu_seconds - before.gpu_seconds
        if jobs:
            self._growths.append(Growth(reading.at_seconds, before.at_seconds, jobs, gpu_seconds))
            self._requests += jobs


def _pair_counters(window: Iterable[Series]) -> Iterator[tuple[Labels, list[Reading]]]:
    """Both counters of each pod at the scrapes that have both. A scrape gives all its samples the same time."""
    jobs: dict[Labels, Sequence[tuple[float, float]]] = {}
    gpu_seconds: dict[Labels, dict[float, float]] = {}
    for series in window:
        labels = frozenset((name, value) for name, value in series.labels.items() if name != METRIC)
        if series.labels.get(METRIC) == metrics.JOBS_SUBMITTED_TOTAL:
            jobs[labels] = series.samples
        elif series.labels.get(METRIC) == metrics.PREDICTED_GPU_SECONDS_TOTAL:
            gpu_seconds[labels] = dict(series.samples)
    for labels, samples in jobs.items():
        works = gpu_seconds.get(labels, {})
        readings = [
            Reading(at, count, works[at])
            for at, count in samples
            if at in works and math.isfinite(count) and math.isfinite(works[at])
        ]
        if readings:
            yield labels, readings


def _identify_pod(labels: Labels) -> Labels:
    """What names a pod, whoever scrapes it: its name, else its address, else all labels."""
    known = dict(labels)
    named = POD_LABELS if "pod" in known else (INSTANCE_LABEL,)
    return frozenset((name, known[name]) for name in named if name in known) or labels


def _share_work(growth: Growth) -> float:
    seconds = growth.gpu_seconds / growth.jobs
    if not 0 < seconds <= MAX_WORK_SECONDS:
        raise HistoryError(
            f"{growth.jobs} jobs and {growth.gpu_seconds:g} GPU-seconds were added up to Unix time "
            f"{growth.until_seconds:.3f}; more than 0, at most {MAX_WORK_SECONDS:.0f} GPU-seconds a job are allowed"
        )
    return seconds


def _explain_double(key: Labels, one: Labels, other: Labels) -> str:
    names = " and as ".join(sorted((format_labels(one - other), format_labels(other - one))))
    return (
        f"{format_labels(key)} is there twice at the same time, as {names}, so its jobs would count twice: choose one "
        "by --prometheus-selector"
    )


def format_labels(labels: Iterable[tuple[str, str]]) -> str:
    """As PromQL writes them."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in sorted(labels)) + "}"
