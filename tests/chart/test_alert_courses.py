"""Each shipped alert on a course of samples by promtool: quiet, firing when it should, quiet again."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from easel_operator.manifests.monitoring import RUNBOOK_URL, SERVICE_ALERTS

from tests.chart.test_alerts import read_rules, run_promtool
from tests.chart.test_chart import CHART

RUNBOOKS = CHART.parents[1] / "docs/runbooks"
ALERTS = [
    rule for group in yaml.safe_load((CHART / "files/rules.yaml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = [rule for rule in ALERTS if "alert" in rule]
NAMES = sorted({rule["alert"] for rule in ALERTS})
PARTS = ("## What it means", "## What suffers", "## Look, in this order", "## What to do", "## When to call others")
OURS = 'namespace="studio",service="painter"'
FULL = f'{OURS},type="CapacityAvailable",status="False",reason="QuotaExceeded"'
NEW = 'namespace="studio",service="new"'
US = {"namespace": "studio", "service": "painter"}


@dataclass(frozen=True)
class Course:
    """Series with a sample a minute in promtool's notation, and the labels of what fires at which minute."""

    series: Mapping[str, str]
    firing: Mapping[str, list[dict[str, str]]]


def warns(**labels: str) -> dict[str, str]:
    return {"severity": "warning", **labels}


def calls(**labels: str) -> dict[str, str]:
    return {"severity": "critical", **labels}


