"""Fetches what a URL leads to that somebody else gave: from listed hosts, at public addresses, within bounds.

Redirects are followed by hand, since each leads somewhere else: to a host that must be listed as well, at an address
that is judged as it is connected to (guarded_transport.py). Bytes are counted as they come, packed and unpacked, since
neither the length that is announced nor how little it is packed can be believed.

What is raised may be shown to whoever gave the URL. It names the host and nothing that was found behind it: whether a
name inside the cluster exists, or answers, reads like any other host that can't be reached. The log says more.
"""

import asyncio
import hashlib
import logging
import ssl
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

import httpcore2
import httpx2

from easel_server.outbound.address import find_address_fault
from easel_server.outbound.guarded_transport import GuardedTransport, RefusedAddressError
from easel_server.outbound.resolver import Resolve
from easel_server.outbound.ssrf import Network

CONNECT_TIMEOUT_SECONDS: Final = 5.0
SILENCE_TIMEOUT_SECONDS: Final = 15.0  # between two parts of an answer
# Who sends a byte now and then is never silent; a file of gigabytes may take its time, at no less than this.
PACE_SECONDS: Final = 60.0
LEAST_PACE_BYTES: Final = 256 << 10  # in so many seconds
MAX_REDIRECTS: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
ANY_HOST: Final = "*"
MAX_HOSTS_NAMED: Final = 10  # in a message
UNPACKED_PART_BYTES: Final = 1 << 16  # at most this much is unpacked at a time
GZIP_WINDOW_BITS: Final = 31  # https://docs.python.org/3/library/zlib.html#zlib.decompress
USER_AGENT: Final = "easel"

logger = logging.getLogger(__name__)


class FetchFailure(StrEnum):
    """Why nothing was fetched."""

    REFUSED = "refused"  # the URL, its host, or where it redirects to
    UNREACHABLE = "unreachable"  # no address that may be called, no connection, no trust in its certificate
    ANSWER = "answer"  # another status than 200, or a body that can't be read
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"


class FetchError(Exception):
    """Nothing was fetched. The message is a predicate such as "leads to …", fit for whoever gave the URL."""

    def __init__(self, failure: FetchFailure, message: str) -> None:
        self.failure = failure
        super().__init__(message)


@dataclass(frozen=True)
class FetchedFile:
    """What was written to a file."""

    size_bytes: int
    sha256: str  # of the bytes, in hexadecimal


def is_listed(host: str, listed: Sequence[str]) -> bool:
    """Whether a host is one of a list of names, ``*.suffix`` for all names below one, and ``*`` for any."""
    name = host.lower().removesuffix(".")
    return any(
        each == ANY_HOST or name == each.lower() or (each.startswith("*.") and name.endswith(each[1:].lower()))
        for each in listed
    )


