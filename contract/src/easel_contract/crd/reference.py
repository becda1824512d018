"""The reference of the resource's fields as Markdown, from the CRD: what is checked is what is documented."""

from collections.abc import Iterator
from typing import Any

from easel_contract.crd import build_crd

INTRODUCTION = """# StableDiffusionService: every field

Generated from the CRD by `make crds`; `kubectl explain sds.spec` says the same. A dot descends into an object, `[]`
into a list, `{}` into a map. Fields without a default are unset unless marked *required*.
"""
BOUNDS = {"minimum": "≥ {}", "maximum": "≤ {}", "maxLength": "at most {} characters", "maxItems": "at most {} items"}


def build_reference() -> str:
    """The whole document."""
    described, *_ = build_crd()["spec"]["versions"]
    root = described["schema"]["openAPIV3Schema"]
    properties = root["properties"]
    parts = [INTRODUCTION]
    for section in ("metadata", "spec", "status"):
        schema = properties[section]
        rows = [*_rows(section, schema)]
        rules = [f"- `{path}`: {message}" for path, message in _rules(section, schema)]
        if section == "metadata":  # its rule stands at the root: only there may one look at the name
            rules += [f"- `metadata.name`: {rule['message']}" for rule in root["x-kubernetes-validations"]]
        parts.append(
            f"\n## {section}\n\n| field | type | default | allowed | meaning |\n| --- | --- | --- | --- | --- |\n"
        )
        parts.append("".join(f"| {' | '.join(row)} |\n" for row in rows))
        if rules:
            parts.append("\nRules that the API server checks:\n\n" + "\n".join(rules) + "\n")
    return "".join(parts)


def _rows(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return  # the fields are another resource's, and those that the CRD knows are refused
    required = schema.get("required", ())
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        meaning = child.get("description", "").replace("|", "\\|").replace("\n", " ")
        yield f"`{here}`", _type(child), _default(child, is_required=name in required), _allowed(child), meaning
        yield from _rows(here, child)
        yield from _rows(f"{here}[]", child.get("items", {}))
        values = child.get("additionalProperties")
        yield from _rows(f"{here}{{}}", values if isinstance(values, dict) else {})


def _rules(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path, rule["message"]
    for name, child in schema.get("properties", {}).items():
        yield from _rules(f"{path}.{name}", child)
    if "items" in schema:
        yield from _rules(f"{path}[]", schema["items"])


def _type(schema: dict[str, Any]) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    values = schema.get("additionalProperties")
    return f"map of {_type(values)}" if isinstance(values, dict) else str(schema.get("type", ""))


def _default(schema: dict[str, Any], *, is_required: bool) -> str:
    if is_required:
        return "*required*"
    default = schema.get("default")
    return "" if default in (None, {}, []) else f"`{default!r}`" if default == "" else f"`{default}`"


def _allowed(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    return ", ".join(text.format(schema[key]) for key, text in BOUNDS.items() if key in schema)
