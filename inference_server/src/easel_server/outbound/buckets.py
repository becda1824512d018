"""Opening S3-compatible buckets, and what obstore's errors mean; what is done with objects is for who opens them."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from easel_contract import names
from obstore import exceptions
from obstore.store import S3Store

DEFAULT_REGION: Final = "us-east-1"  # of an own server that has no regions
REASON_CHARACTERS: Final = 300
REFUSED: Final = (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)


@dataclass(frozen=True)
class Timeouts:
    """How long a bucket is waited for."""

    connect_seconds: float
    try_seconds: float  # of one try, its body among it
    retries: int
    retry_seconds: float  # of all tries together


def open_bucket(
    name: str, *, endpoint: str | None, region: str | None, timeouts: Timeouts, keys: tuple[str, str] | None = None
) -> S3Store:
    """A client that connects on first use, to AWS' own endpoint of the region where none is given.

    ``keys`` are an access key's id and secret. None: credentials are where AWS' own clients look, which is the
    environment, web identity (IRSA), the container and the instance.
    """
    endpoint = endpoint or f"https://s3.{region or DEFAULT_REGION}.amazonaws.com"
    return S3Store(
        name,
        config={} if keys is None else {"access_key_id": keys[0], "secret_access_key": keys[1]},
        endpoint=endpoint,
        region=region or DEFAULT_REGION,
        virtual_hosted_style_request=False,  # names with dots have no certificate, and own servers no wildcard domain
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=timeouts.connect_seconds),
            "timeout": timedelta(seconds=timeouts.try_seconds),
            "user_agent": "easel",
        },
        retry_config={"max_retries": timeouts.retries, "retry_timeout": timedelta(seconds=timeouts.retry_seconds)},
    )


def read_keys(directory: str | None) -> tuple[str, str] | None:
    """An access key's id and secret, from a Secret that is mounted there; None for no directory.

    Raises KeyError with the name of a file that isn't there.
    """
    if directory is None:
        return None
    files = [Path(directory) / names.SECRET_KEY_ACCESS_KEY_ID, Path(directory) / names.SECRET_KEY_SECRET_ACCESS_KEY]
    missing = next((file.name for file in files if not file.is_file()), None)
    if missing is not None:
        raise KeyError(missing)
    return files[0].read_text().strip(), files[1].read_text().strip()


def is_bucket_missing(error: FileNotFoundError) -> bool:
    """Whether it is the bucket that isn't there, and not an object in it."""
    return "NoSuchBucket" in str(error)


def describe_error(error: Exception) -> str:
    """An error of obstore in a line: what follows are its causes, one a line."""
    return str(error).strip().partition("\n")[0][:REASON_CHARACTERS]
