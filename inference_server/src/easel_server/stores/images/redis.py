"""Images in Redis, and the books of a service whose jobs are there.

Images of a finished job are one list, which the script that ends the job writes: a command of their own would cost a
third of the jobs a second (docs/decisions/2026-11-26-images-by-reference.md). So ``put`` only makes them ready.
"""

import secrets
from collections.abc import Sequence
from typing import Final

from typing_extensions import override

from easel_server.generation.images import ImageReference
from easel_server.stores.images.interface import (
    ANNOUNCED_SECONDS,
    ImagesGoneError,
    ImageStoreWithBooks,
    ImageUsage,
    RoomBounds,
    StoredImages,
    UnusedImages,
)
from easel_server.stores.redis.connection import MICROSECONDS, RedisConnection

PURGE_LIMIT: Final = 100  # entries a call, so that a script never holds the server for long


class RedisImages(ImageStoreWithBooks):
    """The list ``images:<run>`` holds a run's images; a reference's key is ``<run>/<index>``."""

    def __init__(self, connection: RedisConnection, bounds: RoomBounds) -> None:
        """``bounds`` are those that ``usage`` reports; submits check them."""
        self._connection = connection
        self._bounds = bounds

    @override
    async def put(self, job_id: str, images: Sequence[bytes], media_type: str) -> StoredImages:
        if not images:
            return StoredImages()
        # The script that ends the job knows its run, which completes the keys.
        references = (ImageReference(key="", size_bytes=len(image), media_type=media_type) for image in images)
        return StoredImages(tuple(references), inline=tuple(images))

    @override
    async def get(self, references: Sequence[ImageReference]) -> tuple[bytes, ...]:
        runs = {reference.key.partition("/")[0] for reference in references if reference.bucket is None}
        lists = {run: await self._connection.command("LRANGE", self._key(run), 0, -1) for run in runs}
        found = []
        for reference in references:
            run, _, index = reference.key.partition("/")
            if reference.bucket is not None or int(index) >= len(lists[run]):
                raise ImagesGoneError(f"image {reference.key} has expired")
            found.append(lists[run][int(index)])
        return tuple(found)

    @override
    async def delete(self, unused: Sequence[UnusedImages]) -> None:
        # Scripts delete what is here. Objects of a bucket that the service had before are left to its lifecycle rule.
        if unused:
            await self.forget([each.entry for each in unused])

    @override
    async def url(self, reference: ImageReference) -> str | None:
        return None

    @override
    async def usage(self) -> ImageUsage:
        figures = map(int, await self._connection.script("images/usage"))
        used, reserved, refused, inputs, refused_inputs, expiry_us = figures
        return ImageUsage(
            used,
            reserved,
            self._bounds.max_bytes,
            refused,
            expiry_us / MICROSECONDS if expiry_us >= 0 else None,
            inputs,
            self._bounds.max_input_bytes,
            refused_inputs,
        )

    @override
    async def purge(self) -> None:
        await self.delete(await self.unused())

    @property
    @override
    def problem(self) -> str | None:
        """None: whether Redis is there, ``ping`` says."""
        return None

    # The books

    @override
    async def announce(self, object_keys: Sequence[str]) -> str:
        entry = f"u{secrets.token_hex(16)}"
        kept_us = round(ANNOUNCED_SECONDS * MICROSECONDS)
        await self._connection.script("images/announce", entry, kept_us, " ".join(object_keys))
        return entry

    @override
    async def unused(self) -> tuple[UnusedImages, ...]:
        words = [word.decode() for word in await self._connection.script("images/purge", PURGE_LIMIT)]
        return tuple(
            UnusedImages(entry, tuple(keys.split())) for entry, keys in zip(words[::2], words[1::2], strict=True)
        )

    @override
    async def forget(self, entries: Sequence[str]) -> None:
        await self._connection.script("images/forget", *entries)

    def _key(self, run: str) -> str:
        return self._connection.key(f"images:{run}")
