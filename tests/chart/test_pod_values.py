"""What a platform sets of the chart's own pods, the operator's and Redis', and of all that the chart renders."""

from pathlib import Path
from typing import Any

import pytest

from tests.chart.test_chart import helm, objects, of_kind, render
from tests.chart.test_platform_values import with_values

__all__ = ["helm"]  # the fixture

pytestmark = pytest.mark.cluster  # helm comes with the embedded cluster's binary

PLACED = {
    "priorityClassName": "high",
    "nodeSelector": {"pool": "system"},
    "tolerations": [{"key": "system", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
}
SIDECAR = {"name": "proxy", "image": "registry.example/proxy:1", "restartPolicy": "Always"}


def read_template(rendered: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (workload,) = of_kind(rendered, kind)
    template: dict[str, Any] = workload["spec"]["template"]
    return template


@pytest.mark.parametrize(("section", "kind"), [("operator", "Deployment"), ("redis", "StatefulSet")])
def test_a_pod_goes_where_its_platform_says_and_keeps_the_labels_that_it_is_found_by(
    helm: str, tmp_path: Path, section: str, kind: str
) -> None:
    said = {"podLabels": {"cost-centre": "art"}, "podAnnotations": {"mesh": "off"}, **PLACED}
    template = read_template(with_values(helm, tmp_path, {section: said}), kind)
    assert PLACED.items() <= template["spec"].items()
    assert template["metadata"]["annotations"]["mesh"] == "off"
    kept = read_template(objects(helm), kind)["metadata"]["labels"]
    assert template["metadata"]["labels"] == kept | {"cost-centre": "art"}


def test_the_operator_has_what_else_its_platform_gives_it(helm: str, tmp_path: Path) -> None:
    said: dict[str, Any] = {
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "volumes": [{"name": "ca", "configMap": {"name": "company-ca"}}],
        "volumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/company"}],
        "initContainers": [SIDECAR],
        "hostAliases": [{"ip": "10.0.0.7", "hostnames": ["prometheus.example"]}],
        "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
    }
    pod = read_template(with_values(helm, tmp_path, {"operator": said}), "Deployment")["spec"]
    (container,) = pod["containers"]
    assert said["env"][0] in container["env"]
    assert said["volumeMounts"][0] in container["volumeMounts"]
    assert said["volumes"][0] in pod["volumes"]
    assert (pod["initContainers"], pod["hostAliases"], pod["dnsConfig"]) == (
        [SIDECAR],
        said["hostAliases"],
        said["dnsConfig"],
    )


def test_in_the_nodes_network_the_operator_still_finds_the_clusters_names(helm: str) -> None:
    pod = read_template(objects(helm, "operator.hostNetwork=true"), "Deployment")["spec"]
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")


def test_an_account_that_is_there_gets_the_rights_and_none_is_made(helm: str) -> None:
    rendered = objects(helm, "operator.serviceAccount.create=false", "operator.serviceAccount.name=ours")
    assert of_kind(rendered, "ServiceAccount") == []
    assert read_template(rendered, "Deployment")["spec"]["serviceAccountName"] == "ours"
    bindings = [*of_kind(rendered, "ClusterRoleBinding"), *of_kind(rendered, "RoleBinding")]
    assert {subject["name"] for binding in bindings for subject in binding["subjects"]} == {"ours"}


def test_an_account_that_is_there_must_be_named(helm: str) -> None:
    refused = render(helm, "operator.serviceAccount.create=false")
    assert refused.returncode == 1
    assert "operator.serviceAccount.create is false: name the one that is there in operator.serviceAccount.name" in (
        refused.stderr
    )


def test_every_object_has_the_common_labels_and_the_chosen_name(helm: str) -> None:
    rendered = objects(helm, "commonLabels.team=platform", "fullnameOverride=art")
    assert {item["metadata"]["labels"]["team"] for item in rendered} == {"platform"}
    assert not [name for item in rendered if (name := item["metadata"]["name"]).startswith("easel-")]


def test_what_the_selectors_go_by_is_not_a_common_label(helm: str) -> None:
    """A selector can't be changed later, so a label that is added must not be in one."""
    (before,) = of_kind(objects(helm), "Deployment")
    (after,) = of_kind(objects(helm, "commonLabels.team=platform"), "Deployment")
    assert after["spec"]["selector"] == before["spec"]["selector"]


def test_objects_of_the_platforms_own_belong_to_the_release(helm: str, tmp_path: Path) -> None:
    mapped = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-ours"}}
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: as-text}"
    found = of_kind(with_values(helm, tmp_path, {"extraObjects": [mapped, text]}), "ConfigMap")
    assert {"easel-ours", "as-text"} <= {item["metadata"]["name"] for item in found}


def test_monitors_have_what_a_platforms_prometheus_asks_for(helm: str, tmp_path: Path) -> None:
    dropped = {"sourceLabels": ["__name__"], "regex": "python_.*", "action": "drop"}
    region = {"targetLabel": "region", "replacement": "north"}
    endpoint = {"scrapeTimeout": "5s", "metricRelabelings": [dropped], "relabelings": [region]}
    monitoring = {"enabled": True, "endpoint": endpoint}
    plain = of_kind(objects(helm, "monitoring.enabled=true"), "PodMonitor")
    changed = of_kind(with_values(helm, tmp_path, {"monitoring": monitoring}), "PodMonitor")
    for before, monitor in zip(plain, changed, strict=True):
        (kept,), (made,) = (each["spec"]["podMetricsEndpoints"] for each in (before, monitor))
        both = {"metricRelabelings": dropped, "relabelings": region}
        assert made == kept | endpoint | {name: [*kept.get(name, []), added] for name, added in both.items()}
        assert made["interval"] == "15s"
