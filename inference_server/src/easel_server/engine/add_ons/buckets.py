"""Downloads objects of S3-compatible buckets, by obstore, as the store of images does."""

import logging
from datetime import timedelta
from pathlib import Path
from typing import Final

import obstore
from easel_contract import names
from easel_contract.add_ons import AddOnConfig
from obstore import exceptions
from obstore.store import S3Store

from easel_server.engine.interface import GenerationError
from easel_server.engine.model_files.selection import format_gib

CONNECT_TIMEOUT: Final = timedelta(seconds=5)
TIMEOUT: Final = timedelta(minutes=30)  # of one try, whose body may be gigabytes
RETRIES: Final = 3
RETRY_TIMEOUT: Final = timedelta(minutes=1)
DEFAULT_REGION: Final = "us-east-1"
PART_BYTES: Final = 8 << 20
REASON_CHARACTERS: Final = 300

logger = logging.getLogger(__name__)


def download_object(add_on: AddOnConfig, path: Path, max_bytes: int, *, known_tag: str | None) -> str | None:
    """Write an object to a file; its entity tag, or None if that is still ``known_tag``. Blocks.

    Raises GenerationError for what only a change helps against, and OSError where trying again may help.
    """
    bucket, _, key = add_on.source.removeprefix("s3://").partition("/")
    what = add_on.describe()
    try:
        store = _open(add_on, bucket)
        found = obstore.head(store, key)
        tag = str(found["e_tag"])
        if tag == known_tag:
            return None
        if found["size"] > max_bytes:
            raise GenerationError(
                f"{what} has {format_gib(found['size'])}, allowed are {format_gib(max_bytes)}; use a smaller one"
            )
        _write(store, key, path)
    except FileNotFoundError as error:
        missing = f"there is no bucket {bucket}" if "NoSuchBucket" in str(error) else f"the bucket has no {key}"
        raise GenerationError(f"{what}: {missing}; correct its uri") from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise GenerationError(
            f"{what}: access was refused; its credentials need s3:GetObject on it, check credentialsSecretName"
        ) from error
    except exceptions.BaseError as error:
        # What the client says may quote answers of hosts that whoever asked for an image has no business with.
        logger.warning("%s: the bucket can't be read: %s", what, str(error).strip()[:REASON_CHARACTERS])
        raise OSError(f"{what}: the bucket can't be read now; check its endpoint and the network") from error
    return tag


def _write(store: S3Store, key: str, path: Path) -> None:
    with path.open("wb") as file:
        for part in obstore.get(store, key).stream(min_chunk_size=PART_BYTES):
            file.write(part)


def _open(add_on: AddOnConfig, bucket: str) -> S3Store:
    endpoint = add_on.endpoint or f"https://s3.{add_on.region or DEFAULT_REGION}.amazonaws.com"
    keys = _read_keys(add_on, Path(add_on.credentials_directory)) if add_on.credentials_directory is not None else None
    return S3Store(
        bucket,
        config={} if keys is None else {"access_key_id": keys[0], "secret_access_key": keys[1]},
        endpoint=endpoint,
        region=add_on.region or DEFAULT_REGION,
        virtual_hosted_style_request=False,  # as the store of images says
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": CONNECT_TIMEOUT,
            "timeout": TIMEOUT,
            "user_agent": "easel",
        },
        retry_config={"max_retries": RETRIES, "retry_timeout": RETRY_TIMEOUT},
    )


def _read_keys(add_on: AddOnConfig, directory: Path) -> tuple[str, str]:
    files = [directory / names.SECRET_KEY_ACCESS_KEY_ID, directory / names.SECRET_KEY_SECRET_ACCESS_KEY]
    missing = next((file.name for file in files if not file.is_file()), None)
    if missing is not None:
        raise GenerationError(f"{add_on.describe()}: the Secret {directory.name} has no key {missing}")
    return files[0].read_text().strip(), files[1].read_text().strip()
