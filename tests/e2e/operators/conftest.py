"""A cluster with two operators, each on a node of its own beside the one with all the rest."""

import os
from collections.abc import Iterator

import pytest

from demo import cluster as clusters
from demo.cluster import Cluster
from tests.e2e.operators.living import SETTINGS, World, list_objects

NODES = ("cpu-0", "operator-0", "operator-1")


@pytest.fixture(scope="package")
def bare_cluster() -> Iterator[Cluster]:
    """Without the chart. Up for this folder alone; down again at the end."""
    state = clusters.ROOT / ".state" / f"operators-{os.getpid()}"
    try:
        started = clusters.start(state, hpa_sync_seconds=5, nodes=NODES)
        for node in NODES[1:]:
            started.kubectl("label", "node", node, "for=operators")
            started.kubectl("taint", "node", node, "for=operators:NoSchedule")  # so that nothing else is lost with it
        yield started
    finally:
        clusters.stop(state)


@pytest.fixture(scope="package")
def world(bare_cluster: Cluster) -> World:
    """With the chart and two services that are served."""
    world = World(bare_cluster, list_objects(bare_cluster))
    clusters.install_chart(bare_cluster, *SETTINGS)
    world.apply_services()
    return world
