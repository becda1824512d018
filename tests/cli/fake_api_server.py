"""A fake of an API server: answers that are written down, so that each way of refusing can be met without a cluster."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

# By path, with or without a query: an answer as JSON or text, or an error status with its sentence.
Answers = dict[str, Any]


class FakeApiServer:
    """What it was asked, and what it answers from now on."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.default: Any = 404  # for what isn't written down
        self.asked: list[str] = []
        self.kubeconfig = Path()

    def find(self, target: str) -> tuple[int, bytes]:
        self.asked.append(target)
        answer = self.answers.get(target, self.answers.get(urlsplit(target).path, self.default))
        if isinstance(answer, int):
            return answer, json.dumps({"kind": "Status", "message": f"the server says {answer}"}).encode()
        return 200, answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()


@contextmanager
def run_api_server(answers: Answers, directory: Path) -> Iterator[FakeApiServer]:
    """One on a loopback port; its kubeconfig is in the directory."""
    fake = FakeApiServer(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = fake.find(self.path)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - its name there
            del format, arguments

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        fake.kubeconfig = directory / "kubeconfig"
        fake.kubeconfig.write_text(json.dumps(build_kubeconfig(f"http://127.0.0.1:{server.server_port}")))
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()


def build_kubeconfig(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": url}}],
        "users": [{"name": "fake", "user": {"token": "of nobody"}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": "art"}}],
    }


def build_list(*items: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {}, "items": list(items)}
