"""Keeping images by reference: protocols, frozen values and errors. No I/O lives here.

Two things are apart. *Where the bytes are*: in memory, in Redis or in a bucket (``ImageStore``). *The books*: what is
stored and what is reserved for jobs under way, against a budget, and when it expires (``ImageBooks``). The books are
kept where the jobs are, since they change in the same step as the jobs do: a submit reserves what its images may
become, the job's end turns that into what they are, or frees it. So the end of a job is never refused for want of room;
a new job is (``StoreFullError``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

    @property
    def is_full(self) -> bool:
        """Whether the job that was refused last would be refused again."""
        return self.refused_bytes > 0 and self.used_bytes + self.reserved_bytes + self.refused_bytes > self.budget_bytes

    def describe(self) -> str:
        """The figures as part of a sentence."""
        return (
            f"of {_to_text(self.budget_bytes)} for this service's images {_to_text(self.used_bytes)} are taken and "
            f"{_to_text(self.reserved_bytes)} reserved for requests under way"
        )


def reservation_bytes(job: Job, inputs: Mapping[str, bytes]) -> int:
    """The most that a job takes of the budget from its submit to its end, and from there on."""
    result = job.parameters.images * IMAGE_OVERHEAD_BYTES + max_result_bytes(job.parameters)
    return result + job.wanted_previews * MAX_PREVIEW_BYTES + sum(map(len, inputs.values()))


class StoreFullError(StoreError):
    """There is no room for what the job's images may become; the job was not stored."""

    def __init__(self, needed_bytes: int, usage: ImageUsage, *, max_jobs: int | None = None) -> None:
        """``max_jobs``: it is the number of jobs with images that is at its bound, and not their bytes."""
        self.needed_bytes = needed_bytes
        self.usage = usage
        self.max_jobs = max_jobs
        super().__init__(_describe_full(needed_bytes, usage, max_jobs))

    @property
    def retry_seconds(self) -> float | None:
        """When something expires, or requests under way may have ended; None: no time will help."""
        if self.needed_bytes > self.usage.budget_bytes:
            return None
        expiry_seconds = self.usage.next_expiry_seconds
        return UNDER_WAY_RETRY_SECONDS if expiry_seconds is None else expiry_seconds


def _describe_full(needed_bytes: int, usage: ImageUsage, max_jobs: int | None) -> str:
    if needed_bytes > usage.budget_bytes:
        return (
            f"this request's images may take {_to_text(needed_bytes)}, and all images of this service together may "
            f"take {_to_text(usage.budget_bytes)}; ask for fewer or smaller images, or raise gateway.results.maxBytes"
        )
    if max_jobs is not None:
        full = f"{max_jobs} requests with images are kept, the most that are"
        remedy = "lower gateway.results.ttlSeconds"
    else:
        full = f"{usage.describe()}, and this one may need {_to_text(needed_bytes)}"
        remedy = "raise gateway.results.maxBytes, lower gateway.results.ttlSeconds, or keep images in a bucket"
    when = (
        "; room comes back as requests under way end"
        if usage.next_expiry_seconds is None
        else f"; the next results expire in {usage.next_expiry_seconds:.0f} s"
    )
    return f"the store for images is full: {full}{when}; try again later, or {remedy}"


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
