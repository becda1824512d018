"""URLs of Redis or Valkey: of one server, or of Sentinels that know which server is the master.

``redis://``, ``rediss://`` (TLS) and ``unix://`` are read by the clients themselves. With Sentinel:

    redis+sentinel://USER:PASSWORD@HOST[:26379],HOST[:26379]/MASTER[/DB]?sentinel_username=…&sentinel_password=…

User and password are those of the servers; ``rediss+sentinel://`` speaks TLS with servers and Sentinels. Other
parameters go on to the client of the servers, such as ``ssl_ca_certs``. The form is that of several Python libraries;
there is no registered one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

SENTINEL_PORT: Final = 26379
MAX_SENTINELS: Final = 9
QUOTING: Final = "of user and password, / ? # @ [ ] must be written as %2F %3F %23 %40 %5B %5D"
SENTINEL_SCHEMES: Final = {"redis+sentinel": "redis", "rediss+sentinel": "rediss"}
# What a field or a value must match; the parsers say the rest.
URL_PATTERN: Final = r"^$|^(rediss?(\+sentinel)?|unix)://"
EXAMPLES: Final = (
    "such as rediss://user:password@host:6380/0, or redis+sentinel://user:password@host1:26379,host2:26379/mymaster/0"
)
LOGIN_PARAMETERS: Final = frozenset({"username", "password"})
CA_PARAMETER: Final = "ssl_ca_certs"  # redis-py's name for the file


# Not urllib's: what it reads of several hosts with an IPv6 address among them depends on Python's release.
PARTS: Final = re.compile(r"(?P<scheme>[a-z+]*)://(?P<netloc>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?")


class _Parts(NamedTuple):
    scheme: str
    netloc: str  # with user and password
    path: str
    query: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}{self.path}" + (f"?{self.query}" if self.query else "")

    def with_login(self, login: str) -> "_Parts":
        place = self.netloc.rpartition("@")[2]
        return self._replace(netloc=f"{login}@{place}" if login else place)


def _split(url: str) -> _Parts:
    found = PARTS.match(url)
    return _Parts(*(part or "" for part in found.groups())) if found else _Parts("", "", "", "")


@dataclass(frozen=True)
class SentinelUrl:
    """What a URL with Sentinels says."""

    sentinels: tuple[tuple[str, int], ...]  # host and port
    master: str  # name of the group, as Sentinels know it
    server_url: str = field(repr=False)  # of the servers, with the master's name where a host would be
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    @property
    def is_tls(self) -> bool:
        """Whether servers and Sentinels speak TLS."""
        return self.server_url.startswith("rediss://")

    def at(self, host: str, port: int) -> str:
        """The URL of one of the servers."""
        parts = _split(self.server_url)
        place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return str(parts._replace(netloc=place).with_login(parts.netloc.rpartition("@")[0]))

    def __str__(self) -> str:
        return f"the master {self.master} of {','.join(f'{host}:{port}' for host, port in self.sentinels)}"


def parse_sentinel_url(url: str) -> SentinelUrl | None:
    """What it says of Sentinels; None for a URL of one server. Raises ValueError, without the password."""
    parts = _split(url)
    scheme = parts.scheme
    is_cut = "@" in url and "@" not in parts.netloc and not parts.path and scheme in SENTINEL_SCHEMES
    if ("@" in parts.path and scheme != "unix") or is_cut:  # then what looks like a host is a part of the password
        raise ValueError(QUOTING)
    if scheme not in SENTINEL_SCHEMES:
        _check_place(url)
        return None
    login, _, places = parts.netloc.rpartition("@")
    sentinels = tuple(_read_places(places))
    master, *rest = [unquote(step) for step in parts.path.removeprefix("/").split("/")]
    if not master:
        raise ValueError(f"{places} has no name of a master behind it, such as {scheme}://{places}/mymaster")
    if len(rest) > 1 or not (rest or ["0"])[0].isdecimal():
        raise ValueError(f"{'/'.join(rest)!r} behind the master {master} is no number of a database, such as 0")
    parameters = dict(parse_qsl(parts.query))
    username, password = (parameters.pop(f"sentinel_{name}", None) for name in ("username", "password"))
    host, database = quote(master, safe=""), (rest or ["0"])[0]
    server = _Parts(SENTINEL_SCHEMES[scheme], host, f"/{database}", urlencode(parameters)).with_login(login)
    return SentinelUrl(sentinels, master, str(server), username, password)


def _check_place(url: str) -> None:
    """Of a URL of one server, which redis-py reads by urllib: what that says may have pieces of the password in it."""
    try:
        is_place = urlsplit(url).port != 0
    except ValueError:
        is_place = False
    if not is_place:
        raise ValueError(f"it names no host with a port of 1 to 65535; {QUOTING}")


def replace_login(url: str, login: str) -> str:
    """The URL with ``USER:PASSWORD``, quoted, in place of what it has; without either where that is empty.

    redis-py also takes them as parameters, which go as well.
    """
    parts = _split(url)
    kept = "&".join(each for each in parts.query.split("&") if each.partition("=")[0] not in LOGIN_PARAMETERS)
    return str(parts._replace(query=kept).with_login(login))


def add_certificate_authority(url: str, file: str) -> str:
    """The URL of a server that is believed by a file of authorities. Raises ValueError where it speaks no TLS."""
    parts = _split(url)
    if not parts.scheme.startswith("rediss"):
        raise ValueError(f"a certificate authority is given, and {parts.scheme}:// has no TLS: write rediss://")
    parameters = dict(parse_qsl(parts.query)) | {CA_PARAMETER: file}
    return str(parts._replace(query=urlencode(parameters, safe="/")))


def _read_places(text: str) -> Iterator[tuple[str, int]]:
    places = [place.strip() for place in text.split(",")]
    if len(places) > MAX_SENTINELS:
        raise ValueError(f"{len(places)} Sentinels are named; {MAX_SENTINELS} are allowed")
    for place in places:
        host, port = _split_place(place)
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise ValueError(f"{place!r} is no address of a Sentinel: write HOST or HOST:PORT, an IPv6 address in []")
        yield host, int(port)


def _split_place(place: str) -> tuple[str, str]:
    if place.startswith("["):
        host, _, rest = place[1:].partition("]")
        return host, rest.removeprefix(":") or str(SENTINEL_PORT)
    host, colon, port = place.partition(":")
    return host, port if colon else str(SENTINEL_PORT)
