"""A real redis-server for tests: its own directory and loopback port, an append-only file, and violent deaths."""

import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Self

START_TIMEOUT_SECONDS = 120.0
POLL_SECONDS = 0.01


class RedisServer:
    """Start with ``start`` or as a context manager. Data survive ``kill`` and ``restart``."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._directory = Path(tempfile.mkdtemp(prefix="easel-redis-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port = find_free_port()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def directory(self) -> Path:
        """Where its files are."""
        return self._directory

    @property
    def pid(self) -> int:
        assert self._process is not None, "not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        assert self._process is None, "already running"
        with (self._directory / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "redis-server",
                    *("--bind", "127.0.0.1", *self._listen(), "--dir", str(self._directory)),
                    *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
                    *self._arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._await_pong()

    def kill(self) -> None:
        """SIGKILL: no farewell, no last write."""
        assert self._process is not None, "not running"
        self._process.kill()
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        self.kill()
        self.start()

    def close(self) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def command(self, *words: str) -> bytes:
        """The raw reply of one inline command; for tests that look behind the broker."""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=5)) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(65536)

    def _listen(self) -> tuple[str, ...]:
        return "--port", str(self.port)

    def _is_answering(self) -> bool:
        """One that asks for a password first is there, too."""
        return self.command("PING").startswith((b"+PONG", b"-NOAUTH"))

    def _await_pong(self) -> None:
        assert self._process is not None
        give_up_at = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < give_up_at:
            if self._process.poll() is not None:
                break
            try:
                if self._is_answering():
                    return
            except OSError:
                pass  # not listening yet
            time.sleep(POLL_SECONDS)
        log = (self._directory / "redis.log").read_text(errors="replace")[-2000:]
        raise AssertionError(f"redis-server did not answer on port {self.port}; its log ends with:\n{log}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_free_port() -> int:
    """A loopback port that nobody uses yet."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
