"""Whether a URL can be called, by the very parser that calls. Where it leads is judged when it is connected to."""

import re
from typing import Final

import httpx2

from easel_server.outbound.ssrf import parse_address

MAX_NAME_CHARACTERS: Final = 253  # https://www.rfc-editor.org/rfc/rfc1035#section-2.3.4, and 63 of a label
NAME_PATTERN: Final = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
MAX_PORT: Final = 65535
PUNYCODE: Final = "xn--"  # https://www.rfc-editor.org/rfc/rfc5890#section-2.3.2.1


def find_address_fault(url: str) -> str | None:
    """What is wrong with a URL, in a few words; None if it can be called.

    All that a call reads of a URL is read here: the parser makes some parts only when they are asked for, and what
    it raises then has no common type.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        return "has characters that no URL has; write them percent-encoded, and hosts in punycode"
    try:
        parsed = httpx2.URL(url)
        host, port = parsed.raw_host.decode("ascii"), parsed.port
        read = parsed.host, parsed.netloc, parsed.raw_path, httpx2.Request("POST", parsed).headers.raw
    except Exception as error:  # the parser's own, idna's, Unicode's
        return f"can't be read: {error}"
    if parsed.scheme not in {"http", "https"} or not all(read):
        return "is no absolute http:// or https:// URL"
    if not _is_host(host):
        return f"has no host that can exist: {host!r}"
    if port is not None and not 0 < port <= MAX_PORT:
        return f"has port {port}, allowed are 1 to {MAX_PORT}"
    return None


def _is_host(host: str) -> bool:
    if ":" in host:
        try:
            parse_address(host)
        except ValueError:
            return False
        return True
    if len(host) > MAX_NAME_CHARACTERS or NAME_PATTERN.fullmatch(host) is None:
        return False
    return all(_has_letters(label) for label in host.split(".") if label.startswith(PUNYCODE))


def _has_letters(label: str) -> bool:
    """Whether a label in punycode stands for anything; where not, some versions of the parser raise when they call."""
    try:
        return bool(label.removeprefix(PUNYCODE).encode("ascii").decode("punycode"))
    except UnicodeError:
        return False
