"""``helm uninstall`` while services run: what they say afterwards, what stays, and that it can be installed again."""

import re
from collections.abc import Iterator

import pytest
from easel_contract import names

from demo import cluster as clusters
from demo.cluster import NAMESPACE, RELEASE, ROOT
from tests.e2e.operators.living import FIXED, SCALED, SETTINGS, Found, World, list_objects
from tests.e2e.waiting import wait_until

pytestmark = pytest.mark.embedded  # with a cluster of its own, whose nodes it labels

STAYS = re.compile(r"^\| `(?P<kind>\w+)` \| `(?P<name>[\w.-]+)` \|", re.MULTILINE)
# Kubernetes makes them in every namespace, or they tell of the past.
OF_KUBERNETES = {("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")} | {
    ("APIService", f"{version}.{names.API_GROUP}")
    for version in names.SERVED_API_VERSIONS  # with the definition
}


@pytest.fixture
def uninstalled(world: World) -> Iterator[World]:
    """Without the chart for one test."""
    world.wait_for_two_operators()
    world.cluster.helm("uninstall", RELEASE, "--namespace", NAMESPACE)
    yield world
    clusters.install_chart(world.cluster, *SETTINGS)
    world.wait_for_two_operators()


def read_documented() -> Found:
    """The table of what stays."""
    text = (ROOT / "docs/platform/uninstalling.md").read_text().partition("What stays")[2]
    return {(match["kind"], match["name"]) for match in STAYS.finditer(text)}


def test_services_say_that_no_operator_is_left_and_what_stays_is_what_the_docs_say(uninstalled: World) -> None:
    world, cluster = uninstalled, uninstalled.cluster
    for name in (SCALED, FIXED):
        assert world.read_condition(name, "Ready") == ("Unknown", "OperatorGone"), name
    assert not cluster.kubectl("get", "apiservice", "v1beta1.external.metrics.k8s.io", "--ignore-not-found")
    workers = cluster.get("pods", "-l", "app.kubernetes.io/component=worker")["items"]
    assert len(workers) >= len((SCALED, FIXED)), "what runs goes on running"

    documented = read_documented()
    assert documented
    services = {("StableDiffusionService", name) for name in (SCALED, FIXED)}
    wait_until(
        lambda: list_objects(cluster) - world.before - OF_KUBERNETES - services,
        lambda left: left == documented,
        f"only what is documented stays, {sorted(documented)}",
        90,
    )

    cluster.kubectl("create", "namespace", "passing")
    cluster.kubectl("delete", "namespace", "passing", "--timeout=240s")


def test_services_are_ready_again_once_it_is_installed_again(world: World) -> None:
    for name in (SCALED, FIXED):
        world.wait_for_ready(name, "True")


def test_a_render_that_kubectl_applies_ends_no_operator(world: World) -> None:
    """``helm template | kubectl apply``, which makes the Job too."""
    world.wait_for_two_operators()
    chart = (RELEASE, str(ROOT / "helm/easel"), "-n", NAMESPACE, *clusters.list_settings(world.cluster))
    rendered = world.cluster.helm("template", *chart, "--show-only", "templates/farewell.yaml")
    job = f"job/{RELEASE}-farewell"
    world.cluster.kubectl("apply", "--server-side", "-f", "-", stdin=rendered)
    try:
        world.cluster.kubectl("wait", "--for=condition=Complete", job, "-n", NAMESPACE, "--timeout=240s")
        said = world.cluster.kubectl("logs", job, "-n", NAMESPACE)
    finally:
        world.cluster.kubectl("delete", job, "-n", NAMESPACE)
    assert "was made by kubectl" in said
    deployment = world.cluster.get("deployment", f"{RELEASE}-operator", "-n", NAMESPACE)
    assert deployment["spec"]["replicas"] == len(world.list_operators())
    assert world.read_condition(FIXED, "Ready")[0] == "True"


def test_a_render_without_hooks_has_no_such_job(world: World) -> None:
    rendered = world.cluster.helm("template", RELEASE, str(ROOT / "helm/easel"), "-n", NAMESPACE, "--no-hooks")
    kinds = {line.removeprefix("kind: ") for line in rendered.splitlines() if line.startswith("kind: ")}
    assert "Job" not in kinds
    assert "Deployment" in kinds
