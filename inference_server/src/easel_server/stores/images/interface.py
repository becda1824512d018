"""Keeping images by reference: protocols, frozen values and errors. No I/O lives here.

Two things are apart. *Where the bytes are*: in memory, in Redis or in a bucket (``ImageStore``). *The books*: what is
stored and what is reserved for jobs under way, against a budget, and when it expires (``ImageBooks``). The books are
kept where the jobs are, since they change in the same step as the jobs do: a submit reserves what its images may
become, the job's end turns that into what they are, or frees it. So the end of a job is never refused for want of room;
a new job is (``StoreFullError``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from easel_server.generation.images import MAX_PREVIEW_BYTES, ImageReference, max_result_bytes
from easel_server.generation.job import Job
from easel_server.stores.errors import StoreError

IMAGE_OVERHEAD_BYTES: Final = 1024  # what an image costs besides itself: keys, books and its job
MAX_BUCKET_JOBS: Final = 200_000  # of a service: in a bucket's budget they would be too many for the books in Redis
UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")
ANNOUNCED_SECONDS: Final = 3600.0  # how long objects are left alone that were put into a bucket before their job ended
UNDER_WAY_RETRY_SECONDS: Final = 5.0  # while nothing is stored yet, and requests under way have all the room
DELETE_AGAIN_SECONDS: Final = 60.0  # an expired object whose deletion nobody has confirmed is deleted again


@dataclass(frozen=True)
class StoredImages:
    """Images that were put, in order, and that no job names yet."""

    references: tuple[ImageReference, ...] = ()
    inline: tuple[bytes, ...] = ()  # the bytes, where the job store writes them in the same step as the job's end
    entry: str = ""  # what the books know them by until a job's end names them; empty: they don't know them yet

    @property
    def size_bytes(self) -> int:
        """What they take of the budget."""
        return sum(IMAGE_OVERHEAD_BYTES + reference.size_bytes for reference in self.references)

    @property
    def unused(self) -> "UnusedImages":
        """To be deleted, since no job will name them."""
        return UnusedImages(self.entry, self.object_keys)

    @property
    def object_keys(self) -> tuple[str, ...]:
        """Of those that are in a bucket."""
        return tuple(reference.key for reference in self.references if reference.bucket is not None)


@dataclass(frozen=True)
class UnusedImages:
    """What the books still count, and nobody needs: its objects are to be deleted, and then the entry forgotten."""

    entry: str
    object_keys: tuple[str, ...]


@dataclass(frozen=True)
class ImageUsage:
    """The books' totals, in bytes."""

    used_bytes: int
    reserved_bytes: int  # for jobs that wait or run
    budget_bytes: int
    refused_bytes: int = 0  # that the job would have needed which was refused last
    next_expiry_seconds: float | None = None  # from now; None: nothing expires

    input_bytes: int = 0  # that input images of jobs which wait or run take
    input_budget_bytes: int | None = None
    refused_input_bytes: int = 0  # of the job that was refused last for their sake

    @property
    def is_full(self) -> bool:
        """Whether the job that was refused last, for its images or its input images, would be refused again."""
        return self._is_room_full or self._is_input_room_full

    @property
    def _is_room_full(self) -> bool:
        return self.refused_bytes > 0 and self.used_bytes + self.reserved_bytes + self.refused_bytes > self.budget_bytes

    @property
    def _is_input_room_full(self) -> bool:
        budget_bytes = self.input_budget_bytes
        refused_bytes = self.refused_input_bytes
        return budget_bytes is not None and refused_bytes > 0 and self.input_bytes + refused_bytes > budget_bytes

    def describe(self) -> str:
        """The figures as part of a sentence: of what is full, or of the room for images."""
        return self.describe_inputs() if self._is_input_room_full and not self._is_room_full else self.describe_images()

    def describe_images(self) -> str:
        """The figures of the room for images as part of a sentence."""
        return (
            f"of {_to_text(self.budget_bytes)} for this service's images {_to_text(self.used_bytes)} are taken and "
            f"{_to_text(self.reserved_bytes)} reserved for requests under way"
        )

    def describe_inputs(self) -> str:
        """The figures of the room for input images as part of a sentence."""
        return (
            f"of {_to_text(self.input_budget_bytes or 0)} for input images of requests under way "
            f"{_to_text(self.input_bytes)} are taken"
        )


@dataclass(frozen=True)
class Reservation:
    """What is set aside for a job from its submit to its end."""

    owner: str
    size_bytes: int  # of the budget, input images among them
    input_bytes: int = 0


def build_reservation(job: Job, inputs: Mapping[str, bytes]) -> Reservation:
    """The most that a job takes of the budget from its submit to its end, and from there on."""
    result_bytes = job.parameters.images * IMAGE_OVERHEAD_BYTES + max_result_bytes(job.parameters)
    input_bytes = sum(map(len, inputs.values()))
    size_bytes = result_bytes + job.wanted_previews * MAX_PREVIEW_BYTES + input_bytes
    return Reservation(job.owner, size_bytes, input_bytes)


class FullReason(StrEnum):
    """What stands in the way of a job. The values are those of ``lua/room.lua``."""

    BYTES = "bytes"
    JOBS = "jobs"  # with objects in a bucket
    SHARE = "share"  # of the budget, that one customer may have of it
    INPUTS = "inputs"
    INPUT_SHARE = "input_share"


@dataclass(frozen=True)
class RoomBounds:
    """What the books check a reservation against."""

    max_bytes: int
    max_input_bytes: int | None = None
    is_shared: bool = False  # by several customers, each of whom may have a share only; see generation/shares.py


