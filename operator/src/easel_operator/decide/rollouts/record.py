"""What a worker Deployment remembers of a canary, in its annotation ``easel.dev/canary``."""

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum

from easel_contract import names

from easel_operator.decide.rollouts.tally import StepKey
from easel_operator.manifests.metadata import read_revision
from easel_operator.manifests.worker import digest_runs
from easel_operator.objects import Json


class Outcome(StrEnum):
    """How a canary stands, or ended."""

    RUNNING = "Running"
    PASSED = "Passed"
    FAILED = "Failed"


@dataclass(frozen=True)
class CanaryRecord:
    """One canary, at a step."""

    digest: str  # of what its workers run, see going_back.digest_of()
    stable: str  # revision of the stable template as the operator would build it; another one ends the canary
    step: int  # from 1
    since: datetime  # when the step began
    outcome: Outcome = Outcome.RUNNING
    said: str = ""  # by what figures the last step was decided

    def to_annotation(self) -> str:
        """As JSON."""
        return json.dumps({**asdict(self), "since": self.since.isoformat()}, separators=(",", ":"), sort_keys=True)


def read_record(live: Json | None) -> CanaryRecord | None:
    """What a worker Deployment remembers; None if nothing, or what this version can't read."""
    text = ((live or {}).get("metadata", {}).get("annotations") or {}).get(names.ANNOTATION_CANARY)
    if not text:
        return None
    try:
        known = json.loads(text)
        record = CanaryRecord(
            digest=str(known["digest"]),
            stable=str(known["stable"]),
            step=int(known["step"]),
            since=datetime.fromisoformat(known["since"]),
            outcome=Outcome(known["outcome"]),
            said=str(known["said"]),
        )
    except (ArithmeticError, ValueError, KeyError, TypeError):
        return None
    return record if record.step > 0 and record.since.tzinfo is not None else None


def read_trial(live: Json | None) -> CanaryRecord | None:
    """The record of a canary whose workers this Deployment has, and which hasn't passed; None where there is none."""
    record = read_record(live)
    if record is None or live is None or record.outcome is Outcome.PASSED:
        return None
    runs = (live["metadata"].get("annotations") or {}).get(names.ANNOTATION_RUNS, "")
    return record if record.digest == digest_runs(runs) else None


def read_step(live: Json) -> StepKey | None:
    """The step of a canary that is to be judged; None where none is."""
    trial = read_trial(live)
    is_running = trial is not None and trial.outcome is Outcome.RUNNING
    return StepKey(read_revision(live), trial.step) if trial is not None and is_running else None
