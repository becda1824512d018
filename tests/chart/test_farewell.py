"""The Job before an uninstallation, as Helm renders it: it can do its work where the operator can."""

from typing import Any

import pytest
from easel_operator.config import FarewellConfig

from tests.chart.test_chart import helm, objects, of_kind

__all__ = ["helm"]  # the fixture

pytestmark = pytest.mark.cluster


def read_pod(rendered: list[dict[str, Any]], kind: str, component: str) -> dict[str, Any]:
    found = [
        each
        for each in of_kind(rendered, kind)
        if each["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    assert len(found) == 1
    template: dict[str, Any] = found[0]["spec"]["template"]
    return template


def test_the_job_is_helm_s_to_run_before_anything_is_deleted_and_is_bounded(helm: str) -> None:
    (job,) = of_kind(objects(helm, "operator.farewell.timeoutSeconds=240"), "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"
    assert job["spec"]["activeDeadlineSeconds"] == 240
    assert job["spec"]["ttlSecondsAfterFinished"] > 0, "one that kubectl made goes by itself"
    assert of_kind(objects(helm, "operator.farewell.enabled=false"), "Job") == []


def test_it_knows_the_objects_that_it_is_about_by_their_names_and_may_do_what_it_does(helm: str) -> None:
    rendered = objects(helm, "fullnameOverride=art", "operator.watchNamespaces={team-a,team-b}")
    (job,) = of_kind(rendered, "Job")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    values = {each["name"]: each.get("value", "from the pod") for each in container["env"]}
    config = FarewellConfig.from_environment(values)
    assert config.farewell_job == job["metadata"]["name"]
    assert config.deployment in {each["metadata"]["name"] for each in of_kind(rendered, "Deployment")}
    assert config.metrics_service in {each["metadata"]["name"] for each in of_kind(rendered, "Service")}
    assert config.watch_namespaces == ("team-a", "team-b")

    (role,) = (each for each in of_kind(rendered, "Role") if each["metadata"]["namespace"] == "easel-system")
    rights = {
        (resource, name, verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }
    assert {
        ("jobs", config.farewell_job, "get"),
        ("deployments", config.deployment, "patch"),
        ("pods", "", "list"),
    } <= rights
    assert pod["serviceAccountName"] in {each["metadata"]["name"] for each in of_kind(rendered, "ServiceAccount")}


def test_its_pod_goes_where_the_operators_do_and_no_selector_of_theirs_finds_it(helm: str) -> None:
    rendered = objects(
        helm,
        "operator.nodeSelector.pool=system",
        "operator.priorityClassName=system-cluster-critical",
        "imageRegistry=mirror.example",
        "operator.podLabels.team=platform",
    )
    ours, operators = read_pod(rendered, "Job", "farewell"), read_pod(rendered, "Deployment", "operator")
    for field in ("nodeSelector", "priorityClassName", "serviceAccountName", "securityContext"):
        assert ours["spec"][field] == operators["spec"][field]
    assert ours["spec"]["containers"][0]["image"] == operators["spec"]["containers"][0]["image"]
    assert ours["metadata"]["labels"]["team"] == "platform"
    (deployment,) = of_kind(rendered, "Deployment")
    selector = deployment["spec"]["selector"]["matchLabels"]
    assert not selector.items() <= ours["metadata"]["labels"].items()
