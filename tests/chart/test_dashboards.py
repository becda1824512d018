"""The chart's dashboards, as Grafana's sidecar finds them, and where its alerts say that runbooks are."""

import json

from tests.chart.test_chart import CHART, helm, objects, of_kind, pytestmark, render

__all__ = ["helm", "pytestmark"]  # the fixture; helm comes with the embedded cluster's binary


def test_dashboards_are_config_maps_for_the_sidecar_where_they_are_asked_for(helm: str) -> None:
    wanted = ("dashboards.enabled=true", "dashboards.namespace=monitoring", "dashboards.labels.team=art")
    maps = [item for item in of_kind(objects(helm, *wanted), "ConfigMap") if "-dashboard-" in item["metadata"]["name"]]
    assert [item["metadata"]["name"] for item in maps] == ["easel-dashboard-fleet", "easel-dashboard-service"]
    for item in maps:
        assert item["metadata"]["namespace"] == "monitoring"
        assert item["metadata"]["labels"].items() >= {"grafana_dashboard": "1", "team": "art"}.items()
        assert item["metadata"]["annotations"] == {"grafana_folder": "Easel"}
        ((name, text),) = item["data"].items()
        assert text == (CHART / "dashboards" / name.removeprefix("easel-")).read_text(), "as Grafana shall read it"
        assert json.loads(text)["uid"] == name.removesuffix(".json")


def test_no_dashboard_is_there_unasked(helm: str) -> None:
    assert not [item for item in of_kind(objects(helm), "ConfigMap") if "dashboard" in item["metadata"]["name"]]


def test_a_label_that_is_no_text_is_refused(helm: str) -> None:
    done = render(helm, "dashboards.enabled=true", "dashboards.labels.grafana_dashboard=1")
    assert done.returncode != 0
    assert "/dashboards/labels/grafana_dashboard" in done.stderr


def test_runbooks_are_where_the_value_says(helm: str) -> None:
    rendered = objects(helm, "monitoring.enabled=true", "monitoring.runbookUrl=https://wiki.example.com/easel")
    (rule,) = of_kind(rendered, "PrometheusRule")
    alerts = [each for group in rule["spec"]["groups"] for each in group["rules"] if "alert" in each]
    assert alerts
    for alert in alerts:
        assert alert["annotations"]["runbook_url"] == f"https://wiki.example.com/easel/{alert['alert']}.md"
