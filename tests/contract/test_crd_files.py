"""The files in crds/ and in the chart are what the models say, and the schema is one that Kubernetes admits."""

import json
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


def test_versions_differ_in_name_only_since_nothing_converts_them() -> None:
    first, *others = build_crd()["spec"]["versions"]
    assert (first["name"], [other["name"] for other in others]) == ("v1beta1", ["v1alpha1"])
    for other in others:
        assert _drop_descriptions(other["schema"]) == _drop_descriptions(first["schema"])
        different = {"name", "schema", "storage"}
        assert {key: other[key] for key in other.keys() - different} == {
            key: first[key] for key in first.keys() - different
        }


def _drop_descriptions(node: Any) -> Any:
    """Of fields, not a field of that name, whose value is a schema."""
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if key != "description" or isinstance(value, dict)}
        return {key: _drop_descriptions(value) for key, value in kept.items()}
    return [_drop_descriptions(each) for each in node] if isinstance(node, list) else node


def test_what_every_release_can_read_is_what_is_stored() -> None:
    assert [version["name"] for version in build_crd()["spec"]["versions"] if version["storage"]] == ["v1alpha1"]


def test_the_definition_fits_the_annotation_of_kubectl_apply() -> None:
    annotation = json.dumps(build_crd(), separators=(",", ":"))
    assert len(annotation) < 256 * 1024 * 9 // 10, "kubectl apply, and Argo CD by default, keep it in an annotation"


def test_columns_of_kubectl_get_name_conditions_that_there_are() -> None:
    version = build_crd()["spec"]["versions"][0]
    paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    named = {kind for path in paths for kind in re.findall(r'@\.type=="(\w+)"', path)}
    assert named == {"Ready", "Progressing", "AddOnsAvailable"}
    assert named <= set(ConditionType)