class Fetcher:
    """Fetches from listed hosts, in one event loop. To be closed, as by ``async with``."""

    def __init__(
        self,
        allowed_hosts: Sequence[str],
        allowed_networks: Sequence[Network] = (),
        *,
        timeout_seconds: float,
        setting: str,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """``timeout_seconds``: of one fetch in all, redirects and body. ``setting``: where hosts are allowed."""
        self._allowed_hosts = tuple(allowed_hosts)
        self._timeout_seconds = timeout_seconds
        self._setting = setting
        self._transport = GuardedTransport(allowed_networks, resolve, ssl_context)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def fetch(self, url: str, *, max_bytes: int, headers: Mapping[str, str] | None = None) -> bytes:
        """The body, unpacked. Raises FetchError."""
        parts: list[bytes] = []
        await self._fetch(url, parts.append, max_bytes, headers or {})
        return b"".join(parts)

    async def fetch_to_file(
        self, url: str, path: Path, *, max_bytes: int, headers: Mapping[str, str] | None = None
    ) -> FetchedFile:
        """Write the body, unpacked, to a file, part by part; none is left of a fetch that failed.

        Writes in the event loop, so it is for a loop that nobody else waits in. ``headers`` (a token, say) are for the
        URL's own host only, not for those that it redirects to. Raises FetchError and OSError.
        """
        digest, size_bytes = hashlib.sha256(), 0
        try:
            with path.open("wb") as file:

                def write(part: bytes) -> None:
                    nonlocal size_bytes
                    size_bytes += len(part)
                    digest.update(part)
                    file.write(part)

                await self._fetch(url, write, max_bytes, headers or {})
        except BaseException:
            _delete(path)
            raise
        return FetchedFile(size_bytes, digest.hexdigest())

    async def _fetch(
        self, url: str, write: Callable[[bytes], object], max_bytes: int, headers: Mapping[str, str]
    ) -> None:
        host = origin = ""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                for _ in range(MAX_REDIRECTS + 1):
                    target = self._check(url, is_redirect=bool(host))
                    host, its_origin = target.host, f"{target.scheme}://{target.netloc.decode('ascii')}"
                    origin = origin or its_origin
                    async with self._open(target, headers if its_origin == origin else {}) as response:
                        if response.status_code not in REDIRECTS:
                            return await _read_body(response, host, write, max_bytes)
                        url = _find_next(target, response)
        except FetchError:
            raise
        except TimeoutError as error:
            logger.info("fetching from %s took longer than %g seconds", host, self._timeout_seconds)
            message = f"took longer than {self._timeout_seconds:g} seconds to come from {host}"
            raise FetchError(FetchFailure.TOO_SLOW, message) from error
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
                raise  # of the file: the network's have types of their own
            raise self._explain(host, error) from error
        raise FetchError(
            FetchFailure.REFUSED, f"redirects more than {MAX_REDIRECTS} times; give the address behind them"
        )

    def _check(self, url: str, *, is_redirect: bool) -> httpx2.URL:
        """The URL, if it may be fetched. Raises FetchError."""
        prefix = "redirects to an address that " if is_redirect else ""
        if (fault := find_address_fault(url)) is not None:
            raise FetchError(FetchFailure.REFUSED, prefix + fault)
        parsed = httpx2.URL(url)
        if parsed.userinfo:
            raise FetchError(FetchFailure.REFUSED, f"{prefix}has a user name or a password in it; leave them out")
        host = parsed.raw_host.decode("ascii")
        if not is_listed(host, self._allowed_hosts):
            raise FetchError(
                FetchFailure.REFUSED,
                f"{'redirects' if is_redirect else 'leads'} to {host}, and allowed is {self._name_hosts()}; use one of "
                f"those, or have the host added to {self._setting}",
            )
        return parsed

    def _name_hosts(self) -> str:
        named, more = self._allowed_hosts[:MAX_HOSTS_NAMED], len(self._allowed_hosts) - MAX_HOSTS_NAMED
        return (", ".join(named) or "no host") + (f" and {more} more" if more > 0 else "")

    @asynccontextmanager
    async def _open(self, url: httpx2.URL, headers: Mapping[str, str]) -> AsyncIterator[httpx2.Response]:
        timeouts = {
            "connect": CONNECT_TIMEOUT_SECONDS,
            "read": SILENCE_TIMEOUT_SECONDS,
            "write": SILENCE_TIMEOUT_SECONDS,
        }
        request = httpx2.Request(
            "GET",
            url,
            headers={"user-agent": USER_AGENT, "accept-encoding": "identity", **headers},
            extensions={"timeout": timeouts},
        )
        response = await self._transport.handle_async_request(request)
        try:
            yield response
        finally:
            await response.aclose()

    def _explain(self, host: str, error: Exception) -> FetchError:
        logger.info("fetching from %s failed (%s): %s", host, self._setting, str(error) or repr(error))
        match error:
            case httpcore2.ReadTimeout() | httpcore2.WriteTimeout():
                return FetchError(FetchFailure.TOO_SLOW, f"leads to {host}, which said nothing for too long")
            case RefusedAddressError() | httpcore2.ConnectError() | httpcore2.ConnectTimeout():
                return FetchError(
                    FetchFailure.UNREACHABLE,
                    f"leads to {host}, which can't be reached: it has no public address, nothing answers there, or its "
                    "certificate isn't trusted",
                )
            case httpcore2.NetworkError() | httpcore2.ProtocolError() | ssl.SSLError():
                return FetchError(FetchFailure.ANSWER, f"leads to {host}, whose answer broke off or is no HTTP")
            case _:
                logger.error("fetching from %s: an unforeseen error, please report it", host, exc_info=error)
                return FetchError(FetchFailure.ANSWER, f"leads to {host}, whose answer can't be read")


def _delete(path: Path) -> None:
    if path.is_file():  # as it is not where the path is a directory, or a device
        path.unlink()


def _find_next(url: httpx2.URL, response: httpx2.Response) -> str:
    """Where a redirect leads. Raises FetchError."""
    location = response.headers.get("location", "")
    try:
        following = url.join(location)
    except Exception as error:  # the parser's own, idna's, Unicode's
        raise FetchError(FetchFailure.REFUSED, f"leads to {url.host}, which redirects to nowhere") from error
    if url.scheme == "https" and following.scheme == "http":
        raise FetchError(FetchFailure.REFUSED, f"leads to {url.host}, which redirects from https:// to http://")
    return str(following.copy_with(fragment=None))


async def _read_body(response: httpx2.Response, host: str, write: Callable[[bytes], object], max_bytes: int) -> None:
    """Write the body, unpacked. Raises FetchError, and httpcore2's errors."""
    if response.status_code != 200:
        raise FetchError(FetchFailure.ANSWER, f"leads to {host}, which answered {response.status_code} instead of 200")
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip", "x-gzip"}:
        raise FetchError(FetchFailure.ANSWER, f"leads to {host}, which sends it packed as {encoding[:50]!r} unasked")
    announced = response.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise _refuse_size(host, max_bytes)
    unpack = _Gunzip() if encoding != "identity" else None
    packed_bytes = unpacked_bytes = 0
    clock = asyncio.get_running_loop().time
    looked_at, bytes_then = clock(), 0
    async for part in response.aiter_raw():
        packed_bytes += len(part)
        if clock() - looked_at >= PACE_SECONDS:
            if packed_bytes - bytes_then < LEAST_PACE_BYTES:
                message = f"leads to {host}, which sends less than {LEAST_PACE_BYTES} bytes in {PACE_SECONDS:g} seconds"
                raise FetchError(FetchFailure.TOO_SLOW, message)
            looked_at, bytes_then = clock(), packed_bytes
        for unpacked in (part,) if unpack is None else unpack(part):
            unpacked_bytes += len(unpacked)
            if max(packed_bytes, unpacked_bytes) > max_bytes:
                raise _refuse_size(host, max_bytes)
            write(unpacked)
    if unpack is not None and not unpack.is_complete:
        raise FetchError(FetchFailure.ANSWER, f"leads to {host}, whose answer is packed and cut off")


def _refuse_size(host: str, max_bytes: int) -> FetchError:
    return FetchError(FetchFailure.TOO_LARGE, f"leads to {host}, which sends more than the {max_bytes} bytes allowed")


class _Gunzip:
    """Unpacks part by part, never much at a time. Some buckets send what was stored packed, whatever one asks for."""

    def __init__(self) -> None:
        self._decompressor = zlib.decompressobj(GZIP_WINDOW_BITS)

    @property
    def is_complete(self) -> bool:
        """Whether its end was seen."""
        return self._decompressor.eof

    def __call__(self, part: bytes) -> Iterator[bytes]:
        """What a part unpacks to. Raises FetchError."""
        try:
            while part and not self._decompressor.eof:
                yield self._decompressor.decompress(part, UNPACKED_PART_BYTES)
                part = self._decompressor.unconsumed_tail
        except zlib.error as error:
            raise FetchError(FetchFailure.ANSWER, "leads to a packed answer that is damaged") from error
