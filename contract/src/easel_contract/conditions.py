"""Condition types and reasons of a StableDiffusionService, as Kubernetes' API conventions ask.

Each type is written on first sight of the resource (``Unknown`` at first) and its transition time changes with its
status only.
"""

from datetime import datetime
from enum import StrEnum
from typing import Final

from pydantic import AwareDatetime, Field

from easel_contract.schema import Model

# The API server takes 32,768 characters; what others said (a webhook's refusal, a container's last words) goes into a
# message, and nobody reads that much.
MAX_MESSAGE_BYTES: Final = 4096
KEPT_END_SHARE: Final = 1 / 4  # of a text that is cut: advice stands at its end
ELLIPSIS: Final = " … "


class ConditionType(StrEnum):
    """What a condition speaks of."""

    READY = "Ready"  # clients get images from status.url
    PROGRESSING = "Progressing"  # as a Deployment's: the pods follow the spec, or already do; False: they can't
    MODEL_LOADED = "ModelLoaded"  # some worker holds the model
    SCALING_ACTIVE = "ScalingActive"  # the number of workers follows the work
    CAPACITY_AVAILABLE = "CapacityAvailable"  # the cluster takes the pods that are wanted
    ADD_ONS_AVAILABLE = "AddOnsAvailable"  # requests can have each add-on; only of services that have some
    REDIS_USER = "RedisUser"  # the service has a user of its own in Redis; only said where it couldn't be made
    # What kstatus reads (Flux, Helm, kpt): True only while something is up.
    RECONCILING = "Reconciling"  # the pods don't follow the newest spec yet
    STALLED = "Stalled"  # they won't until somebody acts


class ConditionStatus(StrEnum):
    """Kubernetes' three-valued truth."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Reason(StrEnum):
    """One word for why a condition has its status; the message says the rest."""

    PENDING = "Pending"  # not looked at yet
    OPERATOR_GONE = "OperatorGone"  # nobody looks any more: the operator was uninstalled, or scaled to none
    # Ready
    AVAILABLE = "Available"
    SCALED_TO_ZERO = "ScaledToZero"
    WAKING = "Waking"  # asleep until requests came; a worker is on its way to them
    DEGRADED = "Degraded"  # clients get images, from fewer pods than the spec asks for
    SERVING_PREVIOUS_REVISION = "ServingPreviousRevision"  # clients get images, and the new pods can't start
    GATEWAY_UNAVAILABLE = "GatewayUnavailable"
    WORKERS_UNAVAILABLE = "WorkersUnavailable"
    REDIS_UNAVAILABLE = "RedisUnavailable"
    REDIS_FULL = "RedisFull"  # it takes nothing new; what is under way goes on
    REDIS_EVICTS = "RedisEvicts"  # it is there, and refused: it may drop requests and results
    # Ready, Progressing
    INVALID_SPEC = "InvalidSpec"
    CHILD_CONFLICT = "ChildConflict"  # a child's name is taken by an object that isn't ours
    APPLY_FAILED = "ApplyFailed"
    OPERATOR_FAULT = "OperatorFault"  # the operator couldn't work on the service for a fault of its own
    REFERENCE_MISSING = "ReferenceMissing"  # a Secret or PersistentVolumeClaim that the spec names doesn't exist
    # Progressing
    ROLLING_OUT = "RollingOut"
    COMPLETE = "Complete"
    PAUSED = "Paused"  # by rollout.paused: some pods are of an earlier spec
    ROLLED_BACK = "RolledBack"  # to the last good revision: the newest had no ready worker in time, or did worse
    CANARY_WAITING = "CanaryWaiting"  # a new revision waits for workers of the stable one to be compared with
    CANARY_RUNNING = "CanaryRunning"  # a new revision is tried on a share of the jobs
    CANARY_FAILED = "CanaryFailed"  # it did worse than the stable one, and stays at its share (rollout.onFailure Hold)
    DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    # ModelLoaded
    LOADED = "Loaded"
    LOADING = "Loading"
    MODEL_LOAD_FAILED = "ModelLoadFailed"
    ENGINE_FAILED = "EngineFailed"  # a GPU that failed under way: its worker starts anew
    CRASH_LOOP = "CrashLoop"
    EVICTED = "Evicted"  # by the kubelet: a pod used more scratch room than it has, or its node ran out of something
    IMAGE_PULL_FAILED = "ImagePullFailed"
    # AddOnsAvailable
    ADD_ON_UNAVAILABLE = "AddOnUnavailable"
    # RedisUser
    SHARED_USER = "SharedUser"
    # ScalingActive
    FOLLOWING_DEMAND = "FollowingDemand"
    FIXED_REPLICAS = "FixedReplicas"
    METRICS_UNAVAILABLE = "MetricsUnavailable"
    DIRECT_SCALING = "DirectScaling"  # the operator writes the scale itself, the message says why
    RECOMMENDING = "Recommending"  # decisions are reported and not carried out
    # CapacityAvailable
    SUFFICIENT = "Sufficient"
    INSUFFICIENT_CAPACITY = "InsufficientCapacity"  # the nodes that fit are full
    NO_MATCHING_NODE = "NoMatchingNode"  # taints, selectors and cordons leave no node
    VOLUME_UNAVAILABLE = "VolumeUnavailable"  # a pod's volume doesn't exist, isn't bound, or lies elsewhere
    QUOTA_EXCEEDED = "QuotaExceeded"
    RESOURCES_MISSING = "ResourcesMissing"  # a ResourceQuota asks for requests or limits that the spec doesn't give
    LIMIT_RANGE_VIOLATED = "LimitRangeViolated"
    POD_SECURITY_VIOLATED = "PodSecurityViolated"
    ADMISSION_DENIED = "AdmissionDenied"  # by a webhook or a policy of the cluster
    PODS_REFUSED = "PodsRefused"  # for another reason, which the message quotes


def shorten(text: str, max_bytes: int) -> str:
    """The text, or its beginning and its end with an ellipsis between, in ``max_bytes`` of UTF-8 at the most.

    Bytes, since Kubernetes counts some fields so (an event's note); whoever counts characters is content with it.
    """
    encoded = text.encode(errors="replace")
    if len(encoded) <= max_bytes:
        return encoded.decode()
    room = max_bytes - len(ELLIPSIS.encode())
    end = int(room * KEPT_END_SHARE)
    # Cut through a character, what is left of it is dropped.
    return f"{encoded[: room - end].decode(errors='ignore')}{ELLIPSIS}{encoded[-end:].decode(errors='ignore')}"


class Condition(Model):
    """One entry of status.conditions (the fields of metav1.Condition)."""

    type: ConditionType
    status: ConditionStatus
    reason: Reason
    message: str = Field(max_length=32768)
    last_transition_time: AwareDatetime
    observed_generation: int = Field(ge=0)


def build_condition(
    kind: ConditionType,
    status: ConditionStatus,
    reason: Reason,
    message: str,
    *,
    generation: int,
    now: datetime,
    previous: Condition | None,
) -> Condition:
    """The new condition; it keeps the previous transition time unless the status changed.

    A message is cut to MAX_MESSAGE_BYTES.
    """
    kept = previous is not None and previous.status == status
    return Condition(
        type=kind,
        status=status,
        reason=reason,
        message=shorten(message, MAX_MESSAGE_BYTES),
        last_transition_time=previous.last_transition_time if previous and kept else now,
        observed_generation=generation,
    )
