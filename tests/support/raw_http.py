"""HTTP as bytes on a socket: what no well-behaved client sends."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 20.0


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """A connection to the host of a URL."""
    with open_socket(url) as connection:
        yield connection


def open_socket(url: str) -> socket.socket:
    """A connection to the host of a URL; close it."""
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT_SECONDS)


def build_head(method: str, path: str, *headers: str) -> bytes:
    """A request's head."""
    return "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", "Host: localhost", *headers, "")).encode(
        "latin-1"
    )


def read_all(connection: socket.socket) -> bytes:
    """Everything to the end of the connection; what came until then where it is reset."""
    received = b""
    try:
        while data := connection.recv(1 << 16):
            received += data
    except ConnectionError:
        received += b" <reset>"
    return received


def status_of(answer: bytes) -> int:
    """The status of an answer; 0 where there is none."""
    parts = answer.split(b" ", 2)
    return int(parts[1]) if len(parts) > 1 and parts[1].isdigit() else 0
