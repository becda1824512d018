"""A real memcached for tests, on a loopback port."""

import getpass
import socket
import subprocess
import time
from contextlib import closing
from typing import Self

START_TIMEOUT_SECONDS = 120.0
POLL_SECONDS = 0.01


class MemcachedServer:
    """Start with ``start`` or as a context manager. What it held is lost with ``kill``."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        assert self._process is None, "already running"
        self._process = subprocess.Popen(
            [
                *("memcached", "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-u", getpass.getuser()),
                *self._arguments,
            ],
            stdin=subprocess.DEVNULL,
        )
        give_up_at = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < give_up_at:
            assert self._process.poll() is None, "memcached ended"
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(POLL_SECONDS)
        raise AssertionError(f"memcached does not listen on port {self.port}")

    def kill(self) -> None:
        assert self._process is not None, "not running"
        self._process.kill()
        self._process.wait()
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()
