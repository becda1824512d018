"""A request's body, bounded while it is read, as a validated value."""

import codecs
import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from fastapi import Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from easel_server.gateway.refusals import FieldFault, refuse_body_size, refuse_field, refuse_fields, refuse_media_type
from easel_server.generation.messages import truncate_repr

JSON_TYPE: Final = re.compile(r"application/(json|[a-z0-9.!#$&^_-]+\+json)", re.IGNORECASE)
MAX_FAULTS = 10  # reported at once


_FLAG: Final = TypeAdapter(bool)

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, model: type[Body], *, limit_bytes: int) -> Body:
    """The JSON body as ``model``.

    Raises RefusalError: 413 beyond the limit, 415 for a body that says it is no JSON, invalid_value for anything
    unexpected. A body that doesn't say what it is counts as JSON: programs send such, pages of other sites with an
    Origin that is refused (``browser_guard.py``).
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip()
    if media_type and not JSON_TYPE.fullmatch(media_type):
        raise refuse_media_type(media_type)
    data = bytearray()
    async for chunk in _bounded(request, limit_bytes):
        data += chunk
    # Pydantic's own JSON parser: it bounds nesting and refuses lone surrogates, which json.loads lets through. RFC 8259
    # lets a parser skip a byte order mark, which editors and shells of Windows write.
    try:
        return model.model_validate_json(bytes(data).removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        raise refuse_fields(*_faults(error)) from None


def validate_fields(model: type[Body], fields: Mapping[str, Any]) -> Body:
    """A form's fields as ``model``; numbers and booleans are read from their text. Raises RefusalError."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise refuse_fields(*_faults(error)) from None


def read_flag(request: Request, name: str) -> bool:
    """A boolean of the query, such as ``?progress=true``; false where it is absent or empty. Raises RefusalError."""
    text = request.query_params.get(name)
    try:
        return bool(text) and _FLAG.validate_python(text)
    except ValidationError as error:
        raise refuse_field(name, f"{error.errors()[0]['msg']}; got {truncate_repr(text)}") from None


def _faults(error: ValidationError) -> Iterable[FieldFault]:
    for detail in error.errors(include_url=False)[:MAX_FAULTS]:
        name = ".".join(str(part) for part in detail["loc"]) or "body"
        if detail["type"] == "missing":
            yield FieldFault(name, "is missing and must be given")
        elif detail["type"] == "extra_forbidden":
            yield FieldFault(name, "is not a known field")
        elif detail["type"] == "json_invalid":
            yield FieldFault("body", f"must be JSON: {detail['msg']}")
        else:
            yield FieldFault(name, f"{detail['msg']}; got {truncate_repr(detail['input'])}")


MAX_FILES = 20
MAX_FIELDS = 100
MAX_DEPTH = 4
NESTED_NAME: Final = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])+)")  # loras[ink], controlnet[][model]

Leaf = tuple[tuple[str, ...], str]  # what is in a name's brackets, and the text


@dataclass
class Form:
    """What a form holds. Lists and objects are fields with brackets in their names, as OpenAI's clients write them."""

    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)


async def read_form(request: Request, *, limit_bytes: int) -> Form:
    """The form. Raises RefusalError: 413 beyond the limit, invalid_value for what is no form or has too many parts.

    What is empty is absent: clients that make forms of structures, and browsers, send fields that nobody has filled in.
    """
    parser = MultiPartParser(
        request.headers,
        _bounded(request, limit_bytes),
        max_files=MAX_FILES,
        max_fields=MAX_FIELDS,
        max_part_size=limit_bytes,
    )
    parser.spool_max_size = limit_bytes  # in memory: a pod may have no disk that it can write to
    try:
        data = await parser.parse()
    except MultiPartException as error:
        raise refuse_field("body", f"must be multipart/form-data: {error.message}") from None
    form = Form()
    leaves: dict[str, list[Leaf]] = {}
    try:
        for name, value in data.multi_items():
            if isinstance(value, UploadFile):
                if (content := await value.read()) or value.filename:
                    form.files.setdefault(name, []).append(content)
            elif value:
                base, path = _split_name(name)
                leaves.setdefault(base, []).append((path, value))
    finally:
        await data.close()
    form.fields = {name: _nest(name, found) for name, found in leaves.items()}
    return form


def _split_name(name: str) -> tuple[str, tuple[str, ...]]:
    nested = NESTED_NAME.fullmatch(name)
    path = tuple(nested[2][1:-1].split("][")) if nested else ()
    if nested is None or len(path) > MAX_DEPTH:
        return name, ()
    return nested[1], path


def _nest(name: str, leaves: Sequence[Leaf]) -> Any:
    """What fields of one name are together. Raises RefusalError where that can't be told.

    Clients agree on ``a[b]`` for objects; for lists they write ``a[]`` or ``a[0]``. Objects in ``a[][b]`` come in any
    order (OpenAI's package for Python puts equal names together): all having the same fields tells them apart.
    """
    firsts = dict.fromkeys(path[:1] for path, _ in leaves)
    if () in firsts:
        if len(leaves) > 1:
            raise refuse_field(name, "is given twice")
        return leaves[0][1]
    if list(firsts) == [("",)]:
        return _nest_list(name, [(path[1:], value) for path, value in leaves])
    parts = {key: [(path[1:], value) for path, value in leaves if path[0] == key] for (key,) in firsts}
    nested = {key: _nest(f"{name}[{key}]", part) for key, part in parts.items()}
    if all(key.isascii() and key.isdigit() for key in nested):
        return [nested[key] for key in sorted(nested, key=lambda key: (len(key), key))]
    return nested


def _nest_list(name: str, leaves: Sequence[Leaf]) -> list[Any]:
    if all(path == () for path, _ in leaves):
        return [value for _, value in leaves]
    columns: dict[tuple[str, ...], list[str]] = {}
    for path, value in leaves:
        columns.setdefault(path, []).append(value)
    if () in columns or len({len(values) for values in columns.values()}) > 1:
        advice = "give each the same fields, or send the list as JSON"
        raise refuse_field(name, f"has objects with different fields, which a form can't tell apart; {advice}")
    rows = zip(*columns.values(), strict=True)
    return [_nest(name, list(zip(columns, row, strict=True))) for row in rows]


async def _bounded(request: Request, limit_bytes: int) -> AsyncGenerator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit_bytes:
            raise refuse_body_size(limit_bytes)
        yield chunk
