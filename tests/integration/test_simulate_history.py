"""``easel simulate --from-prometheus``: a real Prometheus scrapes a real server, whose clients know what they sent."""

import csv
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from easel_cli.main import main
from easel_cli.simulate import service_history
from easel_contract import metrics, names
from easel_contract.server_config import EngineConfig, EngineKind, ModelConfig, ServerConfig, SyntheticConfig
from easel_operator.cluster.serving_certificate import build_serving_certificate

from tests.support.prometheus_server import PrometheusServer
from tests.support.server_process import ServerProcess

SERVICE: Final = """
apiVersion: easel.dev/v1alpha1
kind: StableDiffusionService
metadata: {name: sdxl, namespace: art}
spec:
  model: {source: {huggingFace: {repository: some/model}}}
  scaling: {minReplicas: 0, maxReplicas: 6, targetLatencySeconds: 20}
status:
  scaling:
    {desiredReplicas: 1, reason: it was so, decidedAt: "2026-11-24T12:00:00Z", coldStartsSeconds: [40, 44, 90, 48, 42]}
"""
OURS: Final = "sdxl-gateway-5d9c7b4f6-x2k8q"
ANOTHERS: Final = "sdxl-two-gateway-5d9c7b4f6-abcde"  # of a service whose name begins alike
SCRAPE_TIMEOUT_SECONDS: Final = 1.0
OUR_JOBS: Final = f'{metrics.JOBS_SUBMITTED_TOTAL}{{namespace="art",pod="{OURS}"}}'
TIMEOUT_SECONDS: Final = 20.0
BURST, AFTER_RESTART = 40, 7


class Sent:
    """What the clients sent, and when: the truth that the replay is held to."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []  # Unix seconds: of each request and of its answer
        self.gpu_seconds = 0.0

    def send(self, server: ServerProcess, count: int) -> None:
        """Jobs of many sizes, counted by the server itself: its predictions are learned and can't be foretold."""
        before = read_metric(server, metrics.PREDICTED_GPU_SECONDS_TOTAL)
        with httpx2.Client(base_url=server.url, timeout=30) as client:
            for number in range(count):
                size = {"width": 64 * (1 + number % 4), "height": 64, "num_inference_steps": 1 + number % 9}
                began_at = time.time()
                answer = client.post("/v1/predictions", json={"input": {"prompt": f"picture {number}", **size}})
                assert answer.status_code == 201, answer.text
                self.times.append((began_at, time.time()))
        self.gpu_seconds += read_metric(server, metrics.PREDICTED_GPU_SECONDS_TOTAL) - before


def read_metric(server: ServerProcess, name: str) -> float:
    found = re.search(
        rf"^{name} (\S+)$",
        httpx2.get(server.url + names.PATH_METRICS, params=names.METRICS_QUERY_BARE, timeout=10).text,
        re.MULTILINE,
    )
    assert found
    return float(found[1])


def wait_for(condition: Callable[[], Any], what: str) -> None:
    give_up_at = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, f"no {what} after {TIMEOUT_SECONDS:g} s"
        time.sleep(0.02)


def start_server(port: int = 0) -> ServerProcess:
    engine = EngineConfig(
        kind=EngineKind.SYNTHETIC, synthetic=SyntheticConfig(milliseconds_per_step=0, milliseconds_per_image=0)
    )
    config = ServerConfig(model=ModelConfig(name="synthetic", source="synthetic"), engine=engine)
    return ServerProcess(config=config, port=port)


def wait_until_scraped(prometheus: PrometheusServer, jobs: int) -> None:
    """By all four: each is scraped at its own moment, and one that missed the start would show no growth."""
    seen = f"count({metrics.JOBS_SUBMITTED_TOTAL} == {jobs})"
    wait_for(lambda: prometheus.read(seen) == 4, f"scrape of {jobs} jobs by every target")


