"""The images as a container engine runs them: as pods do, with a root that is read-only and a /tmp of their own."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx2

from images.engine import Engine, EngineError

LIKE_A_POD = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges")  # noqa: S108
WAIT_SECONDS = 120.0
POLL_SECONDS = 0.05


def run_python(engine: Engine, image: str, code: str, *options: str) -> str:
    """What a program of its own prints in an image, without a network. Raises EngineError where it fails."""
    command = ("run", "--rm", "--network", "none", *LIKE_A_POD, *options, "--entrypoint", "python", image, "-c", code)
    return engine.call(*command).strip()


class Server:
    """A container of the gateway's image on the machine's own loopback; a context manager, which removes it."""

    def __init__(self, engine: Engine, image: str, *arguments: str, config: Path, **environment: str) -> None:
        self._engine = engine
        self._command = [
            *("run", "--detach", "--network", "host", *LIKE_A_POD, "--volume", f"{config}:/etc/easel/config.json:ro"),
            *(word for name, value in environment.items() for word in ("--env", f"{name}={value}")),
            *(image, "--host", "127.0.0.1", "--port", "0", "--config", "/etc/easel/config.json", *arguments),
        ]
        self._id = ""
        self.url = ""

    def __enter__(self) -> Self:
        self._id = self._engine.call(*self._command).strip().splitlines()[-1]
        try:
            listening = self.wait_for(
                lambda: next((line for line in self.read_log() if line.get("message") == "listening"), None)
            )
        except BaseException:
            self.__exit__()
            raise
        self.url = f"http://127.0.0.1:{listening['port']}"
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.call("rm", "--force", self._id)

    def read_log(self) -> list[dict[str, Any]]:
        """What it has logged; lines that are no JSON are left out."""
        lines = self._engine.call("logs", self._id).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """The first truthy value; fails with the container's output."""
        give_up_at = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < give_up_at:
            if value := condition():
                return value
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"not within {WAIT_SECONDS:g} s: {self._engine.call('logs', self._id)}")

    def probe(self, path: str) -> int:
        """The status of a probe."""
        return httpx2.get(f"{self.url}{path}", timeout=30).status_code

    def wait_until_ready(self) -> Self:
        self.wait_for(lambda: self.probe("/readyz") == 200)
        return self

    def terminate(self) -> None:
        """As the kubelet ends a container."""
        self._engine.call("kill", "--signal", "TERM", self._id)

    def wait(self) -> int:
        """The exit code, once it has ended."""
        return int(self._engine.call("wait", self._id, timeout_seconds=WAIT_SECONDS))


def read_end(engine: Engine, image: str, code: str, *options: str) -> dict[str, Any]:
    """The engine's own account (``State``) of a Python program that ran to its end in an image."""
    started = engine.call("run", "--detach", *LIKE_A_POD, *options, "--entrypoint", "python", image, "-c", code)
    container = started.strip().splitlines()[-1]
    try:
        engine.call("wait", container, timeout_seconds=WAIT_SECONDS)
        state: dict[str, Any] = json.loads(engine.call("inspect", "--format", "{{json .State}}", container))
        return state
    except EngineError as error:
        raise AssertionError(f"{error}: {engine.call('logs', container)}") from error
    finally:
        engine.call("rm", "--force", container)
