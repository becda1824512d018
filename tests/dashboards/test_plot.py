"""Our plot of the dashboards: the shipped JSON on a real Prometheus, as the command's user has it."""

import io
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dashboards.picture.prometheus import Prometheus, PrometheusError, Series, Window
from dashboards.picture.style import THEMES, color_at, find_look
from dashboards.picture.table import join_rows, list_columns
from dashboards.picture.units import format_value
from tests.dashboards.promql import NAMES, panels_of, queries_of
from tests.support.prometheus_server import PrometheusServer

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 5
MAX_PNG_BYTES = 400_000


def build_past(now: float) -> str:
    """Five minutes of a service in OpenMetrics, a sample a second: a queue, workers, a table's rows."""
    moments = range(int(now) - MINUTES * 60, int(now))
    here = 'namespace="default",service="tiny"'
    courses = {
        "easel_backlog_gpu_seconds": {f'{here},state="Waiting"': 30.0, f'{here},state="Running"': 8.0},
        "easel_service_condition": {f'{here},type="Ready",status="False",reason="RedisFull"': 1.0},
        "easel_service_decision": {f'{here},reason="MaxReplicas"': 1.0},
        "easel_service_worker_replicas": {here: 4.0},
        "easel_service_worker_pods": {f'{here},phase="Ready"': 3.0, f'{here},phase="Loading"': 1.0},
    }
    lines = []
    for metric, series in courses.items():
        lines.append(f"# TYPE {metric} gauge")
        lines += [f"{metric}{{{labels}}} {value} {at}" for labels, value in series.items() for at in moments]
    lines.append("# TYPE easel_jobs_submitted counter")
    lines += [f"easel_jobs_submitted_total{{{here}}} {at - moments[0]} {at}" for at in moments]
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def now() -> float:
    return time.time()


@pytest.fixture(scope="module")
def prometheus(now: float) -> Iterator[PrometheusServer]:
    with PrometheusServer({}, past=build_past(now)) as server:
        yield server


def plot(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dashboards.picture", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


def read_dark_share(image: Image.Image, box: tuple[int, int, int, int]) -> float:
    """How much of a part of an image isn't nearly white."""
    return float((np.asarray(image.convert("L").crop(box)) < 200).mean())


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_of_a_dashboard_is_plotted(
    name: str, prometheus: PrometheusServer, now: float, tmp_path: Path
) -> None:
    file = tmp_path / "plot.png"
    whose = ("--service", "tiny") if name == "service" else ()
    times = ("--from", str(now - 240), "--to", str(now - 10))
    done = plot("--prometheus", prometheus.url, *times, *whose, "--output", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert file.stat().st_size < MAX_PNG_BYTES
    image = Image.open(io.BytesIO(file.read_bytes()))
    assert image.width == 1500
    assert image.height > 1000
    assert read_dark_share(image, (0, 40, 1500, image.height)) > 0.02, "there is something on it"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--prometheus", "http://127.0.0.1:9", "--from", "0", "--to", "60"), "no answer of http://127.0.0.1:9"),
        (("--prometheus", "file:///etc/passwd", "--from", "0", "--to", "60"), "begins with http:// or https://"),
        (("--prometheus", "http://127.0.0.1:9", "--from", "60", "--to", "0"), "--to 0.0 isn't after --from 60.0"),
        (("--prometheus", "http://127.0.0.1:9", "--from", "yesterday", "--to", "0"), "argument --from: invalid"),
    ],
)
def test_what_can_t_be_done_is_a_sentence_and_no_file(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = plot(*words, "--output", str(tmp_path / "plot.png"))
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_query_that_prometheus_refuses_is_named(prometheus: PrometheusServer) -> None:
    window = Window(0, 60, 1)
    client = Prometheus(prometheus.url, {"namespace": "default"})
    with pytest.raises(PrometheusError, match=r"sum\(: 400 .*bad_data"):
        client.query("sum(", "", window)
    with pytest.raises(PrometheusError, match=r"there is no variable \$service, only"):
        client.query('up{service="$service"}', "", window)


def test_grafanas_interval_is_four_scrapes_or_a_step_and_a_scrape(prometheus: PrometheusServer) -> None:
    client = Prometheus(prometheus.url, {})  # it scrapes once a second
    assert client.fill_in("rate(a[$__rate_interval])", 1) == "rate(a[4s])"
    assert client.fill_in("rate(a[$__rate_interval])", 60) == "rate(a[61s])"


def test_values_come_with_the_legend_s_labels_filled_in(prometheus: PrometheusServer, now: float) -> None:
    client = Prometheus(prometheus.url, {"namespace": "default", "service": "tiny"})
    window = Window(now - 60, now - 10, 10)
    queries = {(title, target["refId"]): target for title, target in queries_of("service")}
    target = queries["Backlog in GPU-seconds", "B"]
    (waiting,) = client.query_range(target["expr"], target["legendFormat"], window)
    assert (waiting.name, waiting.last, len(waiting.values)) == ("waiting", 30.0, 6)
    (demand,) = client.query_range(queries["Demand", "A"]["expr"], "accepted", window)
    assert demand.last == pytest.approx(1, rel=0.05)
    (why,) = client.query_range(queries["Why so many workers", "A"]["expr"], "because of {{reason}}", window)
    assert why.name == "because of MaxReplicas"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "s", "0 s"),
        (0.25, "s", "250 ms"),
        (7200, "s", "2 h"),
        (0.256, "percentunit", "25.6 %"),
        (2**30, "bytes", "1 GiB"),
        (1500, "none", "1.5 k"),
        (0.05, "reqps", "0.05 /s"),
        (math.nan, "none", "-"),
        (math.inf, "s", "∞"),
    ],
)
def test_values_are_said_in_their_unit(value: float, unit: str, text: str) -> None:
    assert format_value(value, unit) == text


