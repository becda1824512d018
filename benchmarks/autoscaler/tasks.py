"""One simulation, and a store of those that were made: a result is taken from there only if trace, service, policy and
all code that it depends on are the same to the byte."""

import functools
import hashlib
import json
import time
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from easel_contract.resource import QueueOrder
from easel_operator.simulation.oracle.search import find_oracle
from easel_operator.simulation.policies.registry import ORACLE, build_policy
from easel_operator.simulation.simulation import simulate
from easel_operator.simulation.trace import Trace

from benchmarks.autoscaler.cases import Case, build_settings, load_part
from benchmarks.autoscaler.code import hash_code

OURS: Final = "easel"
SIMULATOR: Final = (
    "easel_operator.simulation.simulation",
    "easel_operator.simulation.policies.registry",
    "easel_operator.simulation.settings",
)
ORACLES: Final = "easel_operator.simulation.oracle.search"
OURS_ALONE: Final = "easel_operator.simulation.policies.easel"  # what it imports, the planner, no other policy runs
OURS_COST: Final = (0.3, 0.1)  # processor seconds: for 1,000 requests, and for a simulated hour
OTHERS_COST: Final = (0.012, 0.006)
ORACLE_COST: Final = (0.35, 0.4)


@dataclass(frozen=True, slots=True)
class Task:
    """One simulation."""

    case: Case
    order: QueueOrder
    policy: str
    is_tuning: bool = False  # on the first half

    @property
    def kind(self) -> str:
        """The policy without its parameters."""
        return self.policy.partition(":")[0]

    def load(self) -> Trace:
        """Its requests."""
        return load_part(self.case.trace, self.case.load, is_first=self.is_tuning)

    def find_key(self) -> str:
        """Equal for two tasks only if they must come out alike."""
        settings = build_settings(self.case, self.order)
        trace = self.load()
        parts = [
            _hash_code_of(self.kind),
            _hash_trace(trace),
            self.policy,
            settings.spec.to_wire(),
            [settings.cold_start.seconds, settings.cold_start.spread_seconds, settings.cold_start.crowd_seconds],
            settings.seed,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def estimate_seconds(self) -> float:
        """Processor time, roughly: these costs were measured on one machine, and are only told."""
        trace = self.load()
        cost = {OURS: OURS_COST, ORACLE: ORACLE_COST}.get(self.kind, OTHERS_COST)
        return cost[0] * len(trace) / 1000 + cost[1] * trace.duration_seconds / 3600


def run(task: Task, store: Path | None) -> dict[str, Any]:
    """The figures of one simulation, and what it took: ``cpu_seconds`` of this process."""
    path = None if store is None else store / f"{task.find_key()}.json"
    if path is not None and path.exists():
        known: dict[str, Any] = json.loads(path.read_text())
        return known
    began = time.process_time()
    record = {**_simulate(task), "cpu_seconds": round(time.process_time() - began, 1)}
    if path is not None:
        whole = path.with_suffix(".part")  # so that a run that is ended leaves no half of a file
        whole.write_text(json.dumps(record))
        whole.replace(path)
    return record


def is_known(task: Task, store: Path) -> bool:
    """Whether it needs no simulation."""
    return (store / f"{task.find_key()}.json").exists()


def _simulate(task: Task) -> Mapping[str, Any]:
    settings = build_settings(task.case, task.order)
    if task.policy == ORACLE:
        return find_oracle(task.load(), settings).to_record()
    return simulate(task.load(), build_policy(task.policy, settings), settings).to_record()


@functools.cache
def _hash_code_of(kind: str) -> str:
    roots = (*SIMULATOR, ORACLES) if kind == ORACLE else SIMULATOR
    return hash_code(roots, () if kind == OURS else (OURS_ALONE,))


@functools.lru_cache(maxsize=8)
def _hash_trace(trace: Trace) -> str:
    digest = hashlib.sha256(repr((trace.duration_seconds, len(trace))).encode())
    for column in (trace.arrival_seconds, trace.work_seconds):
        digest.update(array("d", column).tobytes())
    return digest.hexdigest()