class StoreFullError(StoreError):
    """There is no room for what the job's images may become, or for its input images; the job was not stored."""

    def __init__(
        self,
        reservation: Reservation,
        usage: ImageUsage,
        reason: FullReason = FullReason.BYTES,
        *,
        held_bytes: int = 0,
        max_jobs: int | None = None,
    ) -> None:
        """``held_bytes``: what the job's customer holds, where it is the share that is used up."""
        self.is_of_inputs = reason in {FullReason.INPUTS, FullReason.INPUT_SHARE}
        self.needed_bytes = reservation.input_bytes if self.is_of_inputs else reservation.size_bytes
        self.usage = usage
        self.reason = reason
        self.max_jobs = max_jobs
        self.held_bytes = held_bytes
        super().__init__(self._describe())

    @property
    def budget_bytes(self) -> int:
        """Of all jobs together."""
        return (self.usage.input_budget_bytes or 0) if self.is_of_inputs else self.usage.budget_bytes

    @property
    def retry_seconds(self) -> float | None:
        """When something expires, or requests under way may have ended; None: no time will help."""
        if self.needed_bytes > self.budget_bytes:
            return None
        expiry_seconds = self.usage.next_expiry_seconds
        if expiry_seconds is None or self.reason not in {FullReason.BYTES, FullReason.JOBS}:
            return UNDER_WAY_RETRY_SECONDS
        return expiry_seconds

    def _describe(self) -> str:
        usage, needed = self.usage, _to_text(self.needed_bytes)
        is_too_large = self.needed_bytes > self.budget_bytes
        under_way = "; room comes back as requests under way end"
        if self.is_of_inputs:
            remedy = "send smaller ones, or raise gateway.limits.maxInputBytes"
            if is_too_large:
                return (
                    f"this request's input images take {needed}, and those of all requests under way together may take "
                    f"{_to_text(self.budget_bytes)}; {remedy}"
                )
            full = f"{usage.describe_inputs()}{self._describe_share()}, and this request's take {needed}"
            return f"the store for input images is full: {full}{under_way}; try again later, {remedy}"
        if is_too_large:
            return (
                f"this request's images may take {needed}, and all images of this service together may take "
                f"{_to_text(self.budget_bytes)}; ask for fewer or smaller images, or raise gateway.results.maxBytes"
            )
        if self.reason is FullReason.JOBS:
            full = f"{self.max_jobs} requests with images are kept, the most that are"
            remedy = "lower gateway.results.ttlSeconds"
        else:
            full = f"{usage.describe_images()}{self._describe_share()}, and this one may need {needed}"
            remedy = "raise gateway.results.maxBytes, lower gateway.results.ttlSeconds, or keep images in a bucket"
        if usage.next_expiry_seconds is not None and self.reason is not FullReason.SHARE:
            under_way = f"; the next results expire in {usage.next_expiry_seconds:.0f} s"
        return f"the store for images is full: {full}{under_way}; try again later, or {remedy}"

    def _describe_share(self) -> str:
        if self.reason not in {FullReason.SHARE, FullReason.INPUT_SHARE}:
            return ""
        return f", {_to_text(self.held_bytes)} of them by this API key; what is left is kept for others"


def _to_text(size_bytes: int) -> str:
    exponent = min((max(1, size_bytes).bit_length() - 1) // 10, len(UNITS) - 1)
    return f"{size_bytes / (1 << 10 * exponent):.{1 if exponent else 0}f} {UNITS[exponent]}"


class ImagesGoneError(StoreError):
    """The images have expired, or were removed after they had been delivered."""


class ImageStore(Protocol):
    """Where images are. Every method may raise StoreUnavailableError, and may then be repeated."""

    async def put(self, job_id: str, images: Sequence[bytes], media_type: str) -> StoredImages:
        """Keep the images until a job's end names them, or for ANNOUNCED_SECONDS. Repeated, it keeps them twice."""
        ...

    async def get(self, references: Sequence[ImageReference]) -> tuple[bytes, ...]:
        """The images, in order. Raises ImagesGoneError if one isn't there any more."""
        ...

    async def delete(self, unused: Sequence[UnusedImages]) -> None:
        """Delete what nobody needs, and forget it; what isn't there is no error."""
        ...

    async def url(self, reference: ImageReference) -> str | None:
        """Where anybody who has the link can fetch the image for a while; None: through the gateway only."""
        ...

    async def usage(self) -> ImageUsage:
        """How much room is taken."""
        ...

    async def purge(self) -> None:
        """Delete what has expired. Anyone may call it."""
        ...

    @property
    def problem(self) -> str | None:
        """Why the place where the bytes are can't be used at the moment, as last seen; None: it can."""
        ...


class ImageBooks(Protocol):
    """The books, as a store needs them whose bytes are elsewhere: in a bucket."""

    async def announce(self, object_keys: Sequence[str]) -> str:
        """Note objects that are about to be put; they count as unused after ANNOUNCED_SECONDS. Returns their entry."""
        ...

    async def unused(self) -> tuple[UnusedImages, ...]:
        """Forget what has expired; what has objects is returned first, a bounded number, to be deleted.

        Each is returned once in DELETE_AGAIN_SECONDS, until it is forgotten.
        """
        ...

    async def forget(self, entries: Sequence[str]) -> None:
        """The entries' objects are deleted."""
        ...

    async def usage(self) -> ImageUsage:
        """How much room is taken."""
        ...


class ImageStoreWithBooks(ImageStore, ImageBooks, Protocol):
    """A store that keeps the books too: memory's or Redis'."""
