"""The table of the chart's values is what values.yaml says, and says something of each that isn't plain."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from scripts.write_values import CHART, build_readme, find_rule, read_values

ROOT = Path(__file__).resolve().parents[2]
WHOLE = ("resources", "dashboards.labels", "dashboards.annotations")  # maps that have one row


def test_the_table_of_values_is_what_values_yaml_says() -> None:
    command = [sys.executable, "scripts/write_values.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_key_of_values_yaml_is_in_the_table_with_its_default() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \|", build_readme(), re.MULTILINE))

    def leaves(value: object, path: str) -> dict[str, object]:
        if not isinstance(value, dict) or not value or path.endswith(WHOLE):
            return {path: value}
        return {
            name: leaf
            for key, inner in value.items()
            for name, leaf in leaves(inner, f"{path}.{key}".strip(".")).items()
        }

    found = leaves(defaults, "")
    assert len(found) > 25
    assert {name: yaml.safe_load(rows[name].strip("`")) for name in found} == found


def test_a_comment_belongs_to_the_key_below_it_or_before_it() -> None:
    text = '# Of a\n# and more\na: 1\n\n# of nobody\n\nb:\n  c: x  # of c\n  d: "#1"\n'
    assert [(".".join(value.path), value.comment) for value in read_values(text)][:3] == [
        ("a", "Of a and more"),
        ("b", ""),
        ("b.c", "of c"),
    ]


def test_the_rule_of_a_value_is_found_behind_a_reference() -> None:
    schema = {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"properties": {"b": {"$ref": "#/$defs/n"}}}}}
    assert find_rule(schema, ("a", "b"))["type"] == "integer"
    assert find_rule(schema, ("a", "c")) == {}
