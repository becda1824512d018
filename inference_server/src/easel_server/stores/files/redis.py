"""Files on Redis, shared by all gateways of a service. The keys are listed in ``lua/kept.lua``."""

from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from typing_extensions import override

from easel_server.stores.files.interface import (
    FILE_TTL,
    FileBounds,
    FileDescription,
    FilesFullError,
    FileStore,
    StoredFile,
)
from easel_server.stores.redis.connection import MICROSECONDS, MILLISECONDS, RedisConnection


class RedisFiles(FileStore):
    """Files by id."""

    def __init__(self, connection: RedisConnection, bounds: FileBounds) -> None:
        self._connection = connection
        self._bounds = bounds

    @override
    async def put(self, file: FileDescription, content: bytes) -> StoredFile:
        created_us = await self._connection.script(
            "files/put",
            file.id,
            file.owner,
            file.size_bytes,
            file.model_dump_json(by_alias=True),
            content,
            round(FILE_TTL.total_seconds() * MILLISECONDS),
            self._bounds.max_customer_bytes,
            self._bounds.max_bytes,
            self._bounds.max_files,
        )
        if not created_us:
            raise FilesFullError
        return _to_stored(file, created_us)

    @override
    async def list_files(self, owner: str) -> tuple[StoredFile, ...]:
        reply = await self._connection.script("files/list", owner)
        found = zip(reply[::2], reply[1::2], strict=True)
        read = ((self._read_description(text, owner), created_us) for text, created_us in found)
        return tuple(_to_stored(file, created_us) for file, created_us in read if file is not None)

    @override
    async def read(self, file_id: str, owner: str) -> bytes | None:
        content: bytes | None = await self._connection.script("files/read", file_id, owner)
        return content

    @override
    async def delete(self, file_id: str, owner: str) -> bool:
        return bool(await self._connection.script("files/delete", file_id, owner))

    def _read_description(self, text: bytes, owner: str) -> FileDescription | None:
        try:
            return FileDescription.model_validate_json(text)
        except ValidationError as error:
            self._connection.dropped.note("file", f"of {owner}", str(error))
            return None


def _to_stored(file: FileDescription, created_us: Any) -> StoredFile:
    created_at = datetime.fromtimestamp(int(created_us) / MICROSECONDS, UTC)
    return StoredFile(**file.model_dump(), created_at=created_at)
