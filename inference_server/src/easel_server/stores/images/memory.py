"""Images of a single process, and its books: lost at its exit. Only ``MemoryJobs`` makes transitions of the books."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from typing_extensions import override

from easel_server.generation.images import ImageReference
from easel_server.generation.shares import has_share
from easel_server.stores.images.interface import (
    ANNOUNCED_SECONDS,
    DELETE_AGAIN_SECONDS,
    FullReason,
    ImagesGoneError,
    ImageStoreWithBooks,
    ImageUsage,
    Reservation,
    RoomBounds,
    StoredImages,
    StoreFullError,
    UnusedImages,
)
from easel_server.stores.memory_wakeups import Clock


@dataclass
class _Entry:
    """What the books have of one set of images."""

    expires_at: datetime
    keys: tuple[str, ...] = ()  # of images here
    object_keys: tuple[str, ...] = ()  # of images in a bucket
    size_bytes: int = 0  # 0 until a job's end names them
    holders: int = 0  # jobs that have them


@dataclass
class _Held:
    """Sums of reservations."""

    size_bytes: int = 0
    input_bytes: int = 0

    def add(self, reservation: Reservation) -> None:
        self.size_bytes += reservation.size_bytes
        self.input_bytes += reservation.input_bytes

    def remove(self, reservation: Reservation) -> None:
        self.size_bytes -= reservation.size_bytes
        self.input_bytes -= reservation.input_bytes


class MemoryImages(ImageStoreWithBooks):
    """Images in a dictionary. Nothing here awaits, so each call is atomic."""

    def __init__(self, clock: Clock, bounds: RoomBounds) -> None:
        self._clock = clock
        self._bounds = bounds
        self._images: dict[str, bytes] = {}
        self._entries: dict[str, _Entry] = {}
        self._reserved = _Held()
        self._held: dict[str, _Held] = {}  # of those, by owner; none is empty
        self._used_bytes = 0
        self._refused_bytes = 0
        self._refused_input_bytes = 0

    @override
    async def put(self, job_id: str, images: Sequence[bytes], media_type: str) -> StoredImages:
        if not images:
            return StoredImages()
        entry = f"{job_id}-{secrets.token_hex(16)}"
        references = tuple(
            ImageReference(key=f"{entry}/{index}", size_bytes=len(image), media_type=media_type)
            for index, image in enumerate(images)
        )
        keys = tuple(reference.key for reference in references)
        self._images.update(zip(keys, images, strict=True))
        self._entries[entry] = _Entry(self._clock() + timedelta(seconds=ANNOUNCED_SECONDS), keys)
        return StoredImages(references, entry=entry)

    @override
    async def get(self, references: Sequence[ImageReference]) -> tuple[bytes, ...]:
        try:
            return tuple(self._images[reference.key] for reference in references)
        except KeyError as missing:
            raise ImagesGoneError(f"image {missing} has expired") from None

    @override
    async def delete(self, unused: Sequence[UnusedImages]) -> None:
        await self.forget([each.entry for each in unused])

    @override
    async def url(self, reference: ImageReference) -> str | None:
        return None

    @override
    async def usage(self) -> ImageUsage:
        return self._usage()

    @override
    async def purge(self) -> None:
        await self.delete(await self.unused())

    @property
    @override
    def problem(self) -> str | None:
        """None: memory is always there."""
        return None

    # The books

    @override
    async def announce(self, object_keys: Sequence[str]) -> str:
        entry = f"u{secrets.token_hex(16)}"
        self._entries[entry] = _Entry(
            self._clock() + timedelta(seconds=ANNOUNCED_SECONDS), object_keys=tuple(object_keys)
        )
        return entry

    @override
    async def unused(self) -> tuple[UnusedImages, ...]:
        now = self._clock()
        expired = {entry: kept for entry, kept in self._entries.items() if kept.expires_at <= now}
        await self.forget([entry for entry, kept in expired.items() if not kept.object_keys])
        in_bucket = {entry: kept for entry, kept in expired.items() if kept.object_keys}
        for kept in in_bucket.values():
            kept.expires_at = now + timedelta(seconds=DELETE_AGAIN_SECONDS)
        return tuple(UnusedImages(entry, kept.object_keys) for entry, kept in in_bucket.items())

    @override
    async def forget(self, entries: Sequence[str]) -> None:
        for entry in entries:
            self._forget(entry)

    # What a job's transitions do, in the same step

    def reserve(self, reservation: Reservation) -> None:
        """Set room aside for a job. Raises StoreFullError."""
        usage, bounds = self._usage(), self._bounds
        taken, held = usage.used_bytes + usage.reserved_bytes, self._held.get(reservation.owner, _Held())
        full = partial(StoreFullError, reservation, usage)
        if taken + reservation.size_bytes > bounds.max_bytes:
            if reservation.size_bytes <= bounds.max_bytes:
                self._refused_bytes = reservation.size_bytes
            raise full(FullReason.BYTES)
        if bounds.is_shared and not has_share(
            reservation.size_bytes, held=held.size_bytes, taken=taken, bound=bounds.max_bytes
        ):
            raise full(FullReason.SHARE, held_bytes=held.size_bytes)
        if reservation.input_bytes and bounds.max_input_bytes is not None:
            self._check_inputs(reservation.input_bytes, held, bounds.max_input_bytes, full)
        for sums in (self._reserved, self._held.setdefault(reservation.owner, held)):
            sums.add(reservation)

    def _check_inputs(
        self, input_bytes: int, held: "_Held", max_bytes: int, full: Callable[..., StoreFullError]
    ) -> None:
        taken = self._reserved.input_bytes
        if taken + input_bytes > max_bytes:
            if input_bytes <= max_bytes:
                self._refused_input_bytes = input_bytes
            raise full(FullReason.INPUTS)
        if self._bounds.is_shared and not has_share(input_bytes, held=held.input_bytes, taken=taken, bound=max_bytes):
            raise full(FullReason.INPUT_SHARE, held_bytes=held.input_bytes)

    def free(self, reservation: Reservation) -> None:
        """A job has ended: what was set aside for it isn't any more."""
        self._reserved.remove(reservation)
        held = self._held[reservation.owner]
        held.remove(reservation)
        if not held.size_bytes:
            del self._held[reservation.owner]

    def find_room(self, size_bytes: int) -> None:
        """Raises StoreFullError if there is no room for images that are known already."""
        usage = self._usage()
        if usage.used_bytes + usage.reserved_bytes + size_bytes > self._bounds.max_bytes:
            if size_bytes <= self._bounds.max_bytes:
                self._refused_bytes = size_bytes
            raise StoreFullError(Reservation("", size_bytes), usage)

    def keep(self, stored: StoredImages, *, holders: int, expires_at: datetime) -> None:
        """So many jobs have these images, until then."""
        kept = self._entries.get(stored.entry)
        if kept is None:
            return  # a job without images
        kept.size_bytes, kept.holders, kept.expires_at = stored.size_bytes, holders, expires_at
        self._used_bytes += kept.size_bytes

    def release(self, entry: str) -> UnusedImages | None:
        """One job fewer has these images. What nobody has is gone; objects in a bucket are the caller's to delete."""
        kept = self._entries.get(entry)
        if kept is None:
            return None
        kept.holders -= 1
        if kept.holders > 0:
            return None
        if kept.object_keys:  # if the caller doesn't get to delete them, they have expired
            kept.expires_at = self._clock() + timedelta(seconds=DELETE_AGAIN_SECONDS)
            return UnusedImages(entry, kept.object_keys)
        self._forget(entry)
        return None

    def _forget(self, entry: str) -> None:
        kept = self._entries.pop(entry, None)
        if kept is not None:
            self._used_bytes -= kept.size_bytes
            for key in kept.keys:
                self._images.pop(key, None)

    def _usage(self) -> ImageUsage:
        expiries = [kept.expires_at for kept in self._entries.values() if kept.size_bytes]
        left = min(expiries) - self._clock() if expiries else None
        return ImageUsage(
            self._used_bytes,
            self._reserved.size_bytes,
            self._bounds.max_bytes,
            self._refused_bytes,
            next_expiry_seconds=None if left is None else max(0.0, left.total_seconds()),
            input_bytes=self._reserved.input_bytes,
            input_budget_bytes=self._bounds.max_input_bytes,
            refused_input_bytes=self._refused_input_bytes,
        )
