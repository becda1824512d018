"""Copies the objects below a prefix of a bucket into a cache: each whole, of one version, on from where it stopped."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

import obstore
from easel_contract import names
from easel_contract.server_config import BucketCopyConfig, ModelCacheConfig
from obstore import exceptions
from obstore.store import S3Store

from easel_server.engine.model_cache.progress import Needed
from easel_server.engine.model_files.selection import ModelFileError, format_gib
from easel_server.outbound.buckets import (
    REFUSED,
    Timeouts,
    describe_error,
    open_bucket,
    read_keys,
)

# A body may be gigabytes.
TIMEOUTS: Final = Timeouts(connect_seconds=5, try_seconds=1800, retries=3, retry_seconds=60)
MAX_OBJECTS: Final = 2000  # a pipeline has some dozens
PART_BYTES: Final = 8 << 20
SPARE_DISK_BYTES: Final = 64 << 20
PART: Final = ".part"
REFUSED_STATUSES: Final = ("401 Unauthorized", "403 Forbidden")
NO_BUCKET: Final = "404 Not Found"
TAG_CHARACTERS: Final = 16

logger = logging.getLogger(__name__)


def copy_objects(copy: BucketCopyConfig, cache: ModelCacheConfig, needed: Needed) -> None:
    """Bring all objects that aren't here in their whole length. Blocks.

    A part of an object is gone on with where its entity tag is the same still; all of it is asked for on condition of
    that tag, so that no file is of two versions.
    Raises ModelFileError, and OSError for a volume that can't be written.
    """
    directory = Path(cache.directory) / names.MODEL_COPIES_DIRECTORY / copy.name
    bucket, _, prefix = copy.uri.removeprefix("s3://").partition("/")
    with _explained(copy, bucket):
        store = open_bucket(
            bucket,
            endpoint=copy.endpoint,
            region=copy.region,
            timeouts=TIMEOUTS,
            keys=read_keys(copy.credentials_directory),
        )
        found = _list(store, prefix, copy)
        needed.add_copies({directory / name: size for name, (size, _) in found.items()})
        missing = {name: each for name, each in found.items() if not _is_here(directory / name, *each)}
        _check_disk(copy, directory, sum(size for size, _ in missing.values()))
        for name, (size, tag) in missing.items():
            _copy(store, f"{prefix}/{name}", directory / name, size, tag)


def _list(store: S3Store, prefix: str, copy: BucketCopyConfig) -> dict[str, tuple[int, str]]:
    """Size and entity tag by the name below the prefix; what is hidden isn't part of a model."""
    found: dict[str, tuple[int, str]] = {}
    for page in obstore.list(store, prefix):
        for each in page:
            name = str(each["path"]).removeprefix(f"{prefix}/")
            if not any(part.startswith(".") or not part for part in name.split("/")):
                found[name] = (int(each["size"]), str(each["e_tag"]))
        if len(found) > MAX_OBJECTS:
            raise ModelFileError(f"below {copy.uri} are more than {MAX_OBJECTS} objects; name the model's own prefix")
    if not found:
        raise ModelFileError(f"below {copy.uri}/ is no object; correct uri in the source's s3")
    return found


def name_part(file: Path, tag: str) -> Path:
    """Where what has come so far of an object with this entity tag is, until all of it has."""
    return file.with_name(f".{file.name}.{sha256(tag.encode()).hexdigest()[:TAG_CHARACTERS]}{PART}")


def _name_mark(file: Path, tag: str) -> Path:
    """An empty file that says of which version its neighbour is."""
    return name_part(file, tag).with_suffix(".whole")


def _is_here(file: Path, size: int, tag: str) -> bool:
    return file.is_file() and file.stat().st_size == size and _name_mark(file, tag).exists()


def _check_disk(copy: BucketCopyConfig, directory: Path, missing_bytes: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if missing_bytes + SPARE_DISK_BYTES > free:
        raise ModelFileError(
            f"{copy.uri} needs {format_gib(missing_bytes)} more on the claim, and {format_gib(free)} are free; make "
            "the claim of model.cache larger"
        )


def _copy(store: S3Store, key: str, file: Path, size: int, tag: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = name_part(file, tag)
    here = part.stat().st_size if part.exists() else 0
    if here > size:
        part.unlink()
        here = 0
    with part.open("ab") as stream:
        if here < size:
            logger.info("%s: copying %d bytes from byte %d", key, size - here, here)
            body = obstore.get(store, key, options={"if_match": tag, "range": {"offset": here}})
            for chunk in body.stream(min_chunk_size=PART_BYTES):
                stream.write(chunk)
    if (got := part.stat().st_size) != size:
        raise ModelFileError(f"{key} came with {got} bytes, and the bucket's list says {size}; it is copied on later")
    part.replace(file)
    _name_mark(file, tag).touch()


@contextmanager
def _explained(copy: BucketCopyConfig, bucket: str) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        secret = Path(str(copy.credentials_directory)).name
        raise ModelFileError(f"{copy.uri}: the Secret {secret} has no key {error.args[0]}") from error
    except FileNotFoundError as error:
        raise ModelFileError(f"{copy.uri}: an object went while it was copied; it is looked for again") from error
    except exceptions.PreconditionError as error:
        raise ModelFileError(f"{copy.uri}: an object changed while it was copied; it is copied anew") from error
    except exceptions.BaseError as error:
        # Of a list, the client says by its text alone that it was refused.
        if isinstance(error, REFUSED) or any(status in str(error) for status in REFUSED_STATUSES):
            raise ModelFileError(
                f"{copy.uri}: access was refused; s3:ListBucket on the bucket and s3:GetObject below the prefix are "
                "needed: check credentialsSecretName, or the identity of the service's ServiceAccount"
            ) from error
        if NO_BUCKET in str(error):
            raise ModelFileError(f"{copy.uri}: there is no bucket {bucket}; correct uri in the source's s3") from error
        raise ModelFileError(
            f"{copy.uri} can't be read now ({describe_error(error)}); check its endpoint and the network"
        ) from error
