"""Reads chosen series of a page in Prometheus' text format: https://prometheus.io/docs/instrumenting/exposition_formats/

A page is read every few seconds and names the same series each time, so a series' name and labels go through
prometheus-client's parser once and are remembered; after that, reading a line takes splitting off its number.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

# A gateway shows some ten series of ours, a worker forty; all pods of a release show the same, asked so.
REMEMBERED_SERIES: Final = 4096
SHOWN_CHARACTERS: Final = 200  # of a line that is malformed

# Nothing that Easel counts gets there, and sums of what is larger may become infinite.
MAX_VALUE: Final = 1e15

Labels = Mapping[str, str]
Identity = tuple[str, frozenset[tuple[str, str]]]
Series = Mapping[str, Sequence[tuple[Labels, float]]]


def read_series(text: str, prefixes: tuple[str, ...]) -> Series:
    """Samples by name, of lines that begin with one of ``prefixes``: their labels and values.

    Values that are NaN, infinite, negative or above MAX_VALUE are left out.

    Raises:
        ValueError: a line with one of these prefixes is malformed, or its series has been there before. Nothing else
            is raised, whatever the page.
    """
    series: dict[str, list[tuple[Labels, float]]] = defaultdict(list)
    seen: set[Identity] = set()
    for line in text.split("\n"):  # not splitlines: a label may hold what Unicode takes for the end of a line
        if line.startswith(prefixes):
            identity, labels, value = _read_line(line)
            if identity in seen:
                raise ValueError(f"{line[:SHOWN_CHARACTERS]!r} says again what an earlier line has said")
            seen.add(identity)
            if 0 <= value <= MAX_VALUE:  # which no NaN is
                series[identity[0]].append((labels, value))
    return series


def _read_line(line: str) -> tuple[Identity, Labels, float]:
    head, *number = line.rsplit(None, 1)
    known = _identify(head) if number else None
    if known is None:  # the last word is a time, or there is something else that only a parser understands
        sample = _parse(line)
        return _to_identity(sample), sample.labels, sample.value
    # Python reads more numbers than the format has: 1_000, and digits of other scripts.
    if "_" in number[0] or not number[0].isascii():
        raise ValueError(f"{line[:SHOWN_CHARACTERS]!r} has no number for a value")
    return *known, float(number[0])


@lru_cache(REMEMBERED_SERIES)
def _identify(head: str) -> tuple[Identity, Labels] | None:
    """Name and labels, if ``head`` is these and nothing more."""
    sample = _parse(f"{head} 0")
    return (_to_identity(sample), sample.labels) if sample.timestamp is None else None


def _to_identity(sample: Sample) -> Identity:
    return sample.name, frozenset(sample.labels.items())


def _parse(line: str) -> Sample:
    try:
        samples = [sample for family in text_string_to_metric_families(f"{line}\n") for sample in family.samples]
    except Exception as error:  # which ones the parser raises depends on what it stumbles over
        raise ValueError(f"{line[:SHOWN_CHARACTERS]!r} is no sample in Prometheus' text format: {error}") from error
    if len(samples) != 1:
        raise ValueError(f"{line[:SHOWN_CHARACTERS]!r} is no sample in Prometheus' text format")
    return samples[0]
