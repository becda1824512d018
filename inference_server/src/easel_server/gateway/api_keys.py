"""API keys from a mounted directory: one file a customer. Re-read when the directory changes.

Keys fail closed: where they are asked for and there are none to be had, because the directory is missing, empty or
can't be read, nobody gets in. What was read before stays good for a moment only, which the exchange of a mounted Secret
may take: who was locked out meanwhile would otherwise stay in.
"""

import base64
import hashlib
import hmac
import logging
import math
import secrets
import time
from binascii import Error as Base64Error
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from easel_contract.keys import DIGEST_PREFIX, ApiKeyEntry, parse_api_key_entry

from easel_server.gateway.refusals import refuse_key, refuse_without_keys
from easel_server.generation.request import ANONYMOUS, Customer

RECHECK_SECONDS = 1.0
UNREADABLE_SECONDS = 10.0  # for which keys stay good whose directory can't be read any more
# OpenAI's clients send the first, Replicate's sent the second for long.
SCHEMES = frozenset({"bearer", "token"})
BASIC = "basic"  # clients of AUTOMATIC1111 know no other: the password is the key, the user's name is ignored
logger = logging.getLogger(__name__)
Fingerprint = tuple[tuple[str, int, int, int], ...]


class KeyRing:
    """Who is behind an Authorization header. Holds digests only, never a key."""

    def __init__(
        self,
        directory: Path | None,
        clock: Callable[[], float] = time.monotonic,
        *,
        asks_for_keys: Callable[[], bool] = lambda: False,
    ) -> None:
        """Without a directory no key is asked for and everybody is ``ANONYMOUS``.

        Unless ``asks_for_keys`` says by now that one is: then nobody gets in here, where there is none to check by.
        """
        self._directory = directory
        self._clock = clock
        self._asks_for_keys = asks_for_keys
        self._read_at = -math.inf
        self._problem: str | None = None  # that the directory has
        # Keys are looked up by a digest that is keyed with a secret of this process: what a look-up's time betrays
        # says nothing of the keys, and it costs the same however many there are.
        self._blind = secrets.token_bytes(32)
        self._customers: dict[bytes, Customer] = {}
        self._fingerprint: Fingerprint | None = None
        self._checked_at = -RECHECK_SECONDS

    @property
    def are_asked_for(self) -> bool:
        """Whether there are several customers; else everybody is ``ANONYMOUS``."""
        return self._directory is not None

    def find_customer(self, authorization: str | None) -> Customer:
        """The customer whose key is in an Authorization header.

        Raises RefusalError: 401, or 503 where there is no key to check by.
        """
        if self._directory is None:
            if self._asks_for_keys():
                raise refuse_without_keys("API keys were asked for after this gateway began, and it has none")
            return ANONYMOUS
        self._refresh(self._directory)
        if not self._customers:
            raise refuse_without_keys(self._problem or "there is no valid one among the service's")
        key = _read_key(authorization or "")
        if not key:
            raise refuse_key("no API key given; send the header `Authorization: Bearer KEY`")
        customer = self._customers.get(self._blinded(hashlib.sha256(key.encode()).digest()))
        if customer is None:
            raise refuse_key("the API key is not known; check it, or ask whoever runs this service for one")
        return customer

    def _blinded(self, digest: bytes) -> bytes:
        return hmac.digest(self._blind, digest, "sha256")

    def _refresh(self, directory: Path) -> None:
        now = self._clock()
        if now - self._checked_at < RECHECK_SECONDS:
            return
        self._checked_at = now
        try:
            fingerprint = _fingerprint(directory)
        except OSError as error:
            self._note_unreadable(directory, error, now)
            return
        self._read_at, self._problem = now, None
        if fingerprint == self._fingerprint:
            return
        values = dict(_read_files(directory, [name for name, *_ in fingerprint]))
        self._fingerprint = fingerprint if len(values) == len(fingerprint) else None  # else it is looked at again
        self._customers = self._index(values)
        logger.info("API keys read", extra={"customers": len(values), "keys": len(self._customers)})

    def _note_unreadable(self, directory: Path, error: OSError, now: float) -> None:
        is_over = now - self._read_at >= UNREADABLE_SECONDS
        if self._problem is None or (is_over and self._customers):
            known = "nobody gets in" if is_over else f"those that are known stay good for {UNREADABLE_SECONDS:.0f} s"
            logger.warning("API keys in %s can't be read, %s: %s", directory, known, error)
        if is_over:
            self._customers, self._fingerprint = {}, None
        self._problem = f"their directory can't be read ({error.strerror})"

    def _index(self, values: dict[str, bytes]) -> dict[bytes, Customer]:
        """Customers by the blinded digests of their keys. What is wrong with one leaves the others alone."""
        customers: dict[bytes, Customer] = {}
        for name, value in values.items():
            try:
                entry = parse_api_key_entry(value)
            except ValueError as error:
                logger.warning("API keys of customer %s are ignored: %s", name, error)
                continue
            customer = Customer(name, entry.weight, entry.max_priority, entry.rate_limit)
            for digest in map(self._blinded, _digests(entry)):
                if customers.setdefault(digest, customer) is not customer:
                    owner = customers[digest].name
                    logger.warning("an API key of customer %s is ignored: it is %s's too", name, owner)
        return customers


def _read_key(authorization: str) -> str:
    """The key of any of the schemes; empty if there is none."""
    scheme, _, credentials = authorization.strip().partition(" ")
    if scheme.lower() in SCHEMES:
        return credentials.strip()
    if scheme.lower() != BASIC:
        return ""
    try:
        return base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[2]
    except (Base64Error, UnicodeDecodeError, ValueError):
        return ""


def _digests(entry: ApiKeyEntry) -> list[bytes]:
    return [
        bytes.fromhex(key.removeprefix(DIGEST_PREFIX))
        if key.startswith(DIGEST_PREFIX)
        else hashlib.sha256(key.encode()).digest()
        for key in entry.keys
    ]


def _read_files(directory: Path, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Those that can be read: one that can't is nobody else's fault."""
    for name in names:
        try:
            yield name, (directory / name).read_bytes()
        except OSError as error:
            logger.warning("API keys of customer %s can't be read: %s", name, error)


def _fingerprint(directory: Path) -> Fingerprint:
    # Names that begin with a dot are Kubernetes' own (..data and dated directories).
    files = sorted(path for path in directory.iterdir() if not path.name.startswith(".") and path.is_file())
    stats = [(path.name, path.stat()) for path in files]
    return tuple((name, stat.st_mtime_ns, stat.st_ino, stat.st_size) for name, stat in stats)
