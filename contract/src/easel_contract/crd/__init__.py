"""The CustomResourceDefinition, built from the pydantic models. ``make crds`` writes it; a test holds it equal.

Pydantic's JSON schema becomes a Kubernetes structural schema: references are inlined, ``Optional`` loses its null
branch, titles and ``additionalProperties: false`` go (the API server prunes, and kubectl's strict validation reports
unknown fields).
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from typing import Any

from pydantic import BaseModel

from easel_contract import names
from easel_contract.resource import StableDiffusionServiceSpec, StableDiffusionServiceStatus
from easel_contract.schema import cel, validations

DROPPED_KEYS = frozenset({"title", "$defs", "const"})
MAX_MAP_ENTRIES = 64
# It becomes part of children's names and of a label value, which end at 63 characters.
NAME_SCHEMA = {
    "type": "string",
    "maxLength": 50,
    "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$",
    "description": "Lower-case letters, digits and hyphens, beginning with a letter: the pods' ServiceAccount and the "
    "Service have this name, other children add to it.",
}
# One that is stored already keeps its status, which says what is in its way.
NAME_RULE = cel(
    "oldSelf.hasValue() || self.metadata.name != 'default'",
    "the name default is taken: every namespace has a ServiceAccount default; choose another name",
) | {"optionalOldSelf": True}


def build_structural_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Structural schema of a model, by its wire names."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    definitions = schema.get("$defs", {})
    return _structural(schema, definitions)


def _structural(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[-1]]
        return _structural({**target, **{key: value for key, value in node.items() if key != "$ref"}}, definitions)
    if "anyOf" in node:
        branches = [branch for branch in node["anyOf"] if branch.get("type") != "null"]
        if len(branches) != 1:
            raise TypeError(f"a structural schema has no unions: {branches}")
        rest = {key: value for key, value in node.items() if key != "anyOf"}
        return _structural({**branches[0], **rest}, definitions)
    return _clean(node, definitions)


def _clean(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = {key: value for key, value in node.items() if key not in DROPPED_KEYS}
    if schema.get("default", ...) is None:
        del schema["default"]
    if "const" in node:
        schema["enum"] = [node["const"]]
    if "properties" in schema:
        schema["properties"] = {name: _structural(child, definitions) for name, child in schema["properties"].items()}
        schema.pop("additionalProperties", None)
        if "default" in schema:
            # Each property brings its own default; a spelled-out copy would hold nulls, which the API server refuses.
            schema["default"] = {}
    elif isinstance(schema.get("additionalProperties"), dict):
        schema["additionalProperties"] = _structural(schema["additionalProperties"], definitions)
        schema["maxProperties"] = MAX_MAP_ENTRIES  # the cost of a CEL rule is bounded by the size of what it sees
    if "items" in schema:
        schema["items"] = _structural(schema["items"], definitions)
    if schema.get("format") == "ipvanynetwork":
        del schema["format"]
    return schema


def _column(name: str, path: str, kind: str = "string", *, priority: int = 0) -> dict[str, Any]:
    return {"name": name, "jsonPath": path, "type": kind, "priority": priority}


def _printer_columns() -> list[dict[str, Any]]:
    return [
        _column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        _column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
        _column("Pods", ".status.replicas", "integer"),
        _column("Serving", ".status.readyReplicas", "integer"),
        _column("Desired", ".status.scaling.desiredReplicas", "integer"),
        _column("URL", ".status.url"),
        _column("Age", ".metadata.creationTimestamp", "date"),
        _column("Rollout", '.status.conditions[?(@.type=="Progressing")].reason', priority=1),
        _column("AddOns", '.status.conditions[?(@.type=="AddOnsAvailable")].reason', priority=1),
        _column("Scaling", ".status.scaling.reason", priority=1),
        _column("Message", '.status.conditions[?(@.type=="Ready")].message', priority=1),
    ]


def _build_object_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "Stable Diffusion behind an HTTP API, on GPU workers whose number follows the work.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object", "properties": {"name": NAME_SCHEMA}},
            "spec": build_structural_schema(StableDiffusionServiceSpec),
            "status": build_structural_schema(StableDiffusionServiceStatus),
        },
        **validations(NAME_RULE),
    }


def _drop_descriptions(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: _drop_descriptions(value)
            for key, value in node.items()
            if not (key == "description" and isinstance(value, str))
        }
    return [_drop_descriptions(each) for each in node] if isinstance(node, list) else node


def _build_version(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "served": True,
        "storage": name == names.API_VERSION,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": _printer_columns(),
        "schema": {"openAPIV3Schema": schema},
    }


def build_crd() -> dict[str, Any]:
    """The whole CustomResourceDefinition, ready to be written as YAML.

    All versions have one schema. Only the first says what fields mean, which is what ``kubectl explain`` reads: with
    the sentences twice the definition would soon be larger than the annotation that ``kubectl apply`` keeps (256 KiB).
    """
    schema = _build_object_schema()
    first, *others = names.SERVED_API_VERSIONS
    bare = _drop_descriptions(schema) | {"description": f"As {names.API_GROUP}/{first}, under an earlier name."}
    versions = [_build_version(first, schema), *(_build_version(other, bare) for other in others)]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.API_GROUP}"},
        "spec": {
            "group": names.API_GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": list(names.SHORT_NAMES),
                "categories": [names.CATEGORY],
            },
            "versions": versions,
        },
    }
