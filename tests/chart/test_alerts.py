"""The shipped alerts, as Prometheus' own tool carries them out on a course of samples."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.chart.test_chart import CHART

LABELS = 'namespace="studio",service="painter",name="ink",key="0a1b"'


def read_rules(*annotations: str) -> dict[str, Any]:
    """The shipped rules, their alerts with these annotations alone: promtool compares all that there are."""
    rules: dict[str, Any] = yaml.safe_load((CHART / "files/rules.yaml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule):
        rule["annotations"] = {name: rule["annotations"][name] for name in annotations}
    return rules


def run_alerts(directory: Path, series: dict[str, str], expected: list[dict[str, Any]], alert: str) -> None:
    """``promtool test rules``: at ten minutes of samples a minute apart, exactly these alerts of that name fire."""
    (directory / "rules.yaml").write_text(yaml.safe_dump(read_rules("summary")))
    test = {
        "rule_files": [str(directory / "rules.yaml")],
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"alertname": alert, "eval_time": "10m", "exp_alerts": expected}],
            }
        ],
    }
    run_promtool(directory, test)


def run_promtool(directory: Path, test: dict[str, Any]) -> None:
    file = directory / "test.yaml"
    file.write_text(yaml.safe_dump(test))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_add_on_that_two_workers_cant_have_is_one_alert_whatever_the_reason_reads(tmp_path: Path) -> None:
    labels = {"namespace": "studio", "service": "painter", "name": "ink", "severity": "warning"}
    annotations = {"summary": "Requests of studio/painter that ask for ink fail."}
    series = {
        f'easel_add_on_unavailable{{{LABELS},pod="a",message="gone"}}': "1x4 _x6",
        f'easel_add_on_unavailable{{{LABELS},pod="a",message="gone, beside it are: clay"}}': "_x4 1x6",
        f'easel_add_on_unavailable{{{LABELS},pod="b",message="gone"}}': "1x10",
    }
    run_alerts(tmp_path, series, [{"exp_labels": labels, "exp_annotations": annotations}], "EaselAddOnUnavailable")


def test_an_add_on_that_is_there_again_is_no_alert(tmp_path: Path) -> None:
    series = {f'easel_add_on_unavailable{{{LABELS},pod="a",message="gone"}}': "1x3 _x6"}
    run_alerts(tmp_path, series, [], "EaselAddOnUnavailable")


REDIS = 'server="easel-redis:6379"'
REDIS_LABELS = {"server": "easel-redis:6379"}


def test_a_redis_that_is_nearly_full_is_an_alert_before_it_refuses(tmp_path: Path) -> None:
    series = {
        f"easel_operator_redis_memory_bytes{{{REDIS}}}": "950x10",
        f"easel_operator_redis_max_memory_bytes{{{REDIS}}}": "1000x10",
        'easel_operator_redis_memory_bytes{server="boundless"}': "950x10",
        'easel_operator_redis_max_memory_bytes{server="boundless"}': "0x10",
        'easel_operator_redis_memory_bytes{server="roomy"}': "500x10",
        'easel_operator_redis_max_memory_bytes{server="roomy"}': "1000x10",
    }
    annotations = {"summary": "Redis at easel-redis:6379 has used 95% of its maxmemory."}
    alert = {"exp_labels": {**REDIS_LABELS, "severity": "warning"}, "exp_annotations": annotations}
    run_alerts(tmp_path, series, [alert], "EaselRedisMemoryLow")


def test_a_redis_that_cannot_write_its_files_is_an_alert(tmp_path: Path) -> None:
    annotations = {"summary": "Redis at easel-redis:6379 can't write its files, and may refuse every write."}
    alert = {"exp_labels": {**REDIS_LABELS, "severity": "critical"}, "exp_annotations": annotations}
    series = {f"easel_operator_redis_persistence_failed{{{REDIS}}}": "0x5 1x5"}
    run_alerts(tmp_path, series, [alert], "EaselRedisNotPersisted")


def test_a_replica_that_is_lost_in_a_fail_over_is_an_alert_and_the_fail_over_itself_is_none(tmp_path: Path) -> None:
    annotations = {"summary": "Redis has 1 replicas, fewer than within the last hour."}
    alert = {"exp_labels": {"severity": "warning"}, "exp_annotations": annotations}
    old, new = ('easel_operator_redis_replicas{server="a"}', 'easel_operator_redis_replicas{server="b"}')
    run_alerts(tmp_path, {old: "2x3 stale", new: "_x3 1x7"}, [alert], "EaselRedisReplicaMissing")
    run_alerts(tmp_path, {old: "2x3 stale", new: "_x3 2x7"}, [], "EaselRedisReplicaMissing")
