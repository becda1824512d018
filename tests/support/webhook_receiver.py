"""A receiver of webhooks in a thread of its own."""

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

GONE_PATH = "/gone"


class WebhookReceiver:
    """A context manager. Takes everything, but what is sent to ``gone_url``: that answers 410."""

    def __init__(self) -> None:
        self.received: list[tuple[dict[str, str], bytes]] = []  # headers (names in lower case) and body
        self.answers: Counter[int] = Counter()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                code = 410 if self.path == GONE_PATH else 204
                with outer._lock:
                    outer.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
                    outer.answers[code] += 1
                self.send_response(code)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{self._server.server_port}"
        self.url, self.gone_url = f"{address}/hook", address + GONE_PATH
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
