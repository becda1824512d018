"""Writes the dashboards of the chart from their builders (``make crds``). ``--check`` compares."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import fleet, service

FOLDER: Final = Path(__file__).resolve().parent.parent / "helm/easel/dashboards"
DASHBOARDS: Final[dict[str, Callable[[], Dashboard]]] = {"fleet": fleet.build, "service": service.build}


def to_json(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana loads it, its panels numbered as links to them need it."""
    made: dict[str, Any] = json.loads(json.dumps(dashboard.build(), cls=JSONEncoder))
    for number, panel in enumerate(made["panels"], start=1):
        panel["id"] = number
    return made


def render_all() -> dict[Path, str]:
    """Each file's content."""
    return {
        FOLDER / f"{name}.json": json.dumps(to_json(build()), indent=1, ensure_ascii=False) + "\n"
        for name, build in DASHBOARDS.items()
    }


def main() -> int:
    """Write or compare. The exit status is 1 where ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    is_check_only = parser.parse_args().check
    differing = [(file, text) for file, text in render_all().items() if not file.exists() or file.read_text() != text]
    for file, text in differing:
        if is_check_only:
            sys.stderr.write(f"{file.name} isn't what dashboards/ says; run: python -m dashboards.write\n")
        else:
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
    return int(is_check_only and bool(differing))


if __name__ == "__main__":
    sys.exit(main())
