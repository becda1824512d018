"""What Grafana's dashboard-linter would say that matters here, and rules of this project, on the shipped JSON."""

import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import easel_operator.operator_metrics  # noqa: F401 - registers the operator's metrics
import pytest
import yaml
from easel_contract import metrics
from easel_operator.cluster.redis.figures import TEXTS
from prometheus_client import REGISTRY

from dashboards.picture.style import COLORS
from dashboards.picture.units import UNITS
from tests.dashboards.promql import NAMES, OTHER_RANGE, metrics_in, panels_of, queries_of, read_dashboard
from tests.e2e.dashboard_queries import WITHOUT_DATA, list_queries

ROOT = Path(__file__).resolve().parents[2]
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
PANELS = [pytest.param(panel, id=f"{name}: {panel['title']}") for name in NAMES for panel in panels_of(name)]
QUERIES = [
    pytest.param(name, target, id=f"{name}: {title} {target['refId']}")
    for name in NAMES
    for title, target in queries_of(name)
]
SCOPES = {"service": ('namespace="$namespace"', 'service="$service"'), "fleet": ('namespace=~"$namespace"',)}
HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")
# Of the installation as a whole, so of no namespace and no service.
OF_NOBODY = {
    *TEXTS,
    metrics.OPERATOR_API_REQUESTS_TOTAL,
    metrics.OPERATOR_CERTIFICATE_EXPIRY,
    "easel_operator_faults_total",
    "easel_operator_is_leader",
    "easel_operator_reconcile_seconds",
    "easel_operator_reconciles_total",
    "easel_operator_scaling_tick_seconds",
}


def exported() -> set[str]:
    """Every metric that the contract or the operator names, without a histogram's suffixes."""
    contract = {value for value in vars(metrics).values() if isinstance(value, str) and value.startswith("easel_")}
    operators = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in REGISTRY.collect()
        if family.name.startswith("easel_")
    }
    return contract | operators | set(TEXTS)


def without_suffix(metric: str) -> str:
    for part in HISTOGRAM_PARTS:
        metric = metric.removesuffix(part)
    return metric


def test_the_files_are_what_the_builders_say() -> None:
    command = [sys.executable, "-m", "dashboards.write", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_asks_for_its_datasource_and_names_none(name: str) -> None:
    dashboard = read_dashboard(name)
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert set(variables) == {"datasource", "namespace"} | ({"service"} if name == "service" else set())
    assert all(variable["datasource"] == DATASOURCE for key, variable in variables.items() if key != "datasource")
    assert dashboard["uid"] == f"easel-{name}"
    assert dashboard["editable"] is False, "the chart's next release would take a change away"
    titles = [panel["title"] for panel in panels_of(name)]
    assert len(set(titles)) == len(titles)
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows_and_what_to_do(panel: dict[str, Any]) -> None:
    assert panel["title"].strip()
    assert len(panel["description"]) > 60, "what to do if it looks bad"
    assert panel["datasource"] == DATASOURCE
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    if panel["type"] == "timeseries":
        assert panel["options"]["legend"]["showLegend"]
        assert panel["fieldConfig"]["defaults"]["min"] == 0, "an axis that begins elsewhere makes much of little"


@pytest.mark.parametrize("panel", PANELS)
def test_colours_are_names_that_fit_both_of_grafanas_backgrounds(panel: dict[str, Any]) -> None:
    text = yaml.safe_dump(panel)
    assert "#" not in text.replace("Value #", ""), "a colour by its number"
    fixed = [line.partition(":")[2].strip() for line in text.splitlines() if "fixedColor:" in line or " color:" in line]
    assert set(fixed) - {""} <= {*COLORS, "text"}


@pytest.mark.parametrize("name", NAMES)
def test_panels_fill_the_grid_and_lie_side_by_side(name: str) -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in read_dashboard(name)["panels"]]
    for _, place in places:
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
    for (one, a), (other, b) in combinations(places, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        below = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart or below, f"{one} lies over {other}"
    area = sum(place["w"] * place["h"] for _, place in places)
    assert area == 24 * max(place["y"] + place["h"] for _, place in places), "no holes"


@pytest.mark.parametrize(("name", "target"), QUERIES)
def test_a_query_is_of_what_was_picked_and_of_metrics_that_there_are(name: str, target: dict[str, Any]) -> None:
    assert target["datasource"] == DATASOURCE
    assert target["legendFormat"]
    found = metrics_in(target["expr"])
    assert found
    known = exported()
    for metric, matchers in found:
        assert metric in known or without_suffix(metric) in known, metric
        if without_suffix(metric) not in OF_NOBODY:
            assert all(part in matchers for part in SCOPES[name]), metric


@pytest.mark.parametrize(("name", "target"), QUERIES)
def test_counters_are_asked_for_their_rate_over_grafanas_interval(name: str, target: dict[str, Any]) -> None:
    expression = target["expr"]
    assert not OTHER_RANGE.search(expression), "a range that scrapes or zoom may make too short"
    counters = {
        metric
        for metric, _ in metrics_in(expression)
        if metric.endswith(("_total", *HISTOGRAM_PARTS)) and metric != metrics.CUSTOMER_GPU_SECONDS_TOTAL  # of a day
    }
    assert all(f"rate({metric}" in expression for metric in counters), counters


def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"query:{number}", "expr": fill_in(target["expr"])}
        for number, (_, target) in enumerate(query for name in NAMES for query in queries_of(name))
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rules) > 60, "this test would hold for nothing"


def fill_in(expression: str) -> str:
    for variable, value in {"$__rate_interval": "1m", "$namespace": "default", "$service": "tiny"}.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, "a variable that nobody fills in"
    return expression


def test_what_is_said_to_have_no_data_in_a_run_is_a_query_and_has_a_reason() -> None:
    known = {name for name, _ in list_queries()}
    assert set(WITHOUT_DATA) <= known
    assert all(len(reason) > 10 for reason in WITHOUT_DATA.values())
    assert len(WITHOUT_DATA) < len(known) / 10, "most queries are tried"
