"""Reads chosen series of a page in Prometheus' text format: https://prometheus.io/docs/instrumenting/exposition_formats/

A page is read every few seconds and names the same series each time, so a series' name and labels go through
prometheus-client's parser once and are remembered; after that, reading a line takes splitting off its number.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

# A gateway shows some ten series of ours, a worker forty; all pods of a release show the same.
REMEMBERED_SERIES: Final = 4096

Series = Mapping[str, Sequence[tuple[Mapping[str, str], float]]]


def read_series(text: str, prefixes: tuple[str, ...]) -> Series:
    """Samples by name, of lines that begin with one of ``prefixes``: their labels and values.

    Values that are NaN, infinite or negative are left out.

    Raises:
        ValueError: a line with one of these prefixes is malformed.
    """
    series: dict[str, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
    for line in text.split("\n"):  # not splitlines: a label may hold what Unicode takes for the end of a line
        if line.startswith(prefixes):
            name, labels, value = _read_line(line)
            if math.isfinite(value) and value >= 0:
                series[name].append((labels, value))
    return series


def _read_line(line: str) -> tuple[str, Mapping[str, str], float]:
    head, *number = line.rsplit(None, 1)
    identity = _identify(head) if number else None
    if identity is None:  # the last word is a time, or there is something else that only a parser understands
        sample = _parse(line)
        return sample.name, sample.labels, sample.value
    return *identity, float(number[0])


@lru_cache(REMEMBERED_SERIES)
def _identify(head: str) -> tuple[str, Mapping[str, str]] | None:
    """Name and labels, if ``head`` is these and nothing more."""
    sample = _parse(f"{head} 0")
    return (sample.name, sample.labels) if sample.timestamp is None else None


def _parse(line: str) -> Sample:
    samples = [sample for family in text_string_to_metric_families(f"{line}\n") for sample in family.samples]
    if len(samples) != 1:
        raise ValueError(f"{line!r} is no sample in Prometheus' text format")
    return samples[0]
