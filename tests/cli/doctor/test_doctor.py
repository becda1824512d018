"""``easel doctor`` as it is typed, at a fake of an API server: what isn't there, and what may not be read."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.doctor.values import build_facts, build_node, build_pod
from tests.cli.fake_api_server import FakeApiServer, build_list, run_api_server
from tests.cli.run import Done, run_here

ART = "/api/v1/namespaces/art"
SERVICES = "/apis/easel.dev/v1alpha1/namespaces/art/stablediffusionservices"
VERSION = {"gitVersion": "v1.37.2", "minor": "37"}
GATEWAY = f"{ART}/pods/gateway-1:9090/proxy/readyz"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[FakeApiServer]:
    with run_api_server({"/version": VERSION}, tmp_path) as server:
        yield server


def run(fake: FakeApiServer, capsys: pytest.CaptureFixture[str], *arguments: str) -> Done:
    return run_here(capsys, "doctor", "--kubeconfig", str(fake.kubeconfig), *arguments)


def find(done: Done, check: str) -> dict[str, Any]:
    return next(result for result in json.loads(done.out) if result["check"] == check)


def test_who_may_read_nothing_learns_what(fake: FakeApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.default = 403
    done = run(fake, capsys)
    assert done.status == 0, "what isn't known hasn't failed"
    assert "unknown  Operator: you may not list pods of all namespaces" in done.out
    assert "unknown  Scale to zero: you may not try an autoscaler (a dry run)" in done.out
    assert done.out.splitlines()[-1] == "1 ok, 4 unknown"


def test_a_cluster_without_easel_fails_with_how_to_install_it(
    fake: FakeApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers |= {"/api/v1/pods": build_list(), "/api/v1/nodes": build_list(build_node())}
    done = run(fake, capsys)
    assert done.status == 1
    assert "failed   Resource: the cluster knows no StableDiffusionService\n           next: helm install" in done.out


def test_a_refused_autoscaler_is_a_gate_that_is_off(fake: FakeApiServer, capsys: pytest.CaptureFixture[str]) -> None:
    path = "/apis/autoscaling/v2/namespaces/art/horizontalpodautoscalers"
    fake.answers[path] = 422
    assert find(run(fake, capsys, "--json"), "Scale to zero")["level"] == "warning"
    fake.answers[path] = {}
    assert find(run(fake, capsys, "--json"), "Scale to zero")["level"] == "ok"
    assert f"{path}?dryRun=All" in fake.asked


@pytest.mark.parametrize(
    ("answer", "level", "message"),
    [
        ({"ready": True, "reason": "Available", "message": "takes work"}, "ok", "a gateway reaches it"),
        (403, "unknown", "(pods/proxy)"),
        (503, "unknown", "pod gateway-1 can't be asked by the API server's proxy"),
        ("no JSON", "unknown", "can't be asked"),
    ],
)
def test_a_gateway_is_asked_about_redis(
    fake: FakeApiServer, capsys: pytest.CaptureFixture[str], answer: object, level: str, message: str
) -> None:
    service = dict(build_facts({"model": {"source": {"persistentVolumeClaim": {"claimName": "models"}}}}).service)
    fake.answers |= {
        f"{SERVICES}/sdxl": service,
        f"{ART}/pods": build_list(build_pod("gateway")),
        f"{ART}/persistentvolumeclaims/models": {"status": {"phase": "Bound"}},
        GATEWAY: answer,
    }
    done = run(fake, capsys, "sdxl", "--json")
    assert find(done, "Redis")["level"] == level
    assert message in find(done, "Redis")["message"]
    assert find(done, "Storage")["message"] == "PersistentVolumeClaim models is bound"
    assert "Hub" not in {result["check"] for result in json.loads(done.out)}
