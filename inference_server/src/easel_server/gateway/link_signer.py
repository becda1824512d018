"""Links that carry their own right: to one object of one job, until it expires. No key of a customer is in them.

A link is for whoever has it and sends no API key there: browsers, ``<img>``, Replicate's clients. It may be read, and
nothing else. What is signed is ``GET``, the object and the moment when it expires; the object begins with the job's id,
which belongs to one customer for good (``generation/request.py``). So a link is checked before anything is looked up,
and who guesses reaches no store.

Keys (``easel_contract/keys.py``) come from a mounted file that all gateways of a service share, from the
environment, or are this process's own.
"""

import hmac
import logging
import math
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from easel_contract import names
from easel_contract.keys import MIN_LINK_KEY_CHARACTERS, parse_link_keys

from easel_server.gateway.refusals import refuse_link
from easel_server.generation.job import Job

EXPIRES, SIGNATURE = "expires", "signature"  # the query's
MAX_FILE_BYTES: Final = 8 << 10
RECHECK_SECONDS: Final = 1.0
logger = logging.getLogger(__name__)


class LinkKeys:
    """The keys as they are now. Those of a file are read again each second, so that they can change."""

    def __init__(
        self, *, file: Path | None = None, text: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``file`` has precedence over ``text``; without either there is a key of this process alone."""
        self._file = file
        self._clock = clock
        self._checked_at = -math.inf
        self._is_warned = False
        self._keys = () if file else (parse_link_keys(text) or (secrets.token_bytes(MIN_LINK_KEY_CHARACTERS),))

    def current(self) -> tuple[bytes, ...]:
        """The one that signs first; none where the file has none."""
        now = self._clock()
        if self._file is not None and now - self._checked_at >= RECHECK_SECONDS:
            self._checked_at = now
            self._read(self._file)
        return self._keys

    def _read(self, file: Path) -> None:
        try:
            with file.open("rb") as opened:
                self._keys = parse_link_keys(opened.read(MAX_FILE_BYTES).decode())
            problem = None if self._keys else f"it holds no key of {MIN_LINK_KEY_CHARACTERS} characters or more"
        except (OSError, ValueError) as error:  # what was read before stays good: links that are out may be in use
            problem = f"it can't be read: {error}"
        if problem is not None and not self._is_warned:
            logger.warning("keys of links in %s: %s; %d known", file, problem, len(self._keys))
        self._is_warned = problem is not None


class LinkSigner:
    """Signs and checks. ``now`` gives the time in seconds since the epoch."""

    def __init__(self, keys: LinkKeys, *, ttl_seconds: int, now: Callable[[], float] = time.time) -> None:
        """``ttl_seconds``: how long results are kept, and so how long a link to one is worth anything."""
        self._keys = keys
        self._ttl_seconds = ttl_seconds
        self._now = now

    def sign(self, job: Job, part: str) -> str:
        """The query of a link to a part of a job, such as ``output/0``; empty where there is no key to sign with."""
        keys = self._keys.current()
        if not keys:
            return ""
        expires = self._expiry(job)
        return f"{EXPIRES}={expires}&{SIGNATURE}={_sign(keys[0], f'{job.id}/{part}', expires)}"

    def check(self, job_id: str, part: str, query: Mapping[str, str]) -> bool:
        """Whether the query of a link gives the right to this part of this job.

        False for a query that isn't signed. Raises RefusalError (403) for a signature that is wrong or has expired.
        """
        given = query.get(SIGNATURE)
        if given is None:
            return False
        text = query.get(EXPIRES, "")
        expires = int(text) if text.isascii() and text.isdigit() and len(text) <= 12 else 0
        right = [_sign(key, f"{job_id}/{part}", expires).encode() for key in self._keys.current()]
        if not any(hmac.compare_digest(each, given.encode()) for each in right):
            raise refuse_link("its signature doesn't fit")
        if self._now() >= expires:
            raise refuse_link(f"it expired at {datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M:%S} UTC")
        return True

    def _expiry(self, job: Job) -> int:
        """When the result goes; of a job that isn't over one or two times to live from now, and the same for a while.

        A link that was new at each look would make news of each look in a stream of events.
        """
        if job.finished_at is not None:
            return math.ceil(job.finished_at.timestamp() + self._ttl_seconds)
        return (int(self._now() // self._ttl_seconds) + 2) * self._ttl_seconds


def _sign(key: bytes, target: str, expires: int) -> str:
    digest = hmac.digest(key, f"GET\n{target}\n{expires}".encode(), "sha256")
    return urlsafe_b64encode(digest).decode("ascii").rstrip("=")


def read_link_keys(directory: str | None, text: str) -> LinkKeys:
    """The keys in a mounted directory, else those of the environment, else one of this process alone."""
    return LinkKeys(file=Path(directory) / names.SECRET_KEY_LINKS if directory else None, text=text)
