"""The Hugging Face Hub's API for models, as far as its Python client uses it to download, on loopback.

A repository is a directory ``OWNER/NAME`` below the root; its one commit is ``COMMIT``. Some owners' repositories
answer as the Hub does for what can't be had.

``python -m tests.support.hub_server HOST ROOT`` is one for another network: it prints its address, then each request,
and takes a HubServer's fields as JSON, a line each, until its input ends.
"""

import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFUSALS = {
    "gone": (404, "RepoNotFound"),
    "secret": (401, "RepoNotFound"),
    "gated": (403, "GatedRepo"),
    "old": (404, "RevisionNotFound"),
    "down": (503, ""),
}
TOKEN = "hf_right"  # of nobody


@dataclass
class HubServer:
    """A running Hub."""

    root: Path
    address: str = ""
    sent_bytes: dict[str, int] = field(default_factory=dict)  # of each file, by OWNER/NAME/FILE
    requests: list[str] = field(default_factory=list)
    cut_once: set[str] = field(default_factory=set)  # files whose first download breaks off at half of them
    has_large_files: bool = False  # weights are called by their sha256, as the Hub's own storage of large files does
    held: dict[str, threading.Event] = field(
        default_factory=dict
    )  # files that go on behind their first half once it is set
    damaged: dict[str, list[int]] = field(default_factory=dict)  # of files, the bytes that come wrong, one a time
    claimed_bytes: dict[str, int] = field(default_factory=dict)  # of files that are said to be larger than they are
    on_request: Callable[[str], None] = lambda _request: None

    def forget(self) -> None:
        """Begin to count anew."""
        self.sent_bytes.clear()
        self.requests.clear()

    @property
    def files(self) -> set[str]:
        """The files that were sent, without their repository."""
        return {path.split("/", 2)[2] for path in self.sent_bytes}


class Handler(BaseHTTPRequestHandler):
    """One request. ``hub`` is set by ``serve_hub``."""

    hub: ClassVar[HubServer]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        self.hub.requests.append(f"{self.command} /{path}")
        self.hub.on_request(self.hub.requests[-1])
        owner = path.removeprefix("api/models/").split("/")[0]
        if owner in REFUSALS:
            self._answer(REFUSALS[owner][0], {"X-Error-Code": REFUSALS[owner][1]})
        elif owner == "private" and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"X-Error-Code": "RepoNotFound"})
        elif match := re.fullmatch(r"api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self._describe(match[1])
        elif match := re.fullmatch(r"api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            self._list(match[1])
        elif match := re.fullmatch(r"([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._send_file(match[1], match[2])
        else:
            self._answer(404, {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET  # noqa: N815  # the base class's convention

    def _describe(self, repository: str) -> None:
        if not (self.hub.root / repository).is_dir():
            return self._answer(404, {"X-Error-Code": "RepoNotFound"})
        return self._answer_json({"_id": "1", "id": repository, "sha": COMMIT, "siblings": []})

    def _list(self, repository: str) -> None:
        root = self.hub.root / repository
        files = {file.relative_to(root).as_posix(): file for file in sorted(root.rglob("*")) if file.is_file()}
        self._answer_json(
            [
                {
                    "type": "file",
                    "path": name,
                    "size": self.hub.claimed_bytes.get(f"{repository}/{name}", file.stat().st_size),
                    "oid": self._tag(file),
                }
                for name, file in files.items()
            ]
        )

    def _send_file(self, repository: str, name: str) -> None:
        file = self.hub.root / repository / name
        if not file.is_file():
            return self._answer(404, {"X-Error-Code": "EntryNotFound"})
        content = file.read_bytes()
        first = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first = int(match[1])
        headers = {"ETag": f'"{self._tag(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        wrong = self.hub.damaged.get(f"{repository}/{name}")
        if self.command == "GET" and wrong:
            at = wrong.pop() % len(content)
            content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return self._answer(206 if first else 200, headers, content[first:], f"{repository}/{name}")

    def _tag(self, file: Path) -> str:
        if self.hub.has_large_files and file.suffix == ".safetensors":
            return hashlib.sha256(file.read_bytes()).hexdigest()
        return tag(file)

    def _answer_json(self, content: Any) -> None:
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(content).encode())

    def _answer(self, code: int, headers: dict[str, str], body: bytes = b"", counted: str | None = None) -> None:
        self.send_response(code)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if counted in self.hub.cut_once:
            self.hub.cut_once.discard(counted)
            body = body[: len(body) // 2]
            self.close_connection = True
        if counted is not None:
            self.hub.sent_bytes[counted] = self.hub.sent_bytes.get(counted, 0) + len(body)
        if counted in self.hub.held:
            self.wfile.write(body[: len(body) // 2])
            self.hub.held[counted].wait()
            body = body[len(body) // 2 :]
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        pass


def tag(file: Path) -> str:
    """An ETag: another for each file and each of its versions."""
    status = file.stat()
    return hashlib.sha256(f"{file} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:40]


@contextmanager
def serve_hub(root: Path, *, host: str = "127.0.0.1") -> Iterator[HubServer]:
    """A Hub with the repositories below ``root``."""
    hub = HubServer(root)
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    with ThreadingHTTPServer((host, 0), handler) as server:
        server.daemon_threads = True
        hub.address = f"http://{host}:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield hub
        server.shutdown()
        thread.join()


def main() -> None:
    """Serve until the input ends."""
    host, root = sys.argv[1:]

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    with serve_hub(Path(root), host=host) as hub:
        hub.has_large_files = True
        hub.on_request = say
        say(hub.address)
        for line in sys.stdin:
            for name, value in json.loads(line).items():
                setattr(hub, name, value)


if __name__ == "__main__":
    main()
