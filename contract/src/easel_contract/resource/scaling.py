"""How the number of workers follows the work."""

from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from easel_contract.cron import check_cron
from easel_contract.gateway_config import OVERTAKEN_TARGETS, QueueOrder, derive_max_overtaken_seconds
from easel_contract.schema import Model, ObjectName, TimeZone, cel, validations

LATE_REQUEST_GPU_SECONDS: Final = 180  # and a cold start: what one late request less may cost


class ExecutionMode(StrEnum):
    """What happens with a decision on the number of workers."""

    AUTOMATIC = "Automatic"  # it is carried out
    RECOMMEND = "Recommend"  # it is reported, in status.scaling, events and metrics; the workers stay as they are


class ScheduleSpec(Model):
    """A floor under the number of workers, now and then: for load that is known in advance."""

    name: ObjectName = Field(description="Names the schedule in decisions.")
    cron: str = Field(
        min_length=9,
        max_length=200,
        pattern=r"^\s*\S+(\s+\S+){4}\s*$",
        description="When it begins: minute, hour, day of the month, month, day of the week, as in crontab(5). Workers "
        "are ordered a cold start earlier, so that they are ready by then.",
    )
    duration_minutes: int = Field(ge=1, le=10080, description="How long it lasts.")
    min_replicas: int = Field(ge=1, le=1000, description="Workers at least, meanwhile.")
    time_zone: TimeZone = Field(default="UTC", description="The clock that cron reads, such as Europe/Berlin.")

    @field_validator("cron")
    @classmethod
    def _parsable(cls, value: str) -> str:
        check_cron(value)
        return value


def _leave_default_to_readers(schema: dict[str, Any]) -> None:
    """Of a field that is newer than the first release: a default in the CRD would be read by every operator as if it
    had been set, and one of the version before, still there during an update, refuses fields that it doesn't know.
    """
    del schema["default"]


class ScalingSpec(Model):
    """How the number of workers follows the work."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            cel("self.minReplicas <= self.maxReplicas", "minReplicas must not be greater than maxReplicas"),
            cel(
                "!has(self.schedules) || self.schedules.all(each, each.minReplicas <= self.maxReplicas)",
                "minReplicas of a schedule must not be greater than maxReplicas: no more workers are started",
            ),
        )
    )

    mode: ExecutionMode = Field(
        default=ExecutionMode.AUTOMATIC,
        description="Recommend: decisions are reported and not carried out; the number of workers is yours to set.",
    )
    min_replicas: int = Field(default=1, ge=0, le=1000, description="0 lets an idle service release its last GPU.")
    max_replicas: int = Field(ge=1, le=1000, description="Most workers; the bound on what the service can cost.")
    target_latency_seconds: int = Field(
        default=30,
        ge=1,
        le=86400,
        description="From submitted to finished; as few workers as let 95 % of all requests meet it.",
    )
    queue_order: QueueOrder = Field(
        default=QueueOrder.TARGET_FIRST,
        description="Which waiting request a free worker takes, within its customer's turn and priority. TargetFirst: "
        "the oldest that can still finish within the target latency, so that a burst which is late anyway doesn't make "
        "late what comes after it. FirstComeFirstServed: the oldest; fewer wait very long, and more are late. Unset: "
        "TargetFirst.",
        json_schema_extra=_leave_default_to_readers,
    )
    max_overtaken_seconds: int | None = Field(
        default=None,
        ge=0,
        le=86400,
        description="With TargetFirst: a request that has waited this long is overtaken no more, by whatever is in "
        f"time. Unset: the measured cold start and {OVERTAKEN_TARGETS} target latencies.",
    )
    max_gpu_seconds_per_late_request: int | None = Field(
        default=None,
        ge=0,
        le=86400,
        description="No more GPU-seconds are spent on headroom than this for each late request that it saves. Unset: "
        f"the measured cold start and {LATE_REQUEST_GPU_SECONDS} s.",
    )
    target_queue_depth: int | None = Field(
        default=None,
        ge=1,
        le=10000,
        description="Requests, waiting and running, per worker: no fewer workers than this asks for. Unset: the "
        "target latency alone decides.",
    )
    scale_down_after_seconds: int | None = Field(
        default=None,
        ge=0,
        le=86400,
        description="A worker is scaled down after this long without need of it. Unset: a part of a cold start, longer "
        "while too many requests are late.",
    )
    scale_to_zero_after_seconds: int | None = Field(
        default=None,
        ge=0,
        le=86400,
        description="With minReplicas 0: the last worker is scaled down after this long without any request. Unset: as "
        "the measured cold start and lateness ask for.",
    )
    schedules: Annotated[
        tuple[ScheduleSpec, ...],
        Field(
            default=(),
            max_length=32,
            description="Floors under the number of workers at known times.",
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
        ),
    ]

    def find_max_overtaken_seconds(self, cold_start_seconds: float) -> float:
        """How long a late request is overtaken by those that are in time, at this cold start; 0 where none is."""
        if self.queue_order is QueueOrder.FIRST_COME_FIRST_SERVED:
            return 0.0
        if self.max_overtaken_seconds is not None:
            return float(self.max_overtaken_seconds)
        return derive_max_overtaken_seconds(cold_start_seconds, self.target_latency_seconds)

    def find_max_gpu_seconds_per_late_request(self, cold_start_seconds: float) -> float:
        """What one late request less may cost, at this cold start."""
        if self.max_gpu_seconds_per_late_request is not None:
            return float(self.max_gpu_seconds_per_late_request)
        return cold_start_seconds + LATE_REQUEST_GPU_SECONDS

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"minReplicas ({self.min_replicas}) must not be greater than maxReplicas ({self.max_replicas})"
            )
        for schedule in self.schedules:
            if schedule.min_replicas > self.max_replicas:
                raise ValueError(
                    f"minReplicas ({schedule.min_replicas}) of schedule {schedule.name} must not be greater than "
                    f"maxReplicas ({self.max_replicas}): no more workers are started"
                )
        names = [schedule.name for schedule in self.schedules]
        if len(set(names)) < len(names):
            raise ValueError(f"the names of schedules must differ, got {', '.join(names)}")
        return self
