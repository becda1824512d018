"""Files that clients upload, in memory and in Redis."""

import pytest
from easel_server.stores.files.interface import FileDescription, FilesFullError, FileStore
from easel_server.stores.opening import Stores

MEBIBYTE = 1 << 20


@pytest.fixture
def files(stores: Stores) -> FileStore:
    return stores.files


def describe(file_id: str, *, owner: str = "ann", size_bytes: int = 5) -> FileDescription:
    return FileDescription(
        id=file_id, owner=owner, media_type="image/png", size_bytes=size_bytes, sha256="ab", metadata='{"a":1}'
    )


async def ids_of(files: FileStore, owner: str) -> list[str]:
    return [file.id for file in await files.list_files(owner)]


async def test_a_file_is_kept_for_its_owner_alone(files: FileStore) -> None:
    stored = await files.put(describe("one"), b"\x00\xff\r\n!")
    assert await files.read("one", "ann") == b"\x00\xff\r\n!"
    assert await files.list_files("ann") == (stored,)
    assert (stored.metadata, stored.expires_at > stored.created_at) == ('{"a":1}', True)
    assert (await files.read("one", "bob"), await files.list_files("bob")) == (None, ())
    assert not await files.delete("one", "bob")
    assert await files.delete("one", "ann")
    assert (await files.read("one", "ann"), await files.list_files("ann")) == (None, ())
    assert not await files.delete("one", "ann")


async def test_a_customers_oldest_files_make_room_for_the_next(files: FileStore) -> None:
    await files.put(describe("bobs", owner="bob"), b"")
    for number in range(4):
        await files.put(describe(f"file-{number}", size_bytes=12 * MEBIBYTE), b"")
    assert await ids_of(files, "ann") == ["file-3", "file-2"]
    assert await ids_of(files, "bob") == ["bobs"]
    assert await files.read("file-1", "ann") is None


async def test_customers_who_upload_all_they_can_leave_room_for_another(files: FileStore) -> None:
    for round_number in range(20):
        for owner in ("ann", "bob"):
            await files.put(describe(f"{owner}-{round_number}", owner=owner, size_bytes=6 * MEBIBYTE), b"")
    await files.put(describe("eves", owner="eve", size_bytes=8 * MEBIBYTE), b"")
    assert await ids_of(files, "eve") == ["eves"]
    assert await files.read("ann-19", "ann") == b""


async def test_a_customer_with_many_small_files_leaves_room_for_another(files: FileStore) -> None:
    for number in range(1001):
        await files.put(describe(f"file-{number}"), b"")
    await files.put(describe("bobs", owner="bob"), b"")
    assert await ids_of(files, "bob") == ["bobs"]


async def test_an_upload_is_refused_only_where_it_is_larger_than_what_others_leave(files: FileStore) -> None:
    for owner in ("ann", "bob"):
        await files.put(describe(f"{owner}s", owner=owner, size_bytes=24 * MEBIBYTE), b"")
    with pytest.raises(FilesFullError):
        await files.put(describe("eves", owner="eve", size_bytes=17 * MEBIBYTE), b"")
    assert await ids_of(files, "ann") == ["anns"]
    await files.put(describe("eves", owner="eve", size_bytes=16 * MEBIBYTE), b"")
    await files.put(describe("anns-next", size_bytes=16 * MEBIBYTE), b"")
    assert await ids_of(files, "ann") == ["anns-next"]
