"""A request's body, bounded while it is read, as a validated value."""

from collections.abc import Iterable, Mapping
from typing import Annotated, TypeVar

from fastapi import Request
from pydantic import BaseModel, Field, ValidationError

from easel_server.http.quoting import show
from easel_server.http.refusals import FieldFault, refuse_body_size, refuse_fields

MAXIMUM_FAULTS = 10  # reported at once

# Bounds that keep any number printable and storable; what is sensible is decided in admission.
WireInteger = Annotated[int, Field(ge=-(2**63), lt=2**63)]
WireNumber = Annotated[float, Field(allow_inf_nan=False)]

Body = TypeVar("Body", bound=BaseModel)


async def read_body(request: Request, model: type[Body], *, limit_bytes: int) -> Body:
    """The JSON body as ``model``. Raises RefusalError: 413 beyond the limit, invalid_value for anything unexpected."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit_bytes:
            raise refuse_body_size(limit_bytes)
    try:
        # Pydantic's own JSON parser: it bounds nesting and refuses lone surrogates, which json.loads lets through.
        return model.model_validate_json(bytes(data))
    except ValidationError as error:
        raise refuse_fields(*_faults(error)) from None


def validate_fields(model: type[Body], fields: Mapping[str, str]) -> Body:
    """A form's fields as ``model``; numbers and booleans are read from their text. Raises RefusalError."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise refuse_fields(*_faults(error)) from None


def _faults(error: ValidationError) -> Iterable[FieldFault]:
    for detail in error.errors(include_url=False)[:MAXIMUM_FAULTS]:
        name = ".".join(str(part) for part in detail["loc"]) or "body"
        if detail["type"] == "missing":
            yield FieldFault(name, "is missing and must be given")
        elif detail["type"] == "extra_forbidden":
            yield FieldFault(name, "is not a known field")
        elif detail["type"] == "json_invalid":
            yield FieldFault("body", f"must be JSON: {detail['msg']}")
        else:
            yield FieldFault(name, f"{detail['msg']}; got {show(detail['input'])}")
