"""What a run on the cluster left: the lives of its pods and how each request went; kept as JSON, to be compared again
when the simulator changes."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from easel_contract.resource import QueueOrder

from benchmarks.simulator.comparison import PodLife
from benchmarks.simulator.replay import Replayed

COURSES: Final = Path(__file__).parents[1] / "results/simulator-courses"


@dataclass(frozen=True)
class Course:
    """One run of the trace on a cluster. Times are seconds since the trace began."""

    period_seconds: int  # of the cluster's autoscaler
    duration_seconds: float  # of the trace
    seed: int  # of the trace
    load_average: float  # of the machine, mean over the run
    measured: Mapping[str, Any]  # machine, date and commit
    orders: Sequence[tuple[float, int]]  # when the Deployment was given how many pods
    pods: Sequence[PodLife]
    requests: Sequence[Replayed]
    queue_order: str = QueueOrder.FIRST_COME_FIRST_SERVED  # all that there was when the first courses were seen

    @property
    def name(self) -> str:
        """What tells it from others; a later one of the same name takes its place."""
        return f"autoscaler every {self.period_seconds} s, {self.queue_order}, trace {self.seed}"

    def save(self) -> Path:
        """Writes its file, over an earlier one of the same name."""
        COURSES.mkdir(exist_ok=True)
        path = COURSES / f"period-{self.period_seconds}-s-{self.queue_order}-trace-{self.seed}.json"
        path.write_text(json.dumps(_round(asdict(self))) + "\n")
        return path


def load_course(path: Path) -> Course:
    """What was saved."""
    body = json.loads(path.read_text())
    body["pods"] = [PodLife(**{k: math.inf if v is None else v for k, v in pod.items()}) for pod in body["pods"]]
    body["requests"] = [Replayed(**request) for request in body["requests"]]
    body["orders"] = [(at, replicas) for at, replicas in body["orders"]]
    return Course(**body)


def _round(value: Any) -> Any:
    """To milliseconds; null for what didn't happen, since JSON knows no infinity."""
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _round(each) for key, each in value.items()}
    return [_round(each) for each in value] if isinstance(value, (list, tuple)) else value