@pytest.fixture(scope="module")
def history() -> Iterator[tuple[PrometheusServer, Sent]]:
    """Prometheus that has seen a burst, a restart of the gateway, and some more jobs; and what was sent."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    targets = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "art", "pod": pod}} for pod in (OURS, ANOTHERS)
    ]
    twice = [{"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": "double", "pod": OURS}}]
    sent = Sent()
    # Prometheus first: it takes five seconds to take notice of its targets.
    with PrometheusServer({"pods": targets, "one": twice, "another": twice}) as prometheus:
        with start_server(port) as first:
            first.wait_until_ready()
            wait_until_scraped(prometheus, 0)
            sent.send(first, BURST)
            wait_until_scraped(prometheus, BURST)
        with start_server(port) as second:
            second.wait_until_ready()
            sent.send(second, AFTER_RESTART)
            wait_until_scraped(prometheus, AFTER_RESTART)
            yield prometheus, sent


@pytest.fixture
def arguments(history: tuple[PrometheusServer, Sent], tmp_path: Path) -> list[str]:
    service = tmp_path / "service.yaml"
    service.write_text(SERVICE)
    return [
        *("simulate", "--from-prometheus", history[0].url, "--service", str(service)),
        *("--policy", "easel,fixed-1", "--last", "5m"),
    ]


def refuse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    return capsys.readouterr().err


def read_trace(file: Path) -> list[tuple[float, float]]:
    with file.open() as lines:
        return [(float(row["arrival_seconds"]), float(row["work_seconds"])) for row in csv.DictReader(lines)]


def test_every_job_is_replayed_with_its_work_over_a_restart_of_the_gateway(
    history: tuple[PrometheusServer, Sent], arguments: list[str], tmp_path: Path, capsys: Any
) -> None:
    prometheus, sent = history
    saved = tmp_path / "trace.csv"
    assert main([*arguments, "--json", "--save-trace", str(saved)]) == 0
    reported = json.loads(capsys.readouterr().out)
    requests = read_trace(saved)
    assert reported["trace"]["requests"] == len(requests) == BURST + AFTER_RESTART
    assert sum(work for _, work in requests) == pytest.approx(sent.gpu_seconds, rel=1e-9)
    assert set(reported["policies"]) == {"easel", "fixed-1"}
    assert reported["trace"]["history"]["gateways"] == 1
    assert reported["trace"]["history"]["asked_seconds"] == 300
    # Each arrives between the scrapes before and after it was sent. A scrape bears the time at which it was begun.
    uncertain_seconds = reported["trace"]["history"]["longest_pause_seconds"] + SCRAPE_TIMEOUT_SECONDS
    first_scrape_at = prometheus.read_times(f"{OUR_JOBS}[5m]")[0]
    for (arrival, _), (sent_at, answered_at) in zip(requests, sent.times, strict=True):
        assert sent_at - uncertain_seconds <= first_scrape_at + arrival <= answered_at + uncertain_seconds


def test_the_table_tells_how_good_the_history_is(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{BURST + AFTER_RESTART} requests in 0.0 h")
    assert re.match(
        r"history: \d+ readings of gateway pods \(1\) over 0\.0 of the 0\.1 h asked for, the longest", lines[1]
    )


def test_a_saved_trace_replays_as_the_history_did(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "trace.csv"
    assert main([*arguments, "--policy", "fixed-1", "--json", "--save-trace", str(saved)]) == 0
    first = json.loads(capsys.readouterr().out)["policies"]["fixed-1"]
    again = ["simulate", "--trace", str(saved), *arguments[3:5], "--policy", "fixed-1", "--json"]
    assert main(again) == 0
    second = json.loads(capsys.readouterr().out)["policies"]["fixed-1"]
    latencies = ("late_percent", "p50_seconds", "p95_seconds", "max_seconds")
    assert [first[name] for name in latencies] == [second[name] for name in latencies]


def test_many_small_queries_find_the_same(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    assert main([*arguments, "--save-trace", str(whole)]) == 0
    monkeypatch.setattr(service_history, "READINGS_A_QUERY", 1)
    assert main([*arguments, "--save-trace", str(parts)]) == 0
    assert parts.read_text() == whole.read_text()


def test_more_than_can_be_read_is_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service_history, "MAX_READINGS", 1)
    assert "at most 1 are read: ask for a shorter time by --last" in refuse(arguments, capsys)


def test_a_selector_of_ones_own_takes_the_place_of_the_usual_labels(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    selector = f'namespace="art",pod="{ANOTHERS}"'
    assert main([*arguments, "--json", "--prometheus-selector", selector]) == 0
    assert json.loads(capsys.readouterr().out)["trace"]["requests"] == BURST + AFTER_RESTART


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ('namespace="double"', 'as {job="another"} and as {job="one"}, so its jobs would count twice: choose one by'),
        (
            'namespace="none"',
            'has no samples of easel_jobs_submitted_total{namespace="none"}[300s]; it has such series',
        ),
        ('namespace="', "refused (bad_data): "),
    ],
)
def test_series_that_can_not_be_used_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str], selector: str, message: str
) -> None:
    assert message in refuse([*arguments, "--prometheus-selector", selector], capsys)


def test_a_window_without_jobs_says_so(
    history: tuple[PrometheusServer, Sent], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    wait_for(lambda: history[0].read(f"changes({OUR_JOBS}[4s])") == 0, "scrapes after the last job")
    assert "no job was submitted: easel_jobs_submitted_total never grew" in refuse([*arguments[:-1], "4s"], capsys)


def test_a_server_that_is_not_there_is_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    message = refuse([*arguments[:2], "http://user:secret@127.0.0.1:9", *arguments[3:]], capsys)
    assert "can't ask http://127.0.0.1:9: Cannot connect to host 127.0.0.1:9" in message
    assert "secret" not in message


def test_tls_is_verified_and_a_private_authority_can_be_trusted(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = build_serving_certificate(("localhost",), datetime.now(UTC), previous=None)
    files = {name: tmp_path / name for name in ("authority.pem", "certificate.pem", "key.pem")}
    for file, content in zip(files.values(), (made.ca_pem, made.certificate_pem, made.key_pem), strict=True):
        file.write_bytes(content)
    web = {"tls_server_config": {"cert_file": str(files["certificate.pem"]), "key_file": str(files["key.pem"])}}
    with PrometheusServer({}, web) as prometheus:
        secure = [*arguments[:2], f"https://localhost:{prometheus.port}", *arguments[3:]]
        refused = refuse(secure, capsys)
        command = [sys.executable, "-m", "easel_cli", *secure]  # OpenSSL reads the variable once a process
        trusting = os.environ | {"SSL_CERT_FILE": str(files["authority.pem"])}
        accepted = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=trusting)
    assert f"https://localhost:{prometheus.port} isn't trusted" in refused
    assert "SSL_CERT_FILE" in refused
    assert "it has no such series at all" in accepted.stderr
