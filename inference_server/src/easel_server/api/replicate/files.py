"""Files that Replicate's clients upload before they name them in a prediction's input.

    POST   /v1/files       keep an image for an hour at the most: the form's file ``content``, and ``metadata`` as JSON
    GET    /v1/files       the caller's own, newest first
    GET    /v1/files/{id}  one of them, but for its content, which nobody needs back
    DELETE /v1/files/{id}  delete it

The address of a file stands for its content in ``input.image`` and ``input.mask``: see ``read_named_files``.
"""

import hashlib
import re
from enum import Enum
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, JsonValue, TypeAdapter, ValidationError

from easel_server.api.context import ApiContext
from easel_server.api.links import FILES_PATH, Links
from easel_server.api.openapi import describe_answer, describe_bodies, describe_errors
from easel_server.api.replicate.errors import PredictionError
from easel_server.api.replicate.fields import PredictionInput
from easel_server.gateway.input_images import ALLOWED, find_media_type
from easel_server.gateway.refusals import refuse_field, refuse_unknown_file
from easel_server.generation.request import ID_CHARACTERS, new_job_id
from easel_server.stores.files.interface import FileDescription, FileStore, StoredFile
from easel_server.transport.bodies import Form, read_form

TAGS: Final[list[str | Enum]] = ["Replicate files"]
MAX_METADATA_BYTES: Final = 4096
# On whatever host: the id alone says which file is meant, and only its owner has one of that id.
FILE_URL: Final = re.compile(rf"https?://[^?#\s]{{1,500}}{FILES_PATH}/([a-z2-7]{{{ID_CHARACTERS}}})")
_METADATA: Final = TypeAdapter(dict[str, JsonValue])


class FileChecksums(BaseModel):
    """Of its content."""

    sha256: str


class FileUrls(BaseModel):
    """Where it is."""

    get: str


class FileAnswer(BaseModel):
    """A file."""

    id: str
    name: str
    content_type: str
    size: int
    etag: str
    checksums: FileChecksums
    metadata: dict[str, Any]
    created_at: AwareDatetime
    expires_at: AwareDatetime  # at the latest
    urls: FileUrls


class FilesAnswer(BaseModel):
    """All of the caller's."""

    previous: str | None
    next: str | None
    results: list[FileAnswer]


def add_file_routes(router: APIRouter, context: ApiContext) -> None:
    """All routes."""
    handlers = FileHandlers(context)
    one = f"{FILES_PATH}/{{file_id}}"
    text = {"type": "string"}
    fields = {"content": {**text, "format": "binary"}, "metadata": text}
    form = {"type": "object", "required": ["content"], "properties": fields}
    created = {201: describe_answer(FileAnswer, "Kept"), **describe_errors(PredictionError, 413, 422, 507)}
    body = describe_bodies({"multipart/form-data": form})
    router.add_api_route(
        FILES_PATH, handlers.create, methods=["POST"], status_code=201, tags=TAGS, responses=created, openapi_extra=body
    )
    for path, get, answer in ((FILES_PATH, handlers.list_files, FilesAnswer), (one, handlers.get, FileAnswer)):
        found = {200: describe_answer(answer, "What there is"), **describe_errors(PredictionError, 404)}
        router.add_api_route(path, get, tags=TAGS, responses=found)
    deleted = describe_errors(PredictionError, 404)
    router.add_api_route(one, handlers.delete, methods=["DELETE"], status_code=204, tags=TAGS, responses=deleted)


class FileHandlers:
    """The routes' handlers."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context

    async def create(self, request: Request) -> JSONResponse:
        """Keep an image, to begin predictions with."""
        customer = self._context.keys.find_customer(request.headers.get("authorization"))
        form = await read_form(request, limit_bytes=self._context.limits.max_body_bytes)
        content, file = read_upload(form, owner=customer.name)
        stored = await self._context.stores.files.put(file, content)
        return JSONResponse(build_file(stored, self._context.links(request)), status_code=201)

    async def list_files(self, request: Request) -> JSONResponse:
        """The caller's own files, newest first."""
        links = self._context.links(request)
        files = [build_file(file, links) for file in await self._find_own(request)]
        return JSONResponse({"previous": None, "next": None, "results": files})

    async def get(self, request: Request, file_id: str) -> JSONResponse:
        """A file, but for its content."""
        file = next((file for file in await self._find_own(request) if file.id == file_id), None)
        if file is None:
            raise refuse_unknown_file(file_id)
        return JSONResponse(build_file(file, self._context.links(request)))

    async def delete(self, request: Request, file_id: str) -> Response:
        """Delete a file."""
        customer = self._context.keys.find_customer(request.headers.get("authorization"))
        if not await self._context.stores.files.delete(file_id, customer.name):
            raise refuse_unknown_file(file_id)
        return Response(status_code=204)

    async def _find_own(self, request: Request) -> tuple[StoredFile, ...]:
        customer = self._context.keys.find_customer(request.headers.get("authorization"))
        return await self._context.stores.files.list_files(customer.name)


def read_upload(form: Form, *, owner: str) -> tuple[bytes, FileDescription]:
    """What a form uploads. Raises RefusalError."""
    contents = form.files.get("content", [])
    if len(contents) != 1:
        raise refuse_field("content", f"is given {len(contents)} times as a file, and must be given once")
    content = contents[0]
    media_type = find_media_type(content)
    if media_type is None:
        raise refuse_field("content", f"is no image that can be read ({len(content)} bytes); {ALLOWED}")
    return content, FileDescription(
        id=new_job_id(),
        owner=owner,
        media_type=media_type,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        metadata=_read_metadata(form),
    )


def _read_metadata(form: Form) -> str:
    field = form.fields.get("metadata", "{}")
    texts = form.files.get("metadata", [field.encode() if isinstance(field, str) else _METADATA.dump_json(field)])
    if len(texts) > 1 or len(texts[0]) > MAX_METADATA_BYTES:
        raise refuse_field("metadata", f"is longer than {MAX_METADATA_BYTES} bytes, the most allowed, or given twice")
    try:
        return _METADATA.dump_json(_METADATA.validate_json(texts[0])).decode()
    except ValidationError:
        raise refuse_field("metadata", "must be an object as JSON") from None


def build_file(file: StoredFile, links: Links) -> dict[str, Any]:
    """A file in Replicate's shape."""
    return {
        "id": file.id,
        "name": f"{file.id}.{file.media_type.rpartition('/')[2]}",  # its client's own isn't kept
        "content_type": file.media_type,
        "size": file.size_bytes,
        "etag": file.sha256,
        "checksums": {"sha256": file.sha256},
        "metadata": _METADATA.validate_json(file.metadata),
        "created_at": file.created_at.isoformat(),
        "expires_at": file.expires_at.isoformat(),
        "urls": {"get": links.file(file.id)},
    }


async def read_named_files(files: FileStore, body: PredictionInput, owner: str) -> dict[str, bytes]:
    """Contents of the owner's files that an input names, by their addresses. Raises RefusalError."""
    found: dict[str, bytes] = {}
    for name, text in body.list_image_texts():
        match = FILE_URL.fullmatch(text)
        if match is None or text in found:
            continue
        content = await files.read(match[1], owner)
        if content is None:
            raise refuse_field(name, refuse_unknown_file(match[1]).message)
        found[match[0]] = content
    return found
