"""Files of one process."""

from typing_extensions import override

from easel_server.generation.shares import has_share
from easel_server.stores.files.interface import (
    FILE_TTL,
    FileBounds,
    FileDescription,
    FilesFullError,
    FileStore,
    StoredFile,
)
from easel_server.stores.memory_wakeups import Clock


class MemoryFiles(FileStore):
    """Files by id, oldest first."""

    def __init__(self, clock: Clock, bounds: FileBounds) -> None:
        self._clock = clock
        self._bounds = bounds
        self._files: dict[str, tuple[StoredFile, bytes]] = {}

    @override
    async def put(self, file: FileDescription, content: bytes) -> StoredFile:
        self.purge()
        kept = [stored for stored, _ in self._files.values()]
        own = [stored for stored in kept if stored.owner == file.owner]
        total_bytes, own_bytes = (sum(stored.size_bytes for stored in some) for some in (kept, own))
        dropped: list[str] = []
        while not (
            own_bytes + file.size_bytes <= self._bounds.max_customer_bytes
            and has_share(file.size_bytes, held=own_bytes, taken=total_bytes, bound=self._bounds.max_bytes)
            and has_share(1, held=len(own), taken=len(kept) - len(dropped), bound=self._bounds.max_files)
        ):
            if not own:
                raise FilesFullError
            oldest = own.pop(0)
            dropped.append(oldest.id)
            own_bytes -= oldest.size_bytes
            total_bytes -= oldest.size_bytes
        for file_id in dropped:
            del self._files[file_id]
        stored = StoredFile(**file.model_dump(), created_at=self._clock())
        self._files[file.id] = (stored, content)
        return stored

    @override
    async def list_files(self, owner: str) -> tuple[StoredFile, ...]:
        self.purge()
        return tuple(stored for stored, _ in reversed(self._files.values()) if stored.owner == owner)

    @override
    async def read(self, file_id: str, owner: str) -> bytes | None:
        self.purge()
        stored, content = self._files.get(file_id, (None, b""))
        return content if stored is not None and stored.owner == owner else None

    @override
    async def delete(self, file_id: str, owner: str) -> bool:
        if await self.read(file_id, owner) is None:
            return False
        del self._files[file_id]
        return True

    def purge(self) -> None:
        """Forget what has expired."""
        now = self._clock()
        self._files = {file_id: kept for file_id, kept in self._files.items() if kept[0].created_at + FILE_TTL > now}
