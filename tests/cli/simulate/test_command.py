"""``easel simulate`` as a user runs it: files in, a table, JSON or a picture out, and errors that say what to do."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from easel_cli.main import main

SERVICE = """
apiVersion: v1
kind: ConfigMap
metadata: {name: beside}
---
apiVersion: easel.dev/v1beta1
kind: StableDiffusionService
metadata: {name: sdxl}
spec:
  model: {source: {huggingFace: {repository: some/model}}}
  scaling: {minReplicas: 0, maxReplicas: 6, targetLatencySeconds: 20}
"""
FIGURES = {
    "late_percent",
    "worst_hour_late_percent",
    "p50_seconds",
    "p95_seconds",
    "p99_seconds",
    "max_seconds",
    "gpu_hours",
    "gpu_hours_over_oracle",
    "startup_gpu_hours",
    "starts",
    "busy_pods_killed",
    "jobs_handed_back",
    "seconds_at_zero",
}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    service, trace = tmp_path / "service.yaml", tmp_path / "trace.csv"
    service.write_text(SERVICE)
    rows = [f"{60 * burst + second},{2 + second % 3},m{second % 2}" for burst in range(10) for second in range(12)]
    trace.write_text("\n".join(["arrival_seconds,work_seconds,model", *rows]) + "\n")
    return ["simulate", "--trace", str(trace), "--service", str(service), "--cold-start-seconds", "30:5"]


def run_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def render(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 0
    return capsys.readouterr().out


def refuse(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_json_has_the_figures_of_each_policy(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    policies = "easel,hpa-queue:target=1.5,downWindow=120,fixed-2,oracle"
    reported = run_json([*files, "--policy", policies], capsys)
    assert reported["trace"] == {
        "requests": 120,
        "seconds": 551.0,
        "work_gpu_hours": 0.1,
        "queue_order": "TargetFirst",
    }
    assert list(reported["policies"]) == ["easel", "hpa-queue:target=1.5,downWindow=120", "fixed-2", "oracle"]
    for figures in reported["policies"].values():
        assert set(figures) >= FIGURES
        assert figures["gpu_hours"] >= reported["lower_bound_gpu_hours"]
    oracle = reported["policies"]["oracle"]
    assert oracle["gpu_hours_over_oracle"] == 1.0
    assert reported["policies"]["easel"]["gpu_hours_over_oracle"] == pytest.approx(
        reported["policies"]["easel"]["gpu_hours"] / oracle["gpu_hours"], rel=0.01
    )


def test_the_table_has_a_line_for_each_policy(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*files, "--policy", "easel,fixed-2", "--gpu-hour-price", "2.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "120 requests in 0.2 h, 0.1 GPU-hours of work, TargetFirst"
    assert lines[2].startswith("no plan needs less than 0.1 GPU-hours")
    assert lines[3].split()[:3] == ["policy", "late", "%"]
    assert [line.split()[0] for line in lines[4:]] == ["easel", "fixed-2"]


def test_a_price_gives_the_cost(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    figures = run_json([*files, "--policy", "fixed-2", "--gpu-hour-price", "2.5"], capsys)["policies"]["fixed-2"]
    assert figures["cost"] == pytest.approx(2.5 * figures["gpu_hours"], abs=0.01)


def test_a_sweep_answers_what_if(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    reported = run_json([*files, "--policy", "easel", "--sweep", "coldStart=5,60", "--sweep", "target=10,40"], capsys)
    late = {(run["coldStart"], run["target"]): run["policies"]["easel"]["late_percent"] for run in reported["sweep"]}
    assert len(late) == 4
    assert late[5, 40] <= late[60, 40] <= late[60, 10]


def test_a_seed_replays_everything(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    scaled = [*files, "--policy", "easel", "--upscale", "3", "--jitter-seconds", "20"]
    first, again, other = (run_json([*scaled, "--seed", seed], capsys) for seed in ("7", "7", "8"))
    assert first == again
    assert first["trace"]["requests"] == 360
    assert first["policies"] != other["policies"]


def test_a_pool_of_pods_serves_all_models_at_the_price_of_changing_between_them(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = [*files, "--split-by", "model", "--policy", "fixed-1,easel"]
    sets = run_json(split, capsys)
    both = run_json([*split, "--pool", "2", "--model-costs", "3:20"], capsys)
    one = run_json([*split, "--pool", "1:1", "--model-costs", "3:20"], capsys)
    costs = tmp_path / "costs.csv"
    costs.write_text("model,switch_seconds,load_seconds\nm1,3,20\nm0,3,20\n")
    by_file = run_json([*split, "--pool", "1:1", "--model-costs", str(costs)], capsys)
    assert one == by_file
    assert sets["trace"] == both["trace"]
    assert both["policies"]["fixed-1"]["gpu_hours"] < 0.6 * sets["policies"]["fixed-1"]["gpu_hours"]
    assert one["policies"]["fixed-1"]["p95_seconds"] > both["policies"]["fixed-1"]["p95_seconds"]
    assert "one pool of pods for all models" in render([*split, "--pool", "2", "--model-costs", "3:20"], capsys)


def test_a_pool_that_can_not_be_is_refused(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = [*files, "--split-by", "model"]
    costs = tmp_path / "costs.csv"
    costs.write_text("model,switch_seconds,load_seconds\nm0,3,20\n")
    assert "says nothing of m1" in refuse([*split, "--pool", "2", "--model-costs", str(costs)], capsys)
    costs.write_text("model,load_seconds\nm0,20\n")
    assert "no column 'switch_seconds'" in refuse([*split, "--pool", "2", "--model-costs", str(costs)], capsys)
    costs.write_text("model,switch_seconds,load_seconds\nm0,3\n")
    assert "costs.csv:2" in refuse([*split, "--pool", "2", "--model-costs", str(costs)], capsys)
    assert "can't read" in refuse([*split, "--pool", "2", "--model-costs", "none.csv"], capsys)
    assert "SWITCH:LOAD" in refuse([*split, "--pool", "2", "--model-costs", "3:-20"], capsys)
    assert "1 to 1000 models" in refuse([*split, "--pool", "0:4", "--model-costs", "3:20"], capsys)
    assert "go together" in refuse([*split, "--pool", "2"], capsys)
    assert "go together" in refuse([*files, "--pool", "2", "--model-costs", "3:20"], capsys)
    pooled = [*split, "--pool", "2", "--model-costs", "3:20"]
    assert "the oracle plans for pods that have their model" in refuse([*pooled, "--policy", "oracle"], capsys)


def test_a_part_of_the_trace_can_be_looked_at(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    first = run_json([*files, "--policy", "fixed-2", "--until", "300"], capsys)
    second = run_json([*files, "--policy", "fixed-2", "--from", "300"], capsys)
    assert first["trace"]["requests"] == second["trace"]["requests"] == 60
    assert first["trace"]["seconds"] == 300.0


def test_parts_follow_the_clock_of_the_file(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a trace that counts seconds since 1970, written by a spreadsheet."""
    epoch = tmp_path / "epoch.csv"
    rows = [f"{1_790_000_000 + at},2" for at in range(0, 600, 10)]
    epoch.write_text("\n".join(["\ufeffarrival_seconds,work_seconds", *rows]), encoding="utf-8")
    arguments = [files[0], "--trace", str(epoch), *files[3:]]
    whole = run_json(arguments, capsys)
    assert whole["trace"]["seconds"] == 590.0
    assert whole["policies"]["easel"]["gpu_hours"] < 0.5
    part = run_json([*arguments, "--from", "1790000300"], capsys)
    assert part["trace"]["requests"] == 30
    assert "the trace is 1.79e+09 to" in refuse([*arguments, "--from", "5", "--until", "300"], capsys)


