"""Every query of the shipped dashboards, asked of a Prometheus that watched an end-to-end run."""

import os
import subprocess
import sys
from pathlib import Path

from dashboards.picture.prometheus import Prometheus, Window
from demo.cluster import ROOT
from tests.dashboards.promql import NAMES, queries_of

# What has nothing to show in that run, and why. Such a query is parsed, and its metrics exist, as those of all others
# (tests/dashboards).
WITHOUT_DATA = {
    "fleet: Faults and failed scrapes A": "the operator meets no fault",
}
ENV_PLOTS = "EASEL_WRITE_PLOTS"  # a folder for plots of the run, such as docs


def list_queries() -> list[tuple[str, str]]:
    """Each query by its dashboard, panel and reference, with its PromQL."""
    return [
        (f"{name}: {title} {target['refId']}", target["expr"]) for name in NAMES for title, target in queries_of(name)
    ]


def find_unanswered(url: str, service: str, begin: float, end: float) -> set[str]:
    """Queries that gave no sample at any moment of the run."""
    one = Prometheus(url, {"namespace": "default", "service": service})
    all_of_them = Prometheus(url, {"namespace": ".*"})
    window = Window(begin, end, 2.0)
    return {
        name
        for name, expression in list_queries()
        if not (one if name.startswith("service:") else all_of_them).query_range(expression, "", window)
    }


def write_plots(url: str, service: str, begin: float, end: float) -> None:
    """The plots that the documents show, where they are asked for."""
    folder = os.environ.get(ENV_PLOTS)
    if not folder:
        return
    for name, words in (("service", ("--namespace", "default", "--service", service)), ("fleet", ())):
        file = Path(folder) / f"dashboard-{name}.png"
        command = [sys.executable, "-m", "dashboards.picture", "--prometheus", url, "--output", str(file.resolve())]
        subprocess.run([*command, "--from", str(begin), "--to", str(end), *words], cwd=ROOT, check=True)
