"""What gateways ask of the files that clients upload before they name them in a request. No I/O lives here.

They are kept briefly, and few of them: a customer's oldest make room for the next, and each customer leaves some to the
others (``generation/shares.py``). An upload is refused only where it is larger than what is left of others' shares.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from easel_contract.schema import Model
from pydantic import AwareDatetime

from easel_server.stores.errors import StoreError

FILE_TTL: Final = timedelta(hours=1)


@dataclass(frozen=True)
class FileBounds:
    """What files may take, beside the budget of images."""

    max_customer_bytes: int = 32 << 20
    max_bytes: int = 64 << 20  # of all customers together
    max_files: int = 1000  # of all customers together


class FileDescription(Model):
    """A file, but for its content."""

    id: str
    owner: str
    media_type: str
    size_bytes: int
    sha256: str  # hexadecimal
    metadata: str = "{}"  # an object as JSON, the client's own


class StoredFile(FileDescription):
    """A file that is kept."""

    created_at: AwareDatetime  # by the store's clock

    @property
    def expires_at(self) -> AwareDatetime:
        """At the latest."""
        return self.created_at + FILE_TTL


class FilesFullError(StoreError):
    """What other customers' files leave is too little for this one."""


class FileStore(Protocol):
    """Files by id, each its owner's alone."""

    async def put(self, file: FileDescription, content: bytes) -> StoredFile:
        """Keep a file under a new id; the owner's oldest make room. Raises FilesFullError."""
        ...

    async def list_files(self, owner: str) -> tuple[StoredFile, ...]:
        """The owner's files, newest first."""
        ...

    async def read(self, file_id: str, owner: str) -> bytes | None:
        """A file's content; None if there is none, or it is somebody else's."""
        ...

    async def delete(self, file_id: str, owner: str) -> bool:
        """Delete a file; False if there is none, or it is somebody else's."""
        ...
