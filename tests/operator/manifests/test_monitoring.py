"""A service's own monitor and alerts: as the chart's read, and as Prometheus' own tool runs them."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from easel_contract.resource import StableDiffusionServiceSpec
from easel_operator.manifests.children import build_children
from easel_operator.manifests.metadata import ChildContext
from easel_operator.objects import Json
from pydantic import ValidationError

from tests.operator.objects import HUB_MODEL, OWNER, RELEASE

CHART = Path(__file__).resolve().parents[3] / "helm/easel"
SCALED: Json = {"scaling": {"maxReplicas": 4, "targetLatencySeconds": 20}}


def build(monitoring: Json | None, size: Json) -> dict[str, Json]:
    """The children of the Prometheus operator's kinds."""
    spec = StableDiffusionServiceSpec.model_validate({"model": HUB_MODEL, "monitoring": monitoring, **size})
    children = build_children(ChildContext(OWNER, spec, RELEASE, 60), has_hpa=True, is_tolerance_supported=True)
    return {each["kind"]: each for each in children if each["apiVersion"].startswith("monitoring.coreos.com/")}


def test_nothing_is_made_for_a_service_that_does_not_ask() -> None:
    assert build(None, SCALED) == {}


def test_the_monitor_selects_this_services_pods_and_labels_figures_as_the_charts_does() -> None:
    monitor = build({"labels": {"release": "prometheus"}, "intervalSeconds": 30}, SCALED)["PodMonitor"]
    assert monitor["spec"]["selector"] == {"matchLabels": {"easel.dev/service": "painter"}}
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["interval"]) == ("metrics", "30s")
    template = (CHART / "templates/monitoring.yaml").read_text()
    for each in endpoint["relabelings"]:
        (source,) = each["sourceLabels"]
        assert f"{{sourceLabels: [{source}], targetLabel: {each['targetLabel']}}}" in template


def test_alerts_may_be_left_out_and_the_target_is_of_services_that_have_one() -> None:
    assert build({"alerts": False}, SCALED).keys() == {"PodMonitor"}
    (group,) = build({}, {"replicas": 1})["PrometheusRule"]["spec"]["groups"]
    assert [each["alert"] for each in group["rules"]] == ["EaselServiceLosesRedis", "EaselServiceJobsFail"]


@pytest.mark.parametrize("label", ["easel.dev/service", "app.kubernetes.io/name", "app.kubernetes.io/managed-by"])
def test_a_label_that_is_easels_own_is_refused(label: str) -> None:
    with pytest.raises(ValidationError, match="Easel's own labels"):
        build({"labels": {label: "mine"}}, SCALED)


def to_input(name: str, values: str, **labels: str) -> dict[str, Any]:
    said = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {"series": f"{name}{{{said}}}", "values": values}


def test_each_alert_is_of_this_service_and_ends_with_its_cause(tmp_path: Path) -> None:
    rule = build({}, SCALED)["PrometheusRule"]["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule))
    ours = {"namespace": "studio", "service": "painter"}
    theirs = {"namespace": "studio", "service": "other"}
    slow: list[dict[str, Any]] = [
        to_input("easel_job_latency_seconds_bucket", values, **ours, pod="w", le=le)
        for le, values in (("10", "0+0x90"), ("60", "0+60x90"), ("+Inf", "0+60x90"))
    ]
    series = [
        to_input("easel_broker_up", "0x90", **ours, pod="a"),
        to_input("easel_broker_up", "0x30 1x60", **ours, pod="b"),
        to_input("easel_broker_up", "0x90", **theirs, pod="c"),
        to_input("easel_jobs_total", "0+10x90", **ours, pod="w", outcome="Failed"),
        to_input("easel_jobs_total", "0+90x90", **ours, pod="w", outcome="Succeeded"),
        *slow,
    ]
    here = {"namespace": "studio", "service": "painter"}
    expected = {
        ("EaselServiceLosesRedis", "20m"): [{**here, "severity": "critical"}],
        ("EaselServiceLosesRedis", "40m"): [],
        ("EaselServiceJobsFail", "60m"): [{**here, "severity": "warning"}],
        ("EaselServiceMissesItsTarget", "60m"): [{**here, "severity": "warning"}],
    }
    summaries = {each["alert"]: each["annotations"] for each in rule["groups"][0]["rules"]}
    asked = [
        {
            "eval_time": at,
            "alertname": alert,
            "exp_alerts": [{"exp_labels": labels, "exp_annotations": summaries[alert]} for labels in found],
        }
        for (alert, at), found in expected.items()
    ]
    test = {"interval": "1m", "input_series": series, "alert_rule_test": asked}
    (tmp_path / "test.yaml").write_text(json.dumps({"rule_files": ["rules.yaml"], "tests": [test]}))
    done = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / "test.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
