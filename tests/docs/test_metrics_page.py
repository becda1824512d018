"""The page of metrics: every metric is in it, its queries are Prometheus' and ask for metrics that there are."""

import asyncio
import re
import subprocess
from pathlib import Path

import pytest
from easel_contract import metrics as contract
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import open_memory_stores
from easel_server.telemetry.metrics import ServerMetrics
from prometheus_client import REGISTRY, generate_latest

from scripts.write_metrics import PAGE, build_groups, build_page

QUERY = re.compile(r"^\| .+ \| `(.+)` \|$", re.MULTILINE)
LABELS = {"namespace": "studio", "service": "painter"}


def read_queries() -> list[str]:
    return [query.replace("\\|", "|") for query in QUERY.findall(PAGE.read_text().partition("## What is held")[0])]


def test_the_page_is_what_is_registered() -> None:
    assert build_page() == PAGE.read_text(), "run: python scripts/write_metrics.py"


def test_every_metric_of_the_contract_is_registered_by_somebody() -> None:
    shown = {row.name for rows in build_groups().values() for row in rows}
    named = {
        value
        for name, value in vars(contract).items()
        if isinstance(value, str) and value.startswith("easel_") and not name.startswith(("EXTERNAL_", "__"))
    }
    assert named - shown == set()


def test_the_queries_are_promql_over_metrics_and_labels_that_there_are(tmp_path: Path) -> None:
    rows = {row.name: row for rows in build_groups().values() for row in rows}
    queries = read_queries()
    assert len(queries) > 10
    rules = "".join(f"    - record: q:{number}\n      expr: {query!r}\n" for number, query in enumerate(queries))
    file = tmp_path / "rules.yaml"
    file.write_text(f"groups:\n  - name: page\n    rules:\n{rules}")
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for query in queries:
        for name in re.findall(r"easel_\w+", query):
            kind = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name in rows or rows[kind].kind == "histogram", name


@pytest.mark.parametrize("role", ["gateway", "worker", "operator"])
def test_a_page_follows_the_rules_of_names_and_units(role: str) -> None:
    page = generate_latest(REGISTRY)
    if role != "operator":
        stores = open_memory_stores(JobBounds())
        metrics = ServerMetrics(gateway=role == "gateway", worker=role == "worker", labels=LABELS)
        page = asyncio.run(metrics.render(stores.jobs, stores.images, stores.usage))
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
