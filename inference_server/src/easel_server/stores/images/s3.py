"""Images in an S3-compatible bucket, by obstore (docs/decisions/2026-11-26-images-by-reference.md says why).

The books stay with the jobs: each object is announced there before it is put, so that one whose job never ended is
deleted too. A lifecycle rule of the bucket catches what is left when the books are lost.
"""

import asyncio
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from typing import Final, TypeVar

import obstore
from easel_contract.server_config import BucketConfig
from obstore import exceptions
from typing_extensions import override

from easel_server.generation.images import ImageReference
from easel_server.outbound.buckets import REFUSED, Timeouts, describe_error, is_bucket_missing, open_bucket
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.images.interface import (
    ImagesGoneError,
    ImageStore,
    ImageStoreWithBooks,
    ImageUsage,
    StoredImages,
    UnusedImages,
)

T = TypeVar("T")

MAX_REQUESTS: Final = 16  # at a time, of one process
TIMEOUTS: Final = Timeouts(connect_seconds=3, try_seconds=20, retries=2, retry_seconds=30)
NAME_BYTES: Final = 16  # of chance in a key: links of a public bucket must not be guessed
PROBE_SECONDS: Final = 10.0
EXTENSIONS: Final = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "application/octet-stream": "bin"}

CHECK_BUCKET: Final = "check gateway.results.bucket, and that the endpoint can be reached from this pod"
GIVE_ACCESS: Final = (
    "check the bucket's credentials: they need s3:PutObject, s3:GetObject and s3:DeleteObject on the prefix"
)
CREATE_BUCKET: Final = "create the bucket, or correct gateway.results.bucket.name"


class BucketImages(ImageStore):
    """Objects ``<prefix><folder>/<job>-<random>/<index>.<extension>``."""

    def __init__(self, bucket: BucketConfig, inner: ImageStoreWithBooks, *, folder: str) -> None:
        """``inner`` has the books, and what was stored before the service had this bucket.

        ``folder`` is the service's own, behind the bucket's prefix.

        Credentials come from where AWS' own clients look: environment, web identity (IRSA), container, instance.
        """
        self._bucket = bucket
        self._inner = inner
        self._prefix = f"{bucket.prefix}{folder}/"
        self._objects = open_bucket(bucket.name, endpoint=bucket.endpoint, region=bucket.region, timeouts=TIMEOUTS)
        self._requests = asyncio.Semaphore(MAX_REQUESTS)
        self._problem: str | None = None
        self._probed_at_seconds = -math.inf  # on the loop's clock

    @override
    async def put(self, job_id: str, images: Sequence[bytes], media_type: str) -> StoredImages:
        if not images:
            return StoredImages()
        folder = f"{self._prefix}{job_id}-{secrets.token_hex(NAME_BYTES)}"
        extension = EXTENSIONS[media_type]
        references = tuple(
            ImageReference(
                key=f"{folder}/{index}.{extension}",
                size_bytes=len(image),
                media_type=media_type,
                bucket=self._bucket.name,
            )
            for index, image in enumerate(images)
        )
        entry = await self._inner.announce([reference.key for reference in references])
        await _gather(*(self._put(reference, image) for reference, image in zip(references, images, strict=True)))
        return StoredImages(references, entry=entry)

    @override
    async def get(self, references: Sequence[ImageReference]) -> tuple[bytes, ...]:
        if any(reference.bucket is None for reference in references):
            return await self._inner.get(references)
        return tuple(await _gather(*map(self._get, references)))

    @override
    async def delete(self, unused: Sequence[UnusedImages]) -> None:
        keys = [key for each in unused for key in each.object_keys]
        if keys:
            async with self._request("DELETE"):
                await obstore.delete_async(self._objects, keys)
        if unused:
            await self._inner.forget([each.entry for each in unused])

    @override
    async def url(self, reference: ImageReference) -> str | None:
        if reference.bucket != self._bucket.name:
            return None
        if self._bucket.public_base_url is not None:
            return f"{self._bucket.public_base_url}/{reference.key}"
        async with self._request("sign"):
            # Computed here; asks somebody only if the credentials have to be renewed.
            lifetime = timedelta(seconds=self._bucket.presign_seconds)
            return await obstore.sign_async(self._objects, "GET", reference.key, lifetime)

    @override
    async def usage(self) -> ImageUsage:
        return await self._inner.usage()

    @override
    async def purge(self) -> None:
        now_seconds = asyncio.get_running_loop().time()
        is_due = self._problem is not None or self._probed_at_seconds == -math.inf
        if is_due and now_seconds - self._probed_at_seconds >= PROBE_SECONDS:
            self._probed_at_seconds = now_seconds
            await self._probe()
        await self.delete(await self._inner.unused())

    @property
    @override
    def problem(self) -> str | None:
        return self._problem

    async def _probe(self) -> None:
        """Ask for an object that isn't there, so that ``problem`` is true at the start, and after an outage."""
        with suppress(ImagesGoneError):
            async with self._request("GET"):
                await obstore.get_async(self._objects, f"{self._prefix}probe")

    async def _put(self, reference: ImageReference, image: bytes) -> None:
        async with self._request("PUT"):
            attributes = {"Content-Type": reference.media_type}
            await obstore.put_async(self._objects, reference.key, image, attributes=attributes, use_multipart=False)

    async def _get(self, reference: ImageReference) -> bytes:
        async with self._request("GET"):
            found = await obstore.get_async(self._objects, reference.key)
            return bytes(await found.bytes_async())

    @asynccontextmanager
    async def _request(self, operation: str) -> AsyncIterator[None]:
        """One of a bounded number at a time. Raises ImagesGoneError and StoreUnavailableError."""
        async with self._requests:
            try:
                with _translated_errors(self._bucket, operation):
                    yield
            except StoreUnavailableError as error:
                self._problem = str(error)
                raise
            except ImagesGoneError:
                self._problem = None
                raise
            else:
                self._problem = None


@contextmanager
def _translated_errors(bucket: BucketConfig, operation: str) -> Iterator[None]:
    """Turn obstore's errors into those of a store; errors that are our own bugs pass through."""
    try:
        yield
    except FileNotFoundError as error:
        if not is_bucket_missing(error):
            raise ImagesGoneError("an image has expired") from error
        raise _unavailable(bucket, operation, error, CREATE_BUCKET) from error
    except REFUSED as error:
        raise _unavailable(bucket, operation, error, GIVE_ACCESS) from error
    except exceptions.GenericError as error:  # no connection, time-outs, 5xx: after the retries
        raise _unavailable(bucket, operation, error, CHECK_BUCKET) from error


def _unavailable(bucket: BucketConfig, operation: str, error: Exception, next_step: str) -> StoreUnavailableError:
    address = f"{bucket.endpoint or bucket.region}/{bucket.name}"
    return StoreUnavailableError(address, operation, describe_error(error), next_step, server="bucket")


async def _gather(*awaitables: Awaitable[T]) -> list[T]:
    """All results, or the first error once all have ended: nothing goes on behind the caller's back."""
    results = await asyncio.gather(*awaitables, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise errors[0]
    return [result for result in results if not isinstance(result, BaseException)]
