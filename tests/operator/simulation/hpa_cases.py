"""Reads hpa_cases.yaml: sequences of ticks, each with what the controller sees and what it must decide."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from easel_operator.simulation.hpa.proposals import PodReading, Sight
from easel_operator.simulation.hpa.spec import AutoscalerSpec, ControllerSettings, parse_milli

CASES = Path(__file__).with_suffix(".yaml")
POD_METRIC = "busy"


@dataclass(frozen=True)
class Tick:
    """One look of the controller."""

    at_seconds: float
    spec: AutoscalerSpec
    replicas: int | None  # None: as the tick before left it
    given: Mapping[str, Any]
    expected_replicas: int
    reason: str | None
    limited: str | None

    def build_sight(self, replicas: int) -> Sight:
        """What the controller reads, with ``replicas`` at hand."""
        given = self.given
        external = {name: None if value is None else parse_milli(value) for name, value in given["external"].items()}
        pods = tuple(_read_pod(index, pod) for index, pod in enumerate(given["pods"] or ()))
        status = replicas if given["status"] is None else given["status"]
        ready = status if given["ready"] is None and given["pods"] is None else given["ready"]
        return Sight(replicas, status, external, pods, ready)


@dataclass(frozen=True)
class Case:
    """A sentence, and the ticks that bear it out."""

    sentence: str
    settings: ControllerSettings
    ticks: tuple[Tick, ...]


def load_cases() -> list[Case]:
    """All of them, in order."""
    return [
        read_case(sentence, case) for entry in yaml.safe_load(CASES.read_text()) for sentence, case in entry.items()
    ]


def read_case(sentence: str, case: Mapping[str, Any]) -> Case:
    """One case as it is written in the file."""
    settings = ControllerSettings.of_release(case.get("kubernetes", 37))
    return Case(sentence, settings, tuple(_read_tick(tick, case["spec"]) for tick in case["ticks"]))


def build_manifest_spec(short: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of an autoscaling/v2 object, with ``external`` and ``pods`` written out."""
    spec = {key: value for key, value in short.items() if key not in {"external", "pods"}}
    external = [
        {"type": "External", "external": {"metric": {"name": name}, "target": _name_target_type(target)}}
        for name, target in short.get("external", {}).items()
    ]
    pods = [
        {"type": "Pods", "pods": {"metric": {"name": name}, "target": {"type": "AverageValue", "averageValue": value}}}
        for name, value in short.get("pods", {}).items()
    ]
    return {**spec, "metrics": [*external, *pods]}


def _name_target_type(target: Mapping[str, str]) -> dict[str, str]:
    return {"type": "Value" if "value" in target else "AverageValue", **target}


def _read_tick(tick: Mapping[str, Any], spec: Mapping[str, Any]) -> Tick:
    return Tick(
        at_seconds=tick["at"],
        spec=AutoscalerSpec.from_manifest(build_manifest_spec({**spec, **tick.get("spec", {})})),
        replicas=tick.get("replicas"),
        given={
            "external": tick.get("external", {}),
            "pods": tick.get("pods"),
            "ready": tick.get("ready"),
            "status": tick.get("status"),
        },
        expected_replicas=tick["expect"],
        reason=tick.get("reason"),
        limited=tick.get("limited"),
    )


def _read_pod(index: int, pod: Mapping[str, Any]) -> PodReading:
    return PodReading(
        name=f"pod-{index}",
        phase=pod.get("phase", "Running"),
        is_ready=pod.get("ready", True),
        is_deleted=pod.get("deleted", False),
        values_milli={POD_METRIC: parse_milli(pod["value"])} if "value" in pod else {},
    )
