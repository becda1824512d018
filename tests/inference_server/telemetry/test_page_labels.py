"""Whose series they are, on each series of a page."""

import pytest
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import open_memory_stores
from easel_server.telemetry.metrics import ServerMetrics, label_page
from easel_server.transport.probes import PROMETHEUS_TEXT
from prometheus_client.parser import text_string_to_metric_families

LABELS = {"namespace": "studio", "service": "painter"}


async def test_every_series_of_a_pod_says_whose_it_is_unless_it_is_asked_without() -> None:
    jobs = open_memory_stores(JobBounds()).jobs
    metrics = ServerMetrics(gateway=True, worker=True, labels=LABELS)
    metrics.count_request("/v1/images/generations", 200, "POST", 0.2)
    for is_labelled in (True, False):
        page = (await metrics.render(jobs, is_labelled=is_labelled)).decode()
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        assert len(samples) > 200
        for sample in samples:
            assert (LABELS.items() <= sample.labels.items()) == is_labelled, sample
            assert is_labelled or not LABELS.keys() & sample.labels.keys(), sample


@pytest.mark.parametrize("value", ['a "quoted" one', "back\\slash", "two\nlines", "\\1 and \\g<0>"])
def test_what_a_label_holds_is_what_a_reader_gets(value: str) -> None:
    page = label_page(
        b'# HELP up Whether.\n# TYPE up gauge\nup 1.0\nup{le="+Inf",of="a b} 3"} 2.0\n', {"service": value}
    )
    (family,) = text_string_to_metric_families(page.decode())
    assert [(sample.labels, sample.value) for sample in family.samples] == [
        ({"service": value}, 1.0),
        ({"service": value, "le": "+Inf", "of": "a b} 3"}, 2.0),
    ]
    assert "0.0.4" in PROMETHEUS_TEXT  # the format that this is
