"""The API's description (OpenAPI): what the framework can't see, as bodies and errors are handled by hand."""

from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel

Responses = dict[int | str, dict[str, Any]]

# Whatever is asked for, this may be the answer.
COMMON_ERRORS: Final = (401, 429, 503)
RATE_HEADERS: Final = {
    "RateLimit-Limit": "What the tightest limit allows at once.",
    "RateLimit-Remaining": "What is left of it.",
    "RateLimit-Reset": "Seconds until all of it is there again.",
    "RateLimit-Policy": "All limits that hold for the key.",
}
JOB_HEADERS: Final = {
    "X-Cache": "Whether the images came from the cache: hit, miss, shared or bypass.",
    "Warning": 'What was done otherwise than asked, each as `299 - "…"`; absent if nothing was.',
    "Age": "Seconds since a cached image was generated.",
    "X-Prediction-Id": "The job, by which /v1/predictions knows it; absent if no job was needed.",
    **RATE_HEADERS,
}


class DescribedAPI(FastAPI):
    """An app whose description says how keys are sent, if they are asked for."""

    def __init__(self, *, are_keys_needed: bool, **options: Any) -> None:
        super().__init__(**options)
        self._are_keys_needed = are_keys_needed

    def openapi(self) -> dict[str, Any]:
        """FastAPI's description, made once; with keys, each operation that may answer 401 says how they are sent."""
        if self.openapi_schema is None and self._are_keys_needed:
            schema = super().openapi()
            schema.setdefault("components", {})["securitySchemes"] = {
                "Bearer": {"type": "http", "scheme": "bearer"},
                "Basic": {"type": "http", "scheme": "basic", "description": "The key as the password."},
            }
            for path in schema["paths"].values():
                for operation in path.values():
                    if "401" in operation["responses"]:
                        operation["security"] = [{"Bearer": []}, {"Basic": []}]
        return super().openapi()


def describe_errors(model: type[BaseModel], *statuses: int) -> Responses:
    """These errors and those that may come anywhere."""
    return {
        status: {"model": model, "description": HTTPStatus(status).phrase} for status in (*statuses, *COMMON_ERRORS)
    }


def describe_answer(model: Any, description: str, *, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """An answer in JSON; its headers may be absent."""
    described = {name: {"description": text, "schema": {"type": "string"}} for name, text in (headers or {}).items()}
    return {"model": model, "description": description, "headers": described}


def describe_media(*kinds: str, description: str) -> dict[str, Any]:
    """An answer that isn't JSON."""
    schema = {"type": "string", "format": "binary"}
    return {"description": description, "content": {kind: {"schema": schema} for kind in kinds}}


def describe_events(description: str) -> dict[str, Any]:
    """An answer in server-sent events. https://spec.openapis.org/oas/v3.2.0#server-sent-event-streams"""
    text = {"type": "string"}
    event = {"type": "object", "properties": {"event": text, "data": text, "id": text}, "required": ["event", "data"]}
    return {"description": description, "content": {"text/event-stream": {"itemSchema": event}}}


def describe_body(model: type[BaseModel]) -> dict[str, Any]:
    """A JSON body, for a route's ``openapi_extra``."""
    return describe_bodies({"application/json": describe_model(model)})


def describe_bodies(schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A body of one of several media types."""
    content = {kind: {"schema": schema} for kind, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


def describe_headers(**headers: str) -> dict[str, Any]:
    """Headers of a request, all optional; an underscore stands for a hyphen."""
    parameters = [
        {
            "name": name.replace("_", "-"),
            "in": "header",
            "required": False,
            "description": text,
            "schema": {"type": "string"},
        }
        for name, text in headers.items()
    ]
    return {"parameters": parameters}


GENERATION_HEADERS: Final = describe_headers(
    Idempotency_Key="Requests of one key with the same content are one: a later one waits for what the first began.",
    Cache_Control="`no-cache` generates anew, `no-store` keeps nothing, `only-if-cached` generates nothing.",
)


def describe_flag(name: str, text: str) -> dict[str, Any]:
    """A boolean of a query, false where it is absent."""
    schema = {"type": "boolean", "default": False}
    return {"parameters": [{"name": name, "in": "query", "required": False, "description": text, "schema": schema}]}


def describe_text(name: str, text: str) -> dict[str, Any]:
    """A text of a query."""
    schema = {"type": "string"}
    return {"parameters": [{"name": name, "in": "query", "required": False, "description": text, "schema": schema}]}


def describe_model(model: type[BaseModel]) -> dict[str, Any]:
    """A model's schema in one piece: references would be looked for elsewhere in the API's description."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    return _inline(schema, definitions)  # type: ignore[no-any-return]


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        found = definitions[node["$ref"].rpartition("/")[2]]
        return _inline({**found, **{key: value for key, value in node.items() if key != "$ref"}}, definitions)
    return {key: _inline(value, definitions) for key, value in node.items()}