# An hour of ten jobs a minute, an hour in which nearly all are late or many fail, and two hours as before. Eight
# minutes after it the fast windows are quiet again, for their short one is.
HOUR, HOURS, DAY = (
    calls(**US, long="1h", short="5m"),
    calls(**US, long="6h", short="30m"),
    warns(**US, long="1d", short="2h"),
)
LATENCY = "easel_job_latency_seconds"
COURSES = {
    "EaselLatencyBudgetBurns": Course(
        {
            f"easel_service_target_latency_seconds{{{OURS}}}": "10x240",
            f'{LATENCY}_bucket{{{OURS},le="10.0"}}': "0+10x60 600x59 610+10x119",
            f'{LATENCY}_bucket{{{OURS},le="20.0"}}': "0+10x240",
            f'{LATENCY}_bucket{{{OURS},le="+Inf"}}': "0+10x240",
            f"{LATENCY}_count{{{OURS}}}": "0+10x240",
        },
        {"55m": [], "115m": [HOUR, HOURS], "128m": [HOURS], "235m": []},
    ),
    "EaselFailureBudgetBurns": Course(
        {
            f'easel_jobs_total{{{OURS},outcome="Succeeded"}}': "0+10x240",
            f'easel_jobs_total{{{OURS},outcome="Failed"}}': "0x60 4+4x59 240x119",
        },
        {"55m": [], "115m": [HOUR, HOURS], "128m": [HOURS, DAY], "235m": []},
    ),
    "EaselJobsFail": Course(
        {
            f'easel_jobs_total{{{OURS},outcome="Succeeded"}}': "0+10x90",
            f'easel_jobs_total{{{OURS},outcome="Failed"}}': "0x30 1+1x29 30x31",
        },
        {"29m": [], "55m": [warns(**US)], "85m": []},
    ),
    "EaselQueueStands": Course(
        {f"easel_oldest_waiting_age_seconds{{{OURS}}}": "0x5 60+60x24 0x10"},
        {"15m": [], "28m": [warns(**US)], "33m": []},
    ),
    "EaselQueueGrowsAtMaxReplicas": Course(
        {
            f"easel_service_target_latency_seconds{{{OURS}}}": "10x70",
            f"easel_service_max_replicas{{{OURS}}}": "4x70",
            f"easel_service_worker_replicas{{{OURS}}}": "4x70",
            f'easel_backlog_gpu_seconds{{{OURS},state="Waiting"}}': "0+30x45 0x24",
            f"easel_oldest_waiting_age_seconds{{{OURS}}}": "0+10x45 0x24",
            # It grows as well, and there is room for more workers.
            'easel_service_target_latency_seconds{namespace="studio",service="roomy"}': "10x70",
            'easel_service_max_replicas{namespace="studio",service="roomy"}': "5x70",
            'easel_service_worker_replicas{namespace="studio",service="roomy"}': "4x70",
            'easel_backlog_gpu_seconds{namespace="studio",service="roomy",state="Waiting"}': "0+30x45 0x24",
            'easel_oldest_waiting_age_seconds{namespace="studio",service="roomy"}': "0+10x45 0x24",
        },
        {"10m": [], "40m": [warns(**US, state="Waiting")], "65m": []},
    ),
    "EaselNoCapacity": Course(
        {
            f'easel_service_condition{{{FULL},pod="a"}}': "_x5 1x20 stale",
            f'easel_service_condition{{{FULL},pod="b"}}': "_x5 1x20 stale",
        },
        {"10m": [], "20m": [warns(**US, reason="QuotaExceeded")], "30m": []},
    ),
    "EaselServiceNotReady": Course(
        {
            f'easel_service_condition{{{OURS},type="Ready",status="False",reason="RedisFull"}}': "_x5 1x20 stale",
            f'easel_service_condition{{{NEW},type="Ready",status="False",reason="WorkersUnavailable"}}': "1x30",
            f'easel_service_condition{{{NEW},type="ModelLoaded",status="False",reason="Loading"}}': "1x30",
        },
        {"10m": [], "20m": [calls(**US, reason="RedisFull")], "30m": []},
    ),
    "EaselWorkersRestart": Course(
        {f"easel_service_worker_restarts_total{{{OURS}}}": "0x5 1+1x15 16x30"},
        {"5m": [], "20m": [warns(**US)], "45m": []},
    ),
    "EaselAddOnUnavailable": Course(
        {f'easel_add_on_unavailable{{{OURS},name="ink",key="0a",message="gone"}}': "_x5 1x10 stale"},
        {"5m": [], "14m": [warns(**US, name="ink")], "20m": []},
    ),
    "EaselWebhooksFail": Course(
        {
            f'easel_webhooks_total{{{OURS},outcome="delivered"}}': "0+10x90",
            f'easel_webhooks_total{{{OURS},outcome="failed"}}': "0x30 2+2x29 60x31",
        },
        {"29m": [], "55m": [warns(**US)], "85m": []},
    ),
    "EaselRedisUnavailable": Course(
        # One gateway that reaches it is enough for there to be one.
        {f'easel_broker_up{{{OURS},pod="a"}}': "1x5 0x10 1x10", f'easel_broker_up{{{OURS},pod="b"}}': "1x8 0x7 1x10"},
        {"8m": [], "14m": [calls(**US)], "20m": []},
    ),
    "EaselRedisMemoryLow": Course(
        {
            'easel_operator_redis_memory_bytes{server="r:6379"}': "500x5 950x10 500x10",
            'easel_operator_redis_max_memory_bytes{server="r:6379"}': "1000x25",
        },
        {"8m": [], "15m": [warns(server="r:6379")], "20m": []},
    ),
    "EaselRedisNotPersisted": Course(
        {'easel_operator_redis_persistence_failed{server="r:6379"}': "0x5 1x10 0x10"},
        {"5m": [], "10m": [calls(server="r:6379")], "20m": []},
    ),
    "EaselRedisReplicaMissing": Course(
        {'easel_operator_redis_replicas{server="r:6379"}': "2x5 1x20 2x10"},
        {"5m": [], "20m": [warns()], "30m": []},
    ),
    "EaselOperatorHasNoLeader": Course(
        {'easel_operator_is_leader{pod="a"}': "1x5 0x10 1x10", 'easel_operator_is_leader{pod="b"}': "0x25"},
        {"5m": [], "12m": [calls()], "20m": []},
    ),
    "EaselOperatorFaults": Course(
        {'easel_operator_faults_total{where="reconcile"}': "0x5 1x30"},
        {"5m": [], "10m": [warns(where="reconcile")], "30m": []},
    ),
    "EaselScrapesFail": Course(
        {f"easel_service_scrape_failures_total{{{OURS}}}": "0x5 30+30x30 930x30"},
        {"10m": [], "30m": [warns(**US)], "60m": []},
    ),
    "EaselCertificateExpiring": Course(
        # promtool's clock begins at 0; renewed after two hours and a half.
        {"easel_operator_certificate_expiry_timestamp_seconds": "600000x150 7000000x60"},
        {"30m": [], "120m": [warns()], "180m": []},
    ),
}
# The three ways in which nothing is heard.
DEAF = {
    "scrape": Course(
        {"easel_operator_is_leader": "1x5 stale _x10 1x10"}, {"4m": [], "13m": [calls(about="scrape")], "20m": []}
    ),
    "ticks": Course(
        {
            "easel_operator_is_leader": "1x40",
            "easel_operator_services": "3x40",
            "easel_operator_scaling_tick_seconds_count": "0+30x10 300x20 330+30x10",
        },
        {"10m": [], "28m": [calls(about="ticks")], "35m": []},
    ),
    "reconciles": Course(
        {
            "easel_operator_is_leader": "1x60",
            "easel_operator_queue_length": "2x60",
            'easel_operator_reconciles_total{outcome="applied"}': "0+3x10 30x30 33+3x20",
        },
        {"10m": [], "35m": [calls(about="reconciles")], "50m": []},
    ),
}


