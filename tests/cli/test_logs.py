"""``easel logs`` at a fake of an API server: which logs are read, and what is said where there is nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.doctor.values import build_pod
from tests.cli.fake_api_server import FakeApiServer, build_list, run_api_server
from tests.cli.run import Done, run_here

PODS = "/api/v1/namespaces/art/pods"
GATEWAY, WORKER = f"{PODS}/gateway-1/log", f"{PODS}/worker-1/log"


def write_line(time: str, message: str, **fields: Any) -> str:
    return json.dumps({"time": time, "level": "info", "logger": "easel", "message": message, **fields}) + "\n"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeApiServer]:
    restarted = build_pod("worker", containerStatuses=[{"name": "server", "restartCount": 1}])
    previous = "container=server&sinceSeconds=3600&limitBytes=33554432&previous=true"
    answers = {
        PODS: build_list(build_pod("gateway"), restarted),
        GATEWAY: write_line("10:00:03", "request", request_id="r1", code=201),
        WORKER: write_line("10:00:09", "job j1: Succeeded after 1 s", request_id="r1")
        + write_line("10:00:09", "other"),
        f"{WORKER}?{previous}": write_line("10:00:01", "job j1: attempt 1", request_id="r1"),
    }
    with run_api_server(answers, tmp_path) as server:
        yield server


def run(fake: FakeApiServer, capsys: pytest.CaptureFixture[str], *arguments: str) -> Done:
    return run_here(capsys, "logs", "--kubeconfig", str(fake.kubeconfig), *arguments)


def test_a_jobs_lines_come_from_all_pods_and_from_before_a_restart(
    fake: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fake, capsys, "sdxl", "--job", "j1").out.splitlines() == [
        "10:00:01 worker-1 info job j1: attempt 1",
        "10:00:03 gateway-1 info request code=201",
        "10:00:09 worker-1 info job j1: Succeeded after 1 s",
    ]
    assert any("labelSelector=easel.dev%2Fservice%3Dsdxl" in asked for asked in fake.asked)
    assert [line["pod"] for line in json.loads(run(fake, capsys, "--request", "r1", "--json").out)] == [
        *("worker-1", "gateway-1", "worker-1"),
    ]


@pytest.mark.parametrize(
    ("path", "answer", "message"),
    [
        (PODS, build_list(), "no pods of services in namespace art"),
        (PODS, 403, "you may not list pods"),
        (GATEWAY, 403, "you may not read the log of pod gateway-1"),
        (
            PODS,
            build_list(build_pod("gateway")),
            "no line about j1 in the last 1h of 1 pods; look further back by --since",
        ),
    ],
)
def test_where_there_is_nothing_it_says_what_to_do(
    fake: FakeApiServer, capsys: pytest.CaptureFixture[str], path: str, answer: Any, message: str
) -> None:
    fake.answers[path] = answer
    done = run(fake, capsys, "--job", "j1")
    assert (done.status, done.out) == (1, "")
    assert message in done.err


def test_a_pod_that_goes_meanwhile_is_left_out(fake: FakeApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers[GATEWAY] = 404
    assert len(run(fake, capsys, "--job", "j1").out.splitlines()) == 2
