"""What the simulator makes of the HPA controller, against Kubernetes' own: cases drawn by chance, decided by both.

The Go test in devcluster/internal/autoscaler runs the real controller on a simulated clock; it also takes the cases of
hpa_cases.yaml, which people can read. Here are many that nobody would think of.
"""

import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from easel_operator.simulation.hpa.controller import Memory, step

from tests.operator.simulation.hpa_cases import POD_METRIC, Case, read_case

ROOT = Path(__file__).resolve().parents[3]
CASES = 300
SEED = int(os.environ.get("EASEL_HPA_SEED", "20261124"))
WINDOWS_SECONDS = (0, 15, 30, 60, 300)
SPOKEN_REASONS = {"ValidMetricFound", "FailedGetMetric", "ScalingDisabled"}


@pytest.mark.cluster
@pytest.mark.skipif(shutil.which("go") is None, reason="the real controller is compiled from Go")
def test_the_real_controller_decides_likewise(tmp_path: Path) -> None:
    source = random.Random(SEED)  # noqa: S311 - replayed by its seed
    drawn = [{f"case {index} of seed {SEED}": decide(draw_case(source))} for index in range(CASES)]
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps(drawn))
    reported = subprocess.run(
        ["go", "test", "-count=1", "./internal/autoscaler/"],
        cwd=ROOT / "devcluster",
        env={**os.environ, "EASEL_HPA_CASES": str(cases)},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert reported.returncode == 0, f"seed {SEED}:\n{reported.stdout[-4000:]}{reported.stderr[-2000:]}"


def decide(case: dict[str, Any]) -> dict[str, Any]:
    """The case with what the simulator expects at each tick."""
    read: Case = read_case("drawn", case)
    memory, replicas = Memory(), 0
    for tick, written in zip(read.ticks, case["ticks"], strict=True):
        replicas = replicas if tick.replicas is None else tick.replicas
        decision = step(tick.spec, tick.build_sight(replicas), memory, read.settings, tick.at_seconds)
        memory, replicas = decision.memory, decision.replicas
        written["expect"] = replicas
        if decision.reason in SPOKEN_REASONS:
            written["reason"] = decision.reason
        if decision.limited_by is not None:
            written["limited"] = decision.limited_by
    return case


def draw_case(source: random.Random) -> dict[str, Any]:
    """A spec and up to ten ticks. No two ticks are a multiple of 15 s apart: windows and periods end between them."""
    has_pods = source.random() < 0.3
    spec: dict[str, Any] = {"minReplicas": source.choice((0, 0, 1, 1, 3)), "maxReplicas": source.choice((5, 12, 40))}
    if has_pods:
        spec["pods"] = {POD_METRIC: str(source.choice((30, 50, 70)))}
    if not has_pods or source.random() < 0.3:
        names = source.choice((["queue"], ["queue", "latency"]))
        spec["external"] = {
            name: {source.choice(("value", "averageValue")): str(source.choice((1, 2, 5, "1500m")))} for name in names
        }
    if source.random() < 0.7:
        spec["behavior"] = {way: draw_rules(source) for way in ("scaleUp", "scaleDown") if source.random() < 0.8}
    ticks, at = [], 0
    for index in range(source.randint(1, 10)):
        ticks.append(draw_tick(source, spec, 15 * at + index, is_first=index == 0))
        at += source.choice((1, 1, 1, 2, 4, 25))
    return {"kubernetes": source.choice((36, 37, 37)) if spec["minReplicas"] else 37, "spec": spec, "ticks": ticks}


def draw_rules(source: random.Random) -> dict[str, Any]:
    rules: dict[str, Any] = {}
    if source.random() < 0.6:
        rules["stabilizationWindowSeconds"] = source.choice(WINDOWS_SECONDS)
    if source.random() < 0.5:
        rules["selectPolicy"] = source.choice(("Max", "Min", "Disabled"))
    if source.random() < 0.5:
        rules["tolerance"] = source.choice(("0", "50m", "300m"))
    if source.random() < 0.6:
        rules["policies"] = [
            {
                "type": source.choice(("Pods", "Percent")),
                "value": source.choice((1, 3, 10, 50, 100)),
                "periodSeconds": source.choice((15, 30, 60, 180)),
            }
            for _ in range(source.randint(1, 3))
        ]
    return rules


def draw_tick(source: random.Random, spec: dict[str, Any], at: int, *, is_first: bool) -> dict[str, Any]:
    tick: dict[str, Any] = {"at": at, "expect": 0}
    if is_first or source.random() < 0.08:
        tick["replicas"] = source.choice((0, 1, 2, 4, 7, 15, 45))
    if "external" in spec:
        scale = source.choice((1, 10, 60))
        tick["external"] = {
            name: None if source.random() < 0.1 else f"{source.choice((0, source.uniform(0, scale))):.3f}"
            for name in spec["external"]
        }
    if "pods" in spec:
        tick["pods"] = [draw_pod(source) for _ in range(source.randint(0, 8))]
    elif source.random() < 0.3:
        tick["status"] = source.randint(0, 12)
        tick["ready"] = source.randint(0, tick["status"])
    return tick


def draw_pod(source: random.Random) -> dict[str, Any]:
    pod: dict[str, Any] = {}
    if source.random() < 0.8:
        pod["value"] = f"{source.uniform(0, 120):.3f}"
    if source.random() < 0.3:
        pod["phase"] = source.choice(("Pending", "Failed"))
    if source.random() < 0.2:
        pod["ready"] = False
    if source.random() < 0.1:
        pod["deleted"] = True
    return pod