def run_course(directory: Path, alert: str, course: Course) -> None:
    (directory / "rules.yaml").write_text(yaml.safe_dump(read_rules()))
    expected: list[dict[str, Any]] = [
        {"alertname": alert, "eval_time": minute, "exp_alerts": [{"exp_labels": labels} for labels in firing]}
        for minute, firing in course.firing.items()
    ]
    series = [{"series": name, "values": values} for name, values in course.series.items()]
    test = {"interval": "1m", "input_series": series, "alert_rule_test": expected}
    run_promtool(directory, {"rule_files": [str(directory / "rules.yaml")], "tests": [test]})


@pytest.mark.parametrize("alert", sorted(COURSES))
def test_an_alert_fires_when_it_should_and_ends(alert: str, tmp_path: Path) -> None:
    run_course(tmp_path, alert, COURSES[alert])


@pytest.mark.parametrize("way", sorted(DEAF))
def test_an_operator_that_is_deaf_in_any_way_is_an_alert(way: str, tmp_path: Path) -> None:
    run_course(tmp_path, "EaselOperatorDeaf", DEAF[way])


def test_every_alert_has_a_course_that_fires() -> None:
    assert {*COURSES, "EaselOperatorDeaf"} == set(NAMES)
    courses = (*COURSES.values(), *DEAF.values())
    assert all([] in course.firing.values() and any(course.firing.values()) for course in courses)


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_with_the_labels_that_it_has(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    annotations = rule["annotations"]
    assert {"summary", "description", "runbook_url"} <= set(annotations)
    kept = {label for group in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in group.split(", ")}
    if "namespace_service" in rule["expr"]:
        kept |= {"namespace", "service"}
    used = set(re.findall(r"\$labels\.(\w+)", f"{annotations['summary']} {annotations['description']}"))
    assert used <= kept
    assert "$" in annotations["summary"] + annotations["description"] or not kept, "says whose, or how much"


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    written = {file.stem for file in RUNBOOKS.glob("*.md")} - {"README"}
    assert written == {*NAMES, *SERVICE_ALERTS}
    for rule in ALERTS:
        assert rule["annotations"]["runbook_url"] == f"{RUNBOOK_URL}/{rule['alert']}.md"


@pytest.mark.parametrize("name", sorted({*NAMES, *SERVICE_ALERTS}))
def test_a_runbook_says_what_to_look_at_and_what_to_do(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert [line for line in text.splitlines() if line.startswith("## ")] == list(PARTS)
    looks = text.partition(PARTS[2])[2].partition(PARTS[3])[0]
    assert "\n1. " in looks
    assert re.search(r"`(kubectl|easel|helm|redis-cli|promtool) ", looks) or "```" in looks, "a command to begin with"
    assert f"({name}.md)" in (RUNBOOKS / "README.md").read_text()
