"""easel-server as a process of its own, on a loopback port."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import httpx2
from easel_contract.server_config import ServerConfig

START_TIMEOUT_SECONDS = 300.0  # importing torch on shared CPUs
POLL_SECONDS = 0.02


class ServerProcess:
    """Started by ``start`` or as a context manager; what it wrote is in ``log`` and ``errors``."""

    def __init__(self, *arguments: str, config: ServerConfig | None = None, port: int = 0, **environment: str) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="easel-server-"))
        self._arguments = [*arguments, "--host", "127.0.0.1", "--port", str(port)]
        if config is not None:
            self.write_config(config)
            self._arguments += ["--config", str(self._directory / "config.json")]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("EASEL_")}
        self._environment = {**inherited, "EASEL_TORCH_THREADS": "1", **environment}
        self.url = ""

    def write_config(self, config: ServerConfig) -> None:
        """The configuration file, or another in its place."""
        new = self._directory / "config.new"
        new.write_text(json.dumps(config.to_wire()))
        new.replace(self._directory / "config.json")

    def start(self) -> Self:
        with (self._directory / "out").open("wb") as out, (self._directory / "err").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "easel_server.start", *self._arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        return self

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self._directory / "out").read_text().splitlines() if line.endswith("}")]

    @property
    def errors(self) -> str:
        return (self._directory / "err").read_text()

    def wait_for(self, condition: Any, what: str, timeout_seconds: float = START_TIMEOUT_SECONDS) -> Any:
        """The first truthy value of ``condition``; fails with the process's output."""
        give_up_at = time.monotonic() + timeout_seconds
        while time.monotonic() < give_up_at:
            if value := condition():
                return value
            if self.process.poll() is not None:
                break
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"no {what}; exit code {self.process.poll()}\n{self.log}\n{self.errors}")

    def wait_until_listening(self) -> Self:
        line = self.wait_for(lambda: next((line for line in self.log if line["message"] == "listening"), None), "port")
        self.url = f"http://127.0.0.1:{line['port']}"
        return self

    def wait_until_ready(self) -> Self:
        self.wait_until_listening()
        self.wait_for(lambda: self.ready()[0] == 200, "readiness")
        return self

    def ready(self) -> tuple[int, dict[str, Any]]:
        answer = httpx2.get(f"{self.url}/readyz", timeout=10)
        return answer.status_code, answer.json()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_seconds: float = 60.0) -> int:
        return self.process.wait(timeout=timeout_seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()
