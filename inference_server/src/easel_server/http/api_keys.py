"""API keys from a mounted directory: one file a key, named for its owner. Re-read when the directory changes."""

import hashlib
import hmac
import logging
import time
from collections.abc import Callable
from pathlib import Path

from easel_server.http.refusals import refuse_key

ANONYMOUS = "anonymous"
RECHECK_SECONDS = 1.0
SCHEMES = frozenset({"bearer", "token"})  # OpenAI's clients send the first, Replicate's sent the second for long

logger = logging.getLogger(__name__)

Fingerprint = tuple[tuple[str, int, int, int], ...]


class KeyRing:
    """Who is behind an Authorization header. Holds digests only, never a key."""

    def __init__(self, directory: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Without a directory no key is asked for and everybody is the owner ``anonymous``."""
        self._directory = directory
        self._clock = clock
        self._digests: dict[str, bytes] = {}
        self._fingerprint: Fingerprint | None = None
        self._checked_at = -RECHECK_SECONDS

    def find_owner(self, authorization: str | None) -> str:
        """The owner of the key in an Authorization header. Raises RefusalError (401)."""
        if self._directory is None:
            return ANONYMOUS
        self._refresh(self._directory)
        scheme, _, key = (authorization or "").strip().partition(" ")
        key = key.strip()
        if scheme.lower() not in SCHEMES or not key:
            raise refuse_key("no API key given; send the header `Authorization: Bearer KEY`")
        presented = hashlib.sha256(key.encode()).digest()
        found: str | None = None
        # Every key is compared, in constant time: neither a key nor who has one can be told from the time it takes.
        for owner, digest in self._digests.items():
            if hmac.compare_digest(digest, presented):
                found = owner
        if found is None:
            raise refuse_key("the API key is not known; check it, or ask whoever runs this service for one")
        return found

    def _refresh(self, directory: Path) -> None:
        now = self._clock()
        if now - self._checked_at < RECHECK_SECONDS:
            return
        self._checked_at = now
        try:
            fingerprint = _fingerprint(directory)
            if fingerprint == self._fingerprint:
                return
            self._digests = _read(directory, [name for name, *_ in fingerprint])
        except OSError as error:
            # Kubernetes swaps the whole directory at once; what was read before stays good until the next look.
            logger.warning("API keys in %s can't be read, keeping %d known: %s", directory, len(self._digests), error)
            return
        self._fingerprint = fingerprint
        logger.info("API keys read", extra={"owners": len(self._digests)})


def _fingerprint(directory: Path) -> Fingerprint:
    # Names that begin with a dot are Kubernetes' own (..data and dated directories).
    files = sorted(path for path in directory.iterdir() if not path.name.startswith(".") and path.is_file())
    stats = [(path.name, path.stat()) for path in files]
    return tuple((name, stat.st_mtime_ns, stat.st_ino, stat.st_size) for name, stat in stats)


def _read(directory: Path, names: list[str]) -> dict[str, bytes]:
    digests = {}
    for name in names:
        key = (directory / name).read_bytes().strip()
        if key:
            digests[name] = hashlib.sha256(key).digest()
        else:
            logger.warning("API key file %s is empty and is ignored", directory / name)
    return digests
