"""Every operator is lost with its node and none can start: what then becomes of namespaces that are deleted.

Kubernetes calls a namespace empty only when it knows all kinds that there may be; an aggregated API without a server
keeps it from knowing. That is so for every adapter; here is what is left to do, and that it is undone by itself.
"""

import json
import logging
import time
from collections.abc import Iterator

import pytest

from demo.cluster import Cluster, ClusterError
from tests.e2e.operators.living import World, build_service
from tests.e2e.waiting import wait_until

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.embedded, pytest.mark.nightly]

NAMESPACE = "team-x"
REGISTRATION = "apiservice/v1beta1.external.metrics.k8s.io"
DISCOVERY = "NamespaceDeletionDiscoveryFailure"


@pytest.fixture
def lost(world: World) -> Iterator[World]:
    """A namespace with a service that is served, and no operator any more."""
    world.wait_for_two_operators()
    world.cluster.kubectl("create", "namespace", NAMESPACE)
    world.apply(build_service("theirs", NAMESPACE, replicas=1))
    world.wait_for_ready("theirs", "True", namespace=NAMESPACE)
    nodes = sorted(world.list_operators().values())
    for node in nodes:
        world.use_node("kill", node)
    yield world
    for node in nodes:
        world.use_node("restart", node)
    world.wait_for_two_operators()


def read_namespace(cluster: Cluster) -> dict[str, str]:
    """Its conditions and what they say; empty once it is gone."""
    found = cluster.kubectl("get", "namespace", NAMESPACE, "--ignore-not-found", "-o", "json")
    if not found.strip():
        return {}
    body = json.loads(found)
    conditions = body["status"].get("conditions", ())
    return {"phase": body["status"]["phase"]} | {
        each["type"]: each["message"] for each in conditions if each["status"] == "True"
    }


def is_discovery_stale(cluster: Cluster) -> bool:
    """Whether the API server has noticed that nobody answers for the external metrics API."""
    conditions = cluster.get(REGISTRATION)["status"]["conditions"]
    return any(each["type"] == "Available" and each["status"] == "False" for each in conditions)


def test_a_namespace_waits_for_one_command_which_the_next_operator_undoes(lost: World) -> None:
    cluster = lost.cluster
    wait_until(lambda: is_discovery_stale(cluster), bool, "the API server notices", 90)
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    began = time.monotonic()
    said = wait_until(lambda: read_namespace(cluster), lambda seen: not seen or DISCOVERY in seen, "it waits", 60)
    logger.info("after %.1f s: %s", time.monotonic() - began, said)
    assert "external.metrics.k8s.io" in said[DISCOVERY]
    # What is in it goes all the same, and so do the services' pods.
    for kinds in ("sds,deployments,hpa", "pods"):
        wait_until(lambda kinds=kinds: cluster.get(kinds, "-n", NAMESPACE)["items"], lambda left: not left, kinds, 120)  # type: ignore[misc] # of a default
    logger.info("empty after %.1f s", time.monotonic() - began)
    assert read_namespace(cluster)["phase"] == "Terminating"

    began = time.monotonic()
    cluster.kubectl("delete", *REGISTRATION.split("/"))
    wait_until(lambda: read_namespace(cluster), lambda seen: not seen, "the namespace is gone", 120)
    logger.info("gone %.1f s after the registration", time.monotonic() - began)


def test_the_operators_that_come_back_register_the_metrics_again(world: World) -> None:
    world.wait_for_two_operators()
    world.cluster.kubectl("wait", "--for=create", REGISTRATION, "--timeout=60s")
    world.cluster.kubectl("wait", "--for=condition=Available", REGISTRATION, "--timeout=60s")
    answer = wait_until(lambda: read_metric(world), bool, "a figure", 60)
    assert answer


def read_metric(world: World) -> list[object]:
    """What the autoscaler would get."""
    try:
        found: list[object] = json.loads(world.cluster.kubectl("get", "--raw", world.find_metric()))["items"]
    except ClusterError:
        return []
    return found
