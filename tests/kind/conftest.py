"""A kind cluster of one node with the chart installed.

Workers run the gateway's image: it has the synthetic engine, and is on the node in seconds.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import cluster as clusters
from demo.cluster import Cluster, ClusterError
from kindcluster.cluster import Layout
from kindcluster.engine import Engine, find_engine
from tests.e2e.operators.living import build_service
from tests.e2e.waiting import Services

IMAGES = {"operator": "operator", "gateway": "gateway", "worker": "gateway"}
SERVICE = "small"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what needs a container engine; leaves it out of runs that aren't for kind."""
    here = Path(__file__).parent
    own = [item for item in items if here in item.path.parents]
    for item in own:
        item.add_marker(pytest.mark.kind)
        item.add_marker(pytest.mark.cluster)
    if os.environ.get("CLUSTER") != "kind":
        config.hook.pytest_deselected(items=own)
        items[:] = [item for item in items if item not in own]


@pytest.fixture(scope="session")
def engine() -> Engine:
    return find_engine()


@pytest.fixture(scope="session")
def layout() -> Layout:
    """One node, which does everything."""
    redis = clusters.ROOT / ".state" / clusters.read_kind_name() / "redis"
    redis.mkdir(parents=True, exist_ok=True)
    return Layout(clusters.read_kind_name(), workers=0, mounts=(redis,), hpa_sync_seconds=5)


@pytest.fixture(scope="session")
def cluster(layout: Layout) -> Iterator[Cluster]:
    """Down again at the end."""
    state = clusters.ROOT / ".state" / layout.name
    try:
        started = clusters.start_kind(state, layout, IMAGES)
        clusters.make_volumes(started)
        clusters.install_chart(started, "helmTest.enabled=true")
        yield started
    finally:
        clusters.stop(state)


@pytest.fixture(scope="session")
def ready(cluster: Cluster) -> Services:
    """A service that is ready."""
    held = Services(cluster)
    try:
        held.apply(build_service(SERVICE, replicas=1))
        held.wait_for(SERVICE, "Ready", "True", timeout_seconds=180)
    except (AssertionError, ClusterError):
        held.print_evidence()
        raise
    return held


@pytest.fixture
def services(ready: Services, request: pytest.FixtureRequest) -> Iterator[Services]:
    """The same for each test; what the cluster looks like is printed where one fails."""
    failed = request.session.testsfailed
    yield ready
    if request.session.testsfailed > failed:
        ready.print_evidence()