def test_a_unit_or_a_colour_that_isn_t_known_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unit 'furlongs': known are bytes, none"):
        format_value(1, "furlongs")
    steps = {"steps": [{"value": None, "color": "mauve"}]}
    with pytest.raises(ValueError, match=r"colour 'mauve': known are text, blue"):
        color_at(1, steps, THEMES["light"])


def test_a_threshold_that_is_reached_gives_its_colour() -> None:
    steps = {
        "steps": [{"value": None, "color": "green"}, {"value": 0.8, "color": "yellow"}, {"value": 1, "color": "red"}]
    }
    colors = [color_at(value, steps, THEMES["light"]) for value in (0.5, 0.8, 1, 7)]
    assert colors == ["#56a64b", "#e0b400", "#e02f44", "#e02f44"]


def test_the_target_is_a_dashed_line_over_stacked_phases() -> None:
    panel = next(panel for panel in panels_of("service") if panel["title"] == "Latency by phase")
    queue, target = Series("queue", {}, (), ()), Series("target", {}, (), ())
    phase = find_look(panel, queue, "A", 0, THEMES["light"])
    bound = find_look(panel, target, "B", 4, THEMES["light"])
    assert (phase.stacked, phase.dashed, bound.stacked, bound.dashed) == (True, False, False, True)
    assert phase.color != bound.color


def test_a_table_joins_the_answers_of_its_queries_by_service() -> None:
    panel = next(panel for panel in panels_of("fleet") if panel["title"] == "Each service")
    columns = list_columns(panel)
    assert [column.title for column in columns][:4] == ["Namespace", "Service", "Ordered", "Ready"]
    tiny, sdxl = ({"namespace": "default", "service": name} for name in ("tiny", "sdxl"))
    answers = {"A": [Series("", tiny, (0,), (4,)), Series("", sdxl, (0,), (1,))], "B": [Series("", tiny, (0,), (3,))]}
    assert join_rows(answers) == [(sdxl, {"A": 1}), (tiny, {"A": 4, "B": 3})]
