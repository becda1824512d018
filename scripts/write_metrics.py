"""Writes docs/metrics.md: every metric with its type, labels and meaning, as a gateway, a worker and the operator
register them, within the page that metrics_page.md is. ``--check`` compares.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import easel_operator.main  # noqa: F401  # all that registers metrics of the operator
from easel_contract import metrics as contract
from easel_contract.resource import ServiceDefaults
from easel_operator.telemetry.service_figures import ServiceFigures
from easel_server.engine.model_cache.progress import build_registry
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import open_memory_stores
from easel_server.stores.usage.interface import MAX_CUSTOMERS, OTHERS, USAGE_DAYS
from easel_server.telemetry.metrics import ServerMetrics
from prometheus_client import REGISTRY, CollectorRegistry

PAGE = Path(__file__).resolve().parents[1] / "docs/metrics.md"
OWN = "easel_"
TEMPLATE = Path(__file__).with_name("metrics_page.md")


@dataclass(frozen=True)
class Row:
    """One metric."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def read_rows(registry: CollectorRegistry) -> Iterator[Row]:
    """The metrics of a registry, by name."""
    labels = {
        getattr(each, "_name", ""): tuple(getattr(each, "_labelnames", ()))
        for each in registry._collector_to_names  # prometheus-client has no other way to them before they have a value
    }
    for family in registry.collect():
        if family.name.startswith(OWN):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            own = labels.get(family.name, tuple(getattr(family, "_labelnames", ())))
            yield Row(name, family.type, own, family.documentation)


async def gather_servers() -> tuple[list[Row], list[Row]]:
    """Those of a gateway and of a worker, over an empty store."""
    stores = open_memory_stores(JobBounds())
    found = []
    for is_gateway in (True, False):
        metrics = ServerMetrics(gateway=is_gateway, worker=not is_gateway)
        await metrics.render(stores.jobs, stores.images, stores.usage)
        found.append(list(read_rows(metrics.registry)))
    return found[0], found[1]


def gather_operator() -> list[Row]:
    """Those of the operator, over no services."""
    figures = CollectorRegistry()
    figures.register(ServiceFigures((), lambda _: {}, ServiceDefaults(), lambda: datetime.now(UTC)))
    return [*read_rows(REGISTRY), *read_rows(figures)]


def build_groups() -> dict[str, list[Row]]:
    """All metrics, by who says them."""
    gateway, worker = asyncio.run(gather_servers())
    operator = gather_operator()
    named = {row.name for row in gateway} & {row.name for row in worker}
    of_services = {row.name for row in operator if row.name.startswith("easel_service_")}
    implied = {contract.LABEL_NAMESPACE, contract.LABEL_SERVICE}
    return {
        "Gateways and workers": [row for row in gateway if row.name in named],
        "Gateways": [row for row in gateway if row.name not in named],
        "Workers": [row for row in worker if row.name not in named],
        "The Job that fills a model's cache": list(read_rows(build_registry())),
        "The operator, of each service": [
            replace(row, labels=tuple(label for label in row.labels if label not in implied))
            for row in operator
            if row.name in of_services
        ],
        "The operator": [row for row in operator if row.name not in of_services],
    }


def build_page() -> str:
    """The whole page: the template, and the tables."""
    tables = []
    for title, rows in build_groups().items():
        tables += [f"## {title}\n", "| metric | type | labels | what |\n| --- | --- | --- | --- |"]
        tables.append("\n".join(_to_line(row) for row in sorted(rows, key=lambda row: row.name)) + "\n")
    page = TEMPLATE.read_text()
    values = {"DAYS_KEPT": USAGE_DAYS, "CUSTOMERS_A_DAY": MAX_CUSTOMERS, "OTHER_CUSTOMERS": OTHERS}
    for name, value in {**values, "TABLES\n": "\n".join(tables)}.items():
        page = page.replace(name, str(value))
    return page


def _to_line(row: Row) -> str:
    labels = ", ".join(f"`{label}`" for label in row.labels)
    return f"| `{row.name}` | {row.kind} | {labels} | {row.text.replace('|', chr(92) + '|')} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write it, or compare; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail where it differs")
    page = build_page()
    if not parser.parse_args(arguments).check:
        PAGE.write_text(page)
    elif not PAGE.exists() or PAGE.read_text() != page:
        sys.stderr.write(f"docs/{PAGE.name} isn't what is registered; run: python scripts/write_metrics.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
