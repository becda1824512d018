"""The files in crds/ and in the chart are what the models say, and the schema is one that Kubernetes admits."""

import re
import runpy
from pathlib import Path
from typing import Any

import yaml
from easel_contract.conditions import ConditionType
from easel_contract.crd import build_crd

ROOT = Path(__file__).parent.parent.parent


def test_the_written_files_are_what_the_models_say() -> None:
    script = runpy.run_path(str(ROOT / "scripts/write_crds.py"))
    assert script["find_stale_files"]() == {}, "run: make crds"
    assert [yaml.safe_load(file.read_text()) for file in script["CRD_FILES"]] == [build_crd()] * 2


def test_the_schema_is_structural() -> None:
    """No references, no unions, no titles; every node says its type or is int-or-string."""
    version = build_crd()["spec"]["versions"][0]
    faults = list(_find_faults(version["schema"]["openAPIV3Schema"], "$"))
    assert faults == []


def _find_faults(node: dict[str, Any], path: str) -> list[str]:
    forbidden = {"$ref", "$defs", "anyOf", "oneOf", "allOf", "title", "const"} & node.keys()
    faults = [f"{path}: {key}" for key in sorted(forbidden)]
    if "type" not in node and "enum" not in node and "x-kubernetes-int-or-string" not in node:
        faults.append(f"{path}: no type")
    for name, child in node.get("properties", {}).items():
        faults += _find_faults(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            faults += _find_faults(node[key], f"{path}[{key}]")
    return faults


def test_columns_of_kubectl_get_name_conditions_that_there_are() -> None:
    (version,) = build_crd()["spec"]["versions"]
    paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    named = {kind for path in paths for kind in re.findall(r'@\.type=="(\w+)"', path)}
    assert named == {"Ready", "Progressing", "AddOnsAvailable"}
    assert named <= set(ConditionType)
