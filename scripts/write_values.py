"""Writes the chart's README with the table of its values, from values.yaml and its schema (``make crds``).

A value is described by the comment above it, or behind it; what may be set comes from the schema. ``--check`` compares.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
CHART = ROOT / "helm/easel"
README = CHART / "README.md"
LINE = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z]\w*):(?: +(?P<value>[^#]*?))?(?: +# (?P<comment>.*))?$")
HEADER = """\
# The chart `easel`

{description}. How it is installed: [a cluster with GPUs](../../docs/start/gpu-cluster.md), and
[with GitOps](../../docs/platform/gitops.md). Kubernetes {kubernetes}.

The table is written by `scripts/write_values.py` from `values.yaml`: change that one.

| value | default | may be | what for |
| --- | --- | --- | --- |
"""


@dataclass(frozen=True)
class Value:
    """A key of values.yaml, with its comment."""

    path: tuple[str, ...]
    comment: str


def read_values(text: str) -> Iterator[Value]:
    """Every key in its order. A comment belongs to the key right below it, or to the one in front of it."""
    above: list[str] = []
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# "):
            above.append(stripped[2:])
            continue
        found = LINE.match(line)
        if found is not None:
            indent = len(found["indent"])
            path = [step for step in path if step[0] < indent] + [(indent, found["key"])]
            behind = [found["comment"]] if found["comment"] else []
            yield Value(tuple(key for _, key in path), " ".join([*above, *behind]))
        above = []


def find_rule(schema: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """What the schema says of a value; empty where it says nothing."""
    rule = schema
    for key in path:
        rule = rule.get("properties", {}).get(key, {})
        if "$ref" in rule:
            rule = {**schema["$defs"][rule["$ref"].rpartition("/")[2]], **rule}
    return rule


def describe_rule(rule: dict[str, Any]) -> str:
    """In a few words what may be set."""
    if "enum" in rule:
        return ", ".join(f"`{json.dumps(each).strip(chr(34))}`" for each in rule["enum"])
    kinds = rule.get("type", "")
    words = " or ".join(kinds) if isinstance(kinds, list) else kinds
    if "minimum" in rule or "maximum" in rule:
        words += f", {rule.get('minimum', '')} to {rule.get('maximum', '')}"
    if "pattern" in rule:
        words += f", `{rule['pattern']}`"
    return words.replace("|", "\\|")


def build_readme() -> str:
    """The whole file."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    text = (CHART / "values.yaml").read_text()
    defaults = yaml.safe_load(text)
    rows = [row for value in read_values(text) if (row := _build_row(value, defaults, find_rule(schema, value.path)))]
    header = HEADER.format(description=chart["description"], kubernetes=chart["kubeVersion"].removesuffix("-0"))
    return header + "".join(f"{row}\n" for row in rows)


def _build_row(value: Value, defaults: dict[str, Any], rule: dict[str, Any]) -> str | None:
    """None for a group that says nothing itself, and for what lies in an object that the schema leaves open."""
    default: Any = defaults
    for key in value.path:
        default = default[key]
    is_group = isinstance(default, dict) and bool(default) and "properties" in rule
    if not value.comment and (is_group or not rule):
        return None
    shown = "" if is_group else f"`{json.dumps(default)}`"
    allowed = "" if is_group else describe_rule(rule)
    comment = value.comment.replace("|", "\\|")
    return f"| `{'.'.join(value.path)}` | {shown} | {allowed} | {comment} |"


def main() -> int:
    """Write or compare. The exit status is 1 where ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    is_check_only = parser.parse_args().check
    wanted = build_readme()
    if README.exists() and README.read_text() == wanted:
        return 0
    if is_check_only:
        sys.stderr.write(
            f"{README.relative_to(ROOT)} isn't what values.yaml says; run: python scripts/write_values.py\n"
        )
        return 1
    README.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
