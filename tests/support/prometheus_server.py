"""A real Prometheus for tests, on a loopback port."""

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import httpx2

START_TIMEOUT_SECONDS = 120.0
POLL_SECONDS = 0.02
SCRAPE_INTERVAL = "1s"


class PrometheusServer:
    """Scrapes targets every second. ``scrapes``: a job's name → its static_configs. ``web``: its web configuration.

    ``past``: what it has already, in OpenMetrics with times.
    ``settings``: a job's name → what else its scrape_config says. ``rules``: a file of rules.
    """

    def __init__(
        self,
        scrapes: Mapping[str, Sequence[Mapping[str, Any]]],
        web: Mapping[str, Any] | None = None,
        *,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        rules: Mapping[str, Any] | None = None,
        past: str | None = None,
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="easel-prometheus-")
        self._folder = Path(self._directory.name)
        jobs = [
            {"job_name": name, "static_configs": list(targets), **(settings or {}).get(name, {})}
            for name, targets in scrapes.items()
        ]
        intervals = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), SCRAPE_INTERVAL)
        configuration = {"global": intervals, "scrape_configs": jobs, "rule_files": [str(self._folder / "rules.yml")]}
        # JSON is YAML too.
        (self._folder / "prometheus.yml").write_text(json.dumps(configuration))
        (self._folder / "rules.yml").write_text(json.dumps(rules or {"groups": []}))
        (self._folder / "web.yml").write_text(json.dumps(web or {}))
        if past is not None:
            (self._folder / "past").write_text(past)
            words = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--quiet", "past", "data"]
            subprocess.run(words, cwd=self._folder, check=True)
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--web.config.file={self._folder / 'web.yml'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        give_up_at = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._is_ready():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > give_up_at:
                self._process.kill()
                raise AssertionError(f"Prometheus doesn't listen: {(self._folder / 'log').read_text()}")
            time.sleep(POLL_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._directory.cleanup()

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                pass
            return b"Server is ready to receive web requests" in (self._folder / "log").read_bytes()
        except OSError:
            return False

    def read(self, promql: str) -> float | None:
        """The value of an expression that gives one series; None if it gives none."""
        result = self._query(promql)
        return float(result[0]["value"][1]) if result else None

    def read_times(self, promql: str) -> list[float]:
        """Unix seconds of the samples of the one series that a range vector selects."""
        (series,) = self._query(promql)
        return [at for at, _ in series["values"]]

    def _query(self, promql: str) -> Any:
        return httpx2.get(f"{self.url}/api/v1/query", params={"query": promql}, timeout=10).json()["data"]["result"]
