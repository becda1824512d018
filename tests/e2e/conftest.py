"""One cluster with the chart installed, shared by the end-to-end tests; demo/cluster.py says what CLUSTER means."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import cluster as clusters
from demo.cluster import Cluster
from tests.e2e.waiting import Services


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """A cluster of this run's own, so that a demo that is up isn't disturbed; down again at the end."""
    state = clusters.ROOT / ".state" / f"e2e-{os.getpid()}"
    try:
        started = clusters.start(state, hpa_sync_seconds=5)
        clusters.install_chart(started)
        yield started
    finally:
        clusters.stop(state)


@pytest.fixture
def services(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Services]:
    """Applies services for one test and deletes them after it; on failure prints what the cluster looked like."""
    held = Services(cluster)
    yield held
    report = getattr(request.node, "call_report", None)
    if report is not None and report.failed:
        held.print_evidence()
    held.delete_all()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        item.call_report = report  # type: ignore[attr-defined]  # read by the fixture above
    return report


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what needs a cluster; leaves out what only the embedded one can do (kill a node) where another is used."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
    if os.environ.get("CLUSTER", "embedded") != "embedded":
        left_out = [item for item in items if item.get_closest_marker("embedded")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
