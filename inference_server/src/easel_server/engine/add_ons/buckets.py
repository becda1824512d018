"""Downloads objects of S3-compatible buckets."""

import logging
from pathlib import Path
from typing import Final

import obstore
from easel_contract.add_ons import AddOnConfig
from obstore import exceptions
from obstore.store import S3Store

from easel_server.engine.interface import GenerationError
from easel_server.engine.model_files.selection import format_gib
from easel_server.outbound.buckets import REFUSED, Timeouts, describe_error, is_bucket_missing, open_bucket, read_keys

# A body may be gigabytes.
TIMEOUTS: Final = Timeouts(connect_seconds=5, try_seconds=1800, retries=3, retry_seconds=60)
SMALLER_OR_MORE: Final = "use a smaller one, or raise spec.downloads.maxFileBytes"
PART_BYTES: Final = 8 << 20

logger = logging.getLogger(__name__)


def download_object(add_on: AddOnConfig, path: Path, max_bytes: int, *, known_tag: str | None) -> str | None:
    """Write an object to a file; its entity tag, or None if that is still ``known_tag``. Blocks.

    Raises GenerationError for what only a change helps against, and OSError where trying again may help.
    """
    bucket, _, key = add_on.source.removeprefix("s3://").partition("/")
    what = add_on.describe()
    try:
        keys = _read_keys(add_on)
        store = open_bucket(bucket, endpoint=add_on.endpoint, region=add_on.region, timeouts=TIMEOUTS, keys=keys)
        found = obstore.head(store, key)
        tag = str(found["e_tag"])
        if tag == known_tag:
            return None
        if found["size"] > max_bytes:
            raise GenerationError(
                f"{what} has {format_gib(found['size'])}, allowed are {format_gib(max_bytes)}; {SMALLER_OR_MORE}"
            )
        _write(store, key, path)
    except FileNotFoundError as error:
        missing = f"there is no bucket {bucket}" if is_bucket_missing(error) else f"the bucket has no {key}"
        raise GenerationError(f"{what}: {missing}; correct its uri") from error
    except REFUSED as error:
        raise GenerationError(
            f"{what}: access was refused; its credentials need s3:GetObject on it, check credentialsSecretName"
        ) from error
    except exceptions.BaseError as error:
        # What the client says may quote answers of hosts that whoever asked for an image has no business with.
        logger.warning("%s: the bucket can't be read: %s", what, describe_error(error))
        raise OSError(f"{what}: the bucket can't be read now; check its endpoint and the network") from error
    return tag


def _write(store: S3Store, key: str, path: Path) -> None:
    with path.open("wb") as file:
        for part in obstore.get(store, key).stream(min_chunk_size=PART_BYTES):
            file.write(part)


def _read_keys(add_on: AddOnConfig) -> tuple[str, str] | None:
    """None: those of the environment."""
    try:
        return read_keys(add_on.credentials_directory)
    except KeyError as error:
        secret = Path(str(add_on.credentials_directory)).name
        raise GenerationError(f"{add_on.describe()}: the Secret {secret} has no key {error.args[0]}") from error
