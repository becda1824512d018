"""What ``--from-prometheus`` takes from the arguments and the service's file, before anybody is asked."""

import re
import sys
from pathlib import Path

import pytest
from easel_cli.errors import UsageError
from easel_cli.main import main
from easel_cli.simulate.service_file import load_service
from easel_cli.simulate.service_history import build_selector, parse_last

SERVICE = """
kind: StableDiffusionService
metadata: {name: sdxl, namespace: art}
spec:
  model: {source: {huggingFace: {repository: some/model}}}
  scaling: {minReplicas: 0, maxReplicas: 6, targetLatencySeconds: 20}
"""


@pytest.fixture
def service(tmp_path: Path) -> Path:
    file = tmp_path / "service.yaml"
    file.write_text(SERVICE)
    return file


def refuse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["simulate", "--policy", "fixed-1", *arguments]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("90m", 5400), ("36h", 129_600), ("7d", 604_800), ("2w", 1_209_600)]
)
def test_the_last_days_are_named_as_in_prometheus(text: str, seconds: int) -> None:
    assert parse_last(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "0h", "1.5h", "367d", "7 days", "٣d"])
def test_a_time_that_can_not_be_asked_for_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="a time such as 90m, 36h, 7d or 2w, at most 366d, is expected"):
        parse_last(text)


@pytest.mark.parametrize(
    ("pod", "is_ours"),
    [
        ("sdxl-gateway-5d9c7b4f6-x2k8q", True),
        ("sdxl-worker-5d9c7b4f6-x2k8q", False),
        ("sdxl-two-gateway-5d9c7b4f6-x2k8q", False),
        ("sdxl-gateway-two-gateway-5d9c7b4f6-x2k8q", False),  # of a service called sdxl-gateway-two
        ("sdxl-gateway-worker-5d9c7b4f6-x2k8q", False),  # a worker of one called sdxl-gateway
        ("my-sdxl-gateway-5d9c7b4f6-x2k8q", False),
    ],
)
def test_the_usual_labels_select_the_services_gateways_alone(service: Path, pod: str, is_ours: bool) -> None:
    selector = build_selector(load_service(service))
    found = re.fullmatch(r'namespace="art",pod=~"(.*)"', selector)
    assert found
    assert bool(re.fullmatch(found[1], pod)) == is_ours


@pytest.mark.parametrize("length", [44, 45, 46, 47, 48, 49, 50])
def test_names_of_pods_that_kubernetes_cuts_are_selected(service: Path, length: int) -> None:
    name = "n" * length
    service.write_text(SERVICE.replace("sdxl", name))
    selector = build_selector(load_service(service))
    pod = f"{name}-gateway-5d9c7b4f69-"[:58] + "x2k8q"  # names.go of the API server: 63 less the five at random
    assert re.fullmatch(selector.split('"')[3], pod)


def test_a_file_without_a_namespace_means_kubectls_default(service: Path) -> None:
    service.write_text(SERVICE.replace(", namespace: art", ""))
    assert build_selector(load_service(service)).startswith('namespace="default",')


@pytest.mark.parametrize("metadata", ["{}", "{name: 'a\"}'}", "{name: sdxl, namespace: UPPER}"])
def test_a_service_without_a_name_can_not_be_found(service: Path, metadata: str) -> None:
    service.write_text(SERVICE.replace("{name: sdxl, namespace: art}", metadata))
    with pytest.raises(UsageError, match="names as Kubernetes has them are expected, or --prometheus-selector"):
        build_selector(load_service(service))


@pytest.mark.parametrize(
    "option", [["--last", "7d"], ["--prometheus-selector", 'job="easel"'], ["--save-trace", "trace.csv"]]
)
def test_what_concerns_the_history_is_refused_beside_a_trace(
    service: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--trace", "t.csv", "--service", str(service), "--cold-start-seconds", "60", *option]
    assert f"{option[0]} goes with --from-prometheus, not with --trace" in refuse(arguments, capsys)


def test_the_cold_start_is_what_the_operator_measured(
    service: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_seconds,work_seconds\n" + "1,10\n" * 60)
    arguments = ["simulate", "--trace", str(trace), "--service", str(service), "--policy", "easel"]
    assert "no status.scaling.coldStartsSeconds" in refuse(arguments[1:5], capsys)
    reported = "desiredReplicas: 1, reason: load, decidedAt: '2026-11-24T12:00:00Z', coldStartsSeconds: [50, 50, 50]"
    service.write_text(f"{SERVICE}status: {{scaling: {{{reported}}}}}\n")
    outputs = []
    for extra in ([], ["--cold-start-seconds", "50"], ["--cold-start-seconds", "5"]):
        assert main([*arguments, "--json", *extra]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_a_status_that_is_none_is_refused(service: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.write_text(f"{SERVICE}status: {{scaling: {{coldStartsSeconds: [fast]}}}}\n")
    assert "status is not valid: scaling." in refuse(["--trace", "t.csv", "--service", str(service)], capsys)


def test_without_aiohttp_it_says_how_to_get_it(
    service: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "easel_operator.cluster.prometheus", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    arguments = ["--from-prometheus", "http://host", "--service", str(service), "--cold-start-seconds", "60"]
    assert "--from-prometheus needs aiohttp: pip install '.[simulate]'" in refuse(arguments, capsys)
