"""The shipped alerts, as Prometheus' own tool carries them out on a course of samples."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.chart.test_chart import CHART

LABELS = 'namespace="studio",service="painter",name="ink",key="0a1b"'


def run_alerts(directory: Path, series: dict[str, str], expected: list[dict[str, Any]], alert: str) -> None:
    """``promtool test rules``: at ten minutes of samples a minute apart, exactly these alerts of that name fire."""
    test = {
        "rule_files": [str(CHART / "files/rules.yaml")],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"alertname": alert, "eval_time": "10m", "exp_alerts": expected}],
            }
        ],
    }
    file = directory / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_add_on_that_two_workers_cant_have_is_one_alert_whatever_the_reason_reads(tmp_path: Path) -> None:
    labels = {"namespace": "studio", "service": "painter", "name": "ink", "severity": "warning"}
    annotations = {
        "summary": "Requests of studio/painter that ask for ink fail.",
        "description": "kubectl describe sds painter says why (AddOnsAvailable), docs/add-ons.md what helps.",
    }
    series = {
        f'easel_add_on_unavailable{{{LABELS},pod="a",message="gone"}}': "1x4 _x6",
        f'easel_add_on_unavailable{{{LABELS},pod="a",message="gone, beside it are: clay"}}': "_x4 1x6",
        f'easel_add_on_unavailable{{{LABELS},pod="b",message="gone"}}': "1x10",
    }
    run_alerts(tmp_path, series, [{"exp_labels": labels, "exp_annotations": annotations}], "EaselAddOnUnavailable")


def test_an_add_on_that_is_there_again_is_no_alert(tmp_path: Path) -> None:
    series = {f'easel_add_on_unavailable{{{LABELS},pod="a",message="gone"}}': "1x3 _x6"}
    run_alerts(tmp_path, series, [], "EaselAddOnUnavailable")
