"""What checks are made of. What couldn't be asked for is ``Unknown``, with the reason; what isn't there is None."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Unknown:
    """Why a fact isn't known, such as rights that are missing."""

    reason: str


class Level(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"  # it works, or not as well as it could
    FAILED = "failed"  # it can't work so
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check: a sentence, and what to do."""

    check: str  # such as "GPU nodes"
    level: Level
    message: str
    next_step: str = ""
    service: str = ""  # namespace/name; empty for what concerns the cluster


def unknown(check: str, fact: Unknown, service: str = "") -> CheckResult:
    """That a check couldn't be made."""
    return CheckResult(check, Level.UNKNOWN, fact.reason, service=service)


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """Of the whole cluster."""

    now: datetime
    version: Json | Unknown
    crd: Json | Unknown | None
    operators: Sequence[Json] | Unknown  # its pods
    lease: Json | Unknown | None
    api_service: Json | Unknown | None
    is_zero_supported: bool | Unknown  # an autoscaler with minReplicas 0
    nodes: Sequence[Json] | Unknown
    storage_classes: Sequence[Json] | Unknown
    runtime_classes: Sequence[Json] | Unknown


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """Of one service."""

    service: Json
    worker_template: Json | None  # the pod spec of its worker Deployment
    pods: Sequence[Json] | Unknown
    quotas: Sequence[Json] | Unknown
    claims: Mapping[str, Json | Unknown | None] = field(default_factory=dict)  # those that it names
    readiness: Json | Unknown | None = None  # what a gateway says at /readyz; None: no gateway runs
    hub: str | Unknown | None = None  # what a worker met at the Hub: an HTTP status or an error; None: it isn't needed

    @property
    def label(self) -> str:
        """Namespace and name."""
        return f"{self.service['metadata']['namespace']}/{self.service['metadata']['name']}"

    @property
    def worker(self) -> Json:
        """``spec.worker``."""
        found: Json = self.service["spec"].get("worker") or {}
        return found

    @property
    def gpu_resource(self) -> str:
        """The extended resource that its workers ask for."""
        return str((self.worker.get("gpu") or {}).get("resourceName", "nvidia.com/gpu"))

    @property
    def gpu_count(self) -> int:
        """GPUs of a worker; 0 runs on CPU."""
        return int((self.worker.get("gpu") or {}).get("count", 1))

    @property
    def max_workers(self) -> int:
        """As many as there may be."""
        scaling: Json = self.service["spec"].get("scaling") or {}
        return int(scaling.get("maxReplicas", self.service["spec"].get("replicas") or 0))
