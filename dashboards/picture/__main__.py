"""Plots a dashboard's panels from a Prometheus into a PNG.

``python -m dashboards.picture --prometheus URL --from T --to T --namespace NS --service NAME --output FILE.png`` is the
dashboard of one service; without ``--service`` it is the fleet's. Times are Unix seconds or ISO 8601.
"""

import argparse
import io
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from PIL import Image

from dashboards.picture.grid import DPI, MARGIN, PAGE_WIDTH, Page, find_box
from dashboards.picture.panels import plot_panel
from dashboards.picture.prometheus import Prometheus, PrometheusError, Window
from dashboards.picture.style import THEMES, Theme
from dashboards.write import FOLDER

SAMPLES: Final = 240  # over the window
MIN_STEP_SECONDS: Final = 1.0
PNG_COLORS: Final = 255
ALL: Final = ".*"


def plot_dashboard(
    dashboard: dict[str, Any], prometheus: Prometheus, window: Window, theme: Theme, names: str
) -> bytes:
    """A PNG of all panels. ``names``: what the variables say, for the heading."""
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    page = Page(rows, theme)
    page.write(MARGIN + 2, 28, dashboard["title"], 15, theme.text, weight="bold")
    page.write(PAGE_WIDTH - MARGIN, 28, f"{names}   {_say(window)}", 9.5, theme.muted, ha="right")
    for panel in panels:
        box = find_box(panel["gridPos"])
        if panel["type"] == "row":
            page.write(box.x + 4, box.y + box.height / 2 + 2, panel["title"], 10.5, theme.text, weight="bold")
        else:
            plot_panel(page, box, panel, prometheus, window)
    file = io.BytesIO()
    page.figure.savefig(file, format="png", dpi=DPI)
    # A palette makes the file a third; the few colours of a page lose nothing by it.
    small = Image.open(file).convert("RGB").quantize(PNG_COLORS, dither=Image.Dither.NONE)
    packed = io.BytesIO()
    small.save(packed, format="png", optimize=True)
    return packed.getvalue()


def _say(window: Window) -> str:
    begin, end = (datetime.fromtimestamp(at, UTC) for at in (window.begin, window.end))
    return f"{begin:%Y-%m-%d %H:%M:%S} to {end:%H:%M:%S} UTC"


def read_time(text: str) -> float:
    """Unix seconds. Raises ValueError for what is neither a number nor ISO 8601."""
    try:
        return float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def build_window(begin: float, end: float) -> Window:
    """With steps of whole seconds. Raises ValueError where the end isn't after the beginning."""
    if end <= begin:
        raise ValueError(f"--to {end} isn't after --from {begin}")
    step = max(MIN_STEP_SECONDS, float(round((end - begin) / SAMPLES)))
    return Window(begin, end, step)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dashboards.picture", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prometheus", metavar="URL", required=True, help="such as http://127.0.0.1:9090")
    parser.add_argument("--from", dest="begin", metavar="T", type=read_time, required=True, help="Unix or ISO 8601")
    parser.add_argument("--to", dest="end", metavar="T", type=read_time, required=True)
    parser.add_argument("--namespace", metavar="NS", help="default: all, or `default` with --service")
    parser.add_argument("--service", metavar="NAME", help="the dashboard of this service; else the fleet's")
    parser.add_argument("--theme", choices=sorted(THEMES), default="light")
    parser.add_argument("--output", metavar="FILE.png", type=Path, required=True)
    return parser


def main() -> int:
    """The exit status is 2 where a query fails or the arguments make no sense, with a sentence on standard error."""
    arguments = _build_parser().parse_args()
    name = "service" if arguments.service else "fleet"
    namespace = arguments.namespace or ("default" if arguments.service else ALL)
    variables = {"namespace": namespace} | ({"service": arguments.service} if arguments.service else {})
    dashboard = json.loads((FOLDER / f"{name}.json").read_text())
    shown = f"{namespace}/{arguments.service}" if arguments.service else namespace.replace(ALL, "all namespaces")
    try:
        window = build_window(arguments.begin, arguments.end)
        prometheus = Prometheus(arguments.prometheus, variables)
        image = plot_dashboard(dashboard, prometheus, window, THEMES[arguments.theme], shown)
        arguments.output.write_bytes(image)
    except (PrometheusError, ValueError, OSError) as error:
        sys.stderr.write(f"dashboards.picture: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
