"""Series that are remembered by their name and labels read as prometheus-client's own parser reads them."""

from collections import defaultdict
from collections.abc import Mapping

import pytest
from easel_operator.cluster.exposition import MAX_VALUE, read_series
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

LABELS = st.text(st.characters(codec="utf-8"), max_size=12)
VALUES = st.floats(allow_nan=True, allow_infinity=True)


def read_with_the_library(text: str) -> Mapping[str, list[tuple[Mapping[str, str], float]]]:
    """Every sample of a page whose value means something."""
    found: dict[str, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("easel_") and 0 <= sample.value <= MAX_VALUE:
                found[sample.name].append((sample.labels, sample.value))
    return found


@given(st.dictionaries(LABELS, VALUES, max_size=6), st.lists(st.floats(0, 1000), max_size=4))
def test_a_page_reads_as_the_library_reads_it_whatever_its_labels_hold(
    gauges: dict[str, float], latencies: list[float]
) -> None:
    registry = CollectorRegistry()
    depth = Gauge("easel_depth", "Any.", ["state"], registry=registry)
    for label, value in gauges.items():
        depth.labels(label).set(value)
    latency = Histogram("easel_latency_seconds", "Any.", registry=registry)
    for seconds in latencies:
        latency.observe(seconds)
    Counter("other_total", "Of somebody else.", registry=registry).inc()
    page = generate_latest(registry).decode()
    expected = {name: samples for name, samples in read_with_the_library(page).items() if not name.endswith("_created")}
    read = read_series(page, ("easel_",))
    assert {name: samples for name, samples in read.items() if not name.endswith("_created")} == expected


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("easel_depth 5 1700000000000", 5.0),
        ("easel_depth\t5", 5.0),
        ("easel_depth 5 ", 5.0),
        ("easel_depth +Inf", None),
        ("easel_depth NaN", None),
        ("easel_depth -1", None),
    ],
    ids=["with a time", "after a tab", "before a space", "infinite", "not a number", "negative"],
)
def test_a_line_is_read_in_every_form_that_the_format_allows(line: str, value: float | None) -> None:
    expected: dict[str, object] = {} if value is None else {"easel_depth": [({}, value)]}
    assert read_series(line, ("easel_",)) == expected
    assert read_series(line, ("easel_",)) == expected, "also when the series is known"


def test_times_of_a_series_are_not_taken_for_its_values() -> None:
    page = 'easel_depth{state="a"} 5 1700000000000\neasel_depth{state="b"} 6 1700000000000\n'
    assert read_series(page, ("easel_",)) == {"easel_depth": [({"state": "a"}, 5.0), ({"state": "b"}, 6.0)]}


@pytest.mark.parametrize(
    "line",
    [
        "easel_depth",
        "easel_depth five",
        'easel_depth{state="Waiting" 5',
        "easel_depth{ 5",
        "easel_depth 5 five",
        "easel_depth 5_0",
        "easel_depth \u0665",
        'easel_depth{state="Waiting"} 5\neasel_depth{state="Waiting"} 5',
    ],
)
def test_a_malformed_line_is_an_error_and_not_a_number(line: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_series(line, ("easel_",))
