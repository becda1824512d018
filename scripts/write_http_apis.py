"""Writes the page of the HTTP APIs from a gateway's own description (OpenAPI); ``--check`` compares.

It asks a server of the synthetic engine, started for that: what it describes is what it serves.
"""

import argparse
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs/http-apis.md"
ANSWER_SECONDS = 60
START = [sys.executable, "-m", "easel_server.start", "--engine", "synthetic", "--model", "any", "--port", "0"]
# The bodies that are described field by field: title, route, media type, and where in the schema.
BODIES = (
    ("OpenAI: generations", "/v1/images/generations", "application/json", ()),
    ("OpenAI: edits, besides", "/v1/images/edits", "application/json", ()),
    ("OpenAI: upscales", "/v1/images/upscales", "multipart/form-data", ()),
    ("Predictions", "/v1/predictions", "application/json", ()),
    ("Predictions: `input`", "/v1/predictions", "application/json", ("input",)),
    ("AUTOMATIC1111: txt2img", "/sdapi/v1/txt2img", "application/json", ()),
    ("AUTOMATIC1111: img2img, besides", "/sdapi/v1/img2img", "application/json", ()),
)
HEAD = """\
# The HTTP APIs

Written by `scripts/write_http_apis.py` from what a gateway says of itself: change the routes, not this page. Each
gateway has the same at `/docs`, to be tried in a browser, and at `/openapi.json`, for generators of clients. What the
fields mean together: [from a request to its images](developers/serving.md); which client sends what:
[clients](developers/clients.md).
"""
Json = dict[str, Any]


def read_description() -> Json:
    """The OpenAPI document of a server that is started for it, and ended."""
    with subprocess.Popen(START, stdout=subprocess.PIPE, text=True) as server:
        try:
            lines = map(json.loads, server.stdout or ())
            port = next(line["port"] for line in lines if line["message"] == "listening")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=ANSWER_SECONDS) as answer:
                description: Json = json.load(answer)
        finally:
            server.terminate()
            server.communicate()  # what it says at its end
    return description


def build_page(description: Json) -> str:
    """Routes by API, then the fields of each body that asks for images."""
    return "\n".join([HEAD, *_list_routes(description), *_list_bodies(description)])


def _list_routes(description: Json) -> Iterator[str]:
    by_api: dict[str, list[str]] = {}
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            text = " ".join(operation.get("description", operation["summary"]).split())
            row = f"| `{method.upper()}` | `{path}` | {_escape(text.replace('``', '`'))} |"
            by_api.setdefault(operation["tags"][0], []).append(row)
    for api, rows in by_api.items():
        yield f"## Routes: {api}\n"
        yield "| | path | what |\n| --- | --- | --- |"
        yield "\n".join(rows) + "\n"


def _list_bodies(description: Json) -> Iterator[str]:
    shown: set[str] = set()
    for title, path, media, inside in BODIES:
        schema = description["paths"][path]["post"]["requestBody"]["content"][media]["schema"]
        for name in inside:
            schema = schema["properties"][name]
        fields = {
            name: field
            for name, field in schema["properties"].items()
            if not title.endswith("besides") or name not in shown
        }
        shown = shown | schema["properties"].keys() if title.endswith("besides") else set(schema["properties"])
        yield f"## Fields: {title}\n"
        yield "| field | type | allowed | what |\n| --- | --- | --- | --- |"
        required = schema.get("required", [])
        yield "\n".join(_build_row(name, field, is_required=name in required) for name, field in fields.items()) + "\n"


def _build_row(name: str, field: Json, *, is_required: bool) -> str:
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    types = " or ".join(dict.fromkeys(_name_type(kind) for kind in kinds))
    allowed = "; ".join(dict.fromkeys(filter(None, (_describe_bounds(kind) for kind in kinds))))
    text = " ".join(field.get("description", "").split()).replace("``", "`")
    return f"| `{name}` | {types}{', *required*' if is_required else ''} | {allowed} | {_escape(text)} |"


def _name_type(kind: Json) -> str:
    if kind.get("type") == "array":
        return f"list of {_name_type(kind.get('items', {}))}"
    return str(kind.get("type", "any"))


def _describe_bounds(kind: Json) -> str:
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    largest = 2**53  # what is wider says how it is kept, not what is allowed
    bounds = [("≥", "minimum"), (">", "exclusiveMinimum"), ("≤", "maximum"), ("<", "exclusiveMaximum")]
    found = [f"{sign} {kind[key]:g}" for sign, key in bounds if key in kind and abs(kind[key]) < largest]
    lengths = [
        f"at most {kind[key]} {unit}"
        for key, unit in (("maxLength", "characters"), ("maxItems", "items"))
        if key in kind
    ]
    return ", ".join(found + lengths)


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Write or compare. The exit status is 1 where ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    is_check_only = parser.parse_args().check
    text = build_page(read_description())
    if PAGE.exists() and PAGE.read_text() == text:
        return 0
    if is_check_only:
        sys.stderr.write(f"docs/{PAGE.name} isn't what gateways serve; run: python scripts/write_http_apis.py\n")
        return 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
