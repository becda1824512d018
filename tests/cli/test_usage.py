"""``easel usage``: what gateways answer through the API server's proxy, which is a fake here."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli.decide.test_usage_report import ANSWER
from tests.cli.doctor.values import build_pod
from tests.cli.fake_api_server import FakeApiServer, build_list, run_api_server
from tests.cli.run import Done, run_here

SERVICES = "/apis/easel.dev/v1alpha1/namespaces/art/stablediffusionservices"
PODS = "/api/v1/namespaces/art/pods"
USAGE = f"{PODS}/gateway-1:9090/proxy/usage"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeApiServer]:
    service = {"metadata": {"namespace": "art", "name": "sdxl"}, "spec": {}}
    answers = {
        SERVICES: build_list(service),
        f"{SERVICES}/sdxl": service,
        PODS: build_list(build_pod("gateway")),
        USAGE: ANSWER,
    }
    with run_api_server(answers, tmp_path) as server:
        yield server


def run(fake: FakeApiServer, capsys: pytest.CaptureFixture[str], *arguments: str) -> Done:
    return run_here(capsys, "usage", "--kubeconfig", str(fake.kubeconfig), *arguments)


def test_a_row_is_a_customers_sum_with_its_cost(fake: FakeApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    done = run(fake, capsys, "sdxl", "--since", "2026-11-01", "--until", "2026-11-02")
    assert done.status == 0, done.err
    title, head, *rows = done.out.splitlines()
    assert title == "2026-11-01 to 2026-11-02, days in UTC"
    assert head.split() == ["SERVICE", "CUSTOMER", "JOBS", "IMAGES", "GPU-SECONDS", "COST"]
    assert [row.split() for row in rows] == [
        ["sdxl", "-studio", "5", "5", "1.2", "0.00", "EUR"],
        ["sdxl", "acme", "3", "5", "2000.5", "1.00", "EUR"],
    ]
    assert f"{USAGE}?since=2026-11-01&until=2026-11-02" in fake.asked


def test_days_are_kept_apart_for_spreadsheets_and_programs(
    fake: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(run(fake, capsys, "--csv").out.splitlines()) == 4
    said = json.loads(run(fake, capsys, "--json").out)
    assert (said[0]["day"], said[0]["customer"], said[0]["cost"]) == ("2026-11-01", "acme", 0.5)
    assert len(run(fake, capsys, "--by-day").out.splitlines()) == 5


def test_the_month_so_far_is_asked_for_where_no_day_is_named(
    fake: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(fake, capsys)
    today = datetime.now(UTC).date()
    months = {f"since={day.replace(day=1)}&until={day}" for day in (today, datetime.now(UTC).date())}
    assert fake.asked[-1].partition("?")[2] in months


@pytest.mark.parametrize(
    ("path", "answer", "message"),
    [
        (USAGE, 404, "its gateways are of a release that counts no usage"),
        (USAGE, 403, "you may not read the usage of sdxl at pod gateway-1"),
        (USAGE, {"days": 1}, "its gateway's answer can't be read"),
        (USAGE, "no JSON", "its gateway's answer can't be read"),
        (PODS, build_list(), "none of 0 gateway pods of sdxl is ready; easel status sdxl says why"),
        (SERVICES, build_list(), "no service in namespace art"),
        (SERVICES, 403, "you may not list services"),
        (SERVICES, "<html>", "what answered to list services is no API server, or said too much: '<html>'"),
        (SERVICES, 500, "the API server refused to list services (500): the server says 500"),
    ],
)
def test_what_keeps_it_from_an_answer_is_said(
    fake: FakeApiServer, capsys: pytest.CaptureFixture[str], path: str, answer: object, message: str
) -> None:
    fake.answers[path] = answer
    done = run(fake, capsys)
    assert done.status != 0
    assert message in done.err