def test_every_policy_can_be_tried_with_late_requests_that_yield(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first_come, target_first = (
        run_json([*files, "--policy", "fixed-1,easel,oracle", "--queue-order", order, "--upscale", "2"], capsys)
        for order in ("FirstComeFirstServed", "TargetFirst")
    )
    assert target_first["trace"]["queue_order"] == "TargetFirst"
    for policy, figures in target_first["policies"].items():
        assert figures["late_percent"] <= max(5.0, first_come["policies"][policy]["late_percent"])
    assert target_first["policies"]["fixed-1"]["late_percent"] < first_come["policies"]["fixed-1"]["late_percent"]


def test_requests_are_taken_in_the_services_own_order(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_option = run_json([*files, "--policy", "fixed-1", "--queue-order", "FirstComeFirstServed"], capsys)
    ordered = tmp_path / "ordered.yaml"
    ordered.write_text(SERVICE.replace("minReplicas", "queueOrder: FirstComeFirstServed, minReplicas"))
    by_service = run_json([*files, "--service", str(ordered), "--policy", "fixed-1"], capsys)
    assert by_service == by_option
    assert by_service["trace"]["queue_order"] == "FirstComeFirstServed"
    assert "queueOrder is the queue's" in refuse([*files, "--policy", "easel:queueOrder=TargetFirst"], capsys)


def test_each_value_of_a_column_can_be_a_service(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    reported = run_json([*files, "--split-by", "model", "--policy", "easel,fixed-1,oracle"], capsys)
    assert list(reported["services"]) == ["m0", "m1"]
    for policy, together in reported["policies"].items():
        alone = [service["policies"][policy] for service in reported["services"].values()]
        assert together["requests"] == sum(figures["requests"] for figures in alone) == 120
        assert together["gpu_hours"] == pytest.approx(sum(figures["gpu_hours"] for figures in alone), abs=0.002)
        late = sum(figures["late_percent"] * figures["requests"] for figures in alone) / 120
        assert together["late_percent"] == pytest.approx(late, abs=0.01)
    assert main([*files, "--split-by", "model"]) == 0
    assert "2 services, pods of their own for each" in capsys.readouterr().out


def test_cold_starts_are_longer_the_more_pods_start_at_once(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    alone, crowded = (
        run_json([*files[:-1], cold_start, "--upscale", "5"], capsys)["policies"]["easel"]
        for cold_start in ("30:0", "30:0:20")
    )
    assert crowded["startup_gpu_hours"] / crowded["starts"] > alone["startup_gpu_hours"] / alone["starts"]


@pytest.mark.parametrize("suffix", ["png", "html"])
def test_a_plot_is_written(files: list[str], tmp_path: Path, suffix: str) -> None:
    picture = tmp_path / f"plot.{suffix}"
    assert main([*files, "--policy", "easel,oracle", "--plot", str(picture)]) == 0
    content = picture.read_bytes()
    if suffix == "png":
        assert content.startswith(b"\x89PNG")
    else:
        assert b"data:image/png;base64," in content
        assert b"easel" in content
    assert len(content) > 20_000


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--policy", "kpa"], "no policy is called 'kpa'; there are easel, hpa-queue,"),
        (["--policy", ","], "--policy names none; there are easel,"),
        (["--policy", "easel,easel"], "--policy names one twice"),
        (["--policy", "easel", "--sweep", "coldStart"], "KEY=NUMBER,NUMBER… is expected"),
        (["--policy", "easel", "--sweep", "colour=1"], "nothing is called 'colour'; there are coldStart, target,"),
        (["--policy", "easel", "--sweep", "target=0"], "targetLatencySeconds is 0.0"),
        (["--policy", "easel", "--sweep", "coldStart=-1"], "-1 is less than 0"),
        (["--policy", "easel", "--upscale", "0"], "--upscale is 0; 1 to 10000 are allowed"),
        (["--policy", "easel", "--jitter-seconds", "-1"], "--jitter-seconds is -1; 0 or more is allowed"),
        (["--policy", "easel", "--from", "900"], "the end must come after the beginning"),
        (["--policy", "easel", "--from", "552", "--until", "9000"], "no request arrives then"),
        (["--policy", "easel", "--plot", "plot.svg"], "a file that ends in .png or .html is expected"),
        (["--policy", "easel", "--cold-start-seconds", "fast"], "--cold-start-seconds is 'fast'; X, X:SPREAD or"),
        (["--policy", "easel", "--cold-start-seconds", "5:9"], "SPREAD at most X, is expected"),
        (["--policy", "easel", "--cold-start-seconds", "5:1:-1"], "X:SPREAD:CROWD in seconds"),
        (["--policy", "easel", "--cold-start-seconds", "5:1:1:1"], "X:SPREAD:CROWD in seconds"),
        (["--split-by", "model", "--plot", "p.png"], "--split-by model gives 2; leave one out"),
        (["--split-by", "colour"], "no column colour in the header"),
    ],
)
def test_what_can_not_be_done_is_said(
    files: list[str], capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    assert message in refuse([*files, *extra], capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "can't read"),
        ("kind: Deployment", "holds 0 objects of kind StableDiffusionService; one is expected"),
        (SERVICE.replace("maxReplicas", "maxReplica"), "spec is not valid: scaling.maxReplicas: Field required"),
        (SERVICE.replace("scaling: {minReplicas: 0, maxReplicas: 6, targetLatencySeconds: 20}", "replicas: 3"),
         "has spec.replicas; a simulation needs spec.scaling"),
    ],
)  # fmt: skip
def test_a_service_that_can_not_be_used_is_refused(
    files: list[str], capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    Path(files[4]).write_text(content)
    assert message in refuse([*files, "--policy", "easel"], capsys)


def test_a_bad_trace_is_refused_with_its_line(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path(files[2]).write_text("arrival_seconds,work_seconds\n1,2\n3,slow\n")
    assert f"{files[2]}:3: work_seconds is 'slow'" in refuse([*files, "--policy", "easel"], capsys)


def test_files_that_are_not_there_are_named(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    gone = [*files[:2], "/no/trace.csv", *files[3:], "--policy", "easel"]
    assert "can't read /no/trace.csv" in refuse(gone, capsys)


@pytest.mark.parametrize(
    ("missing", "extra", "message"),
    [
        (
            "matplotlib",
            ["--policy", "easel", "--plot", "p.png"],
            "--plot needs matplotlib: pip install '.[simulate]'",
        ),
        ("numpy", ["--policy", "oracle"], "the oracle needs numpy: pip install '.[simulate]'"),
        ("yaml", ["--policy", "easel"], "--service needs PyYAML: pip install '.[simulate]'"),
    ],
)
def test_a_library_that_is_missing_is_said_with_how_to_get_it(
    files: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    missing: str,
    extra: list[str],
    message: str,
) -> None:
    for module in [name for name in sys.modules if name.startswith("easel_operator.simulation.")]:
        monkeypatch.delitem(sys.modules, module)
    for module in [name for name in sys.modules if name.split(".", maxsplit=1)[0] == missing]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, missing, None)
    assert message in refuse([*files, *extra], capsys)
