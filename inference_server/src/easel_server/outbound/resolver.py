"""Names of hosts become addresses, without a thread: c-ares asks many name servers at a time.

The system's own resolver holds a thread for each name that it waits for, up to a minute, and the threads were those
that images are decoded in. See docs/decisions/2026-11-26-webhook-names.md.
"""

import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address
from typing import Any, Final

import aiodns

from easel_server.outbound.ssrf import Address, parse_address

TIMEOUT_SECONDS: Final = 2.0  # of one question to one name server
TRIES: Final = 2

# The addresses of a host, in the order of preference. Raises OSError when it has none.
Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


class Resolver:
    """By the system's settings: resolv.conf with its search list, and the hosts file."""

    def __init__(self, **options: Any) -> None:
        """``options`` are aiodns' own; for tests."""
        self._options = {"timeout": TIMEOUT_SECONDS, "tries": TRIES, **options}
        self._resolver: aiodns.DNSResolver | None = None

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """The host's addresses. Raises OSError if it has none, or no answer came."""
        literal = _read_literal(host)
        if literal is not None:
            return (literal,)
        if self._resolver is None:  # it belongs to the running loop
            self._resolver = aiodns.DNSResolver(**self._options)
        try:
            found = await self._resolver.getaddrinfo(host, port=port, type=socket.SOCK_STREAM)
        except aiodns.error.DNSError as error:
            raise OSError(error.args[-1]) from error
        return tuple(dict.fromkeys(parse_address(node.addr[0].decode("ascii")) for node in found.nodes))

    async def aclose(self) -> None:
        """Forget all questions."""
        if self._resolver is not None:
            await self._resolver.close()


def _read_literal(host: str) -> Address | None:
    """An address that stands for itself, in any of the spellings that systems take: ``127.1``, ``0x7f000001``."""
    try:
        return parse_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError, ValueError):
        return None
