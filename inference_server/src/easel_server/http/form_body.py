"""A multipart body, bounded while it is read."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from easel_server.http.refusals import refuse_body_size, refuse_field

MAXIMUM_FILES = 20
MAXIMUM_FIELDS = 50


@dataclass
class Form:
    """What a form holds."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)


async def read_form(request: Request, *, limit_bytes: int) -> Form:
    """The form. Raises RefusalError: 413 beyond the limit, invalid_value for what is no form or has too many parts."""
    parser = MultiPartParser(
        request.headers,
        _bounded(request, limit_bytes),
        max_files=MAXIMUM_FILES,
        max_fields=MAXIMUM_FIELDS,
        max_part_size=limit_bytes,
    )
    parser.spool_max_size = limit_bytes  # in memory: a pod may have no disk that it can write to
    try:
        data = await parser.parse()
    except MultiPartException as error:
        raise refuse_field("body", f"must be multipart/form-data: {error.message}") from None
    form = Form()
    try:
        for name, value in data.multi_items():
            if isinstance(value, UploadFile):
                form.files.setdefault(name, []).append(await value.read())
            elif form.fields.setdefault(name, value) is not value:
                raise refuse_field(name, "is given twice")
    finally:
        await data.close()
    return form


async def _bounded(request: Request, limit_bytes: int) -> AsyncGenerator[bytes]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit_bytes:
            raise refuse_body_size(limit_bytes)
        yield chunk
