"""Everything that a decision may look at, and everything that it may ask for: frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from easel_contract.conditions import Reason
from easel_contract.resource import ColdStartStatus, HeadroomStatus

from easel_operator.decide.drift import Renewal
from easel_operator.decide.rollouts.tally import Tally
from easel_operator.manifests.metadata import Release
from easel_operator.objects import Json, ObjectKey


@dataclass(frozen=True)
class Capabilities:
    """What this cluster can do, probed at start-up and now and then after."""

    is_metrics_api_ours: bool  # the APIService v1beta1.external.metrics.k8s.io points at the operator
    metrics_api_note: str  # when it isn't ours: whose it is
    is_scale_to_zero_supported: bool  # the API server admits an autoscaler with minReplicas 0 (HPAScaleToZero)
    is_tolerance_supported: bool  # the API server keeps behavior.*.tolerance (HPAConfigurableTolerance)
    is_image_volume_supported: bool = True  # the API server keeps volumes[].image of pods (ImageVolume)
    unserved_kinds: frozenset[str] = frozenset()  # of the kinds that not every cluster has, those that this one hasn't


@dataclass(frozen=True)
class ScalingDecision:
    """The last decision that changed the number of workers."""

    desired_replicas: int
    sentence: str
    decided_at: datetime
    # What a restarted operator couldn't measure at once:
    cold_starts_seconds: tuple[int, ...] = ()
    headroom: HeadroomStatus | None = None


@dataclass(frozen=True)
class ScrapeReport:
    """What a service's pods last reported about themselves; changes seldom."""

    is_broker_up: bool | None = None  # None: no pod could be asked
    is_redis_full: bool = False
    is_redis_evicting: bool = False  # some pod refuses Redis, since its policy lets it drop keys
    is_data_missing: bool = False  # nobody has reported the queue's depth for so long that scaling stands still
    longest_job_seconds: int = 0  # so far; 0: none was seen
    cold_start: ColdStartStatus | None = None  # of the worker that became ready last
    # Add-ons that some worker can't have, by the key of their configured source: why. None: no worker has said yet.
    add_on_problems: Mapping[str, str] | None = None
    waiting_since: datetime | None = None  # requests wait and no worker is ready; None where either isn't so


@dataclass(frozen=True)
class FetchProgress:
    """How far the Job that fills a model's cache is, in bytes; in steps, so that not each byte is written down."""

    needed_bytes: int
    fetched_bytes: int
    verified_bytes: int


@dataclass(frozen=True)
class ApplyFailure:
    """A child that couldn't be written."""

    key: ObjectKey
    reason: Reason
    message: str


@dataclass(frozen=True)
class Snapshot:
    """One service and its surroundings at one moment."""

    service: Json
    children: Mapping[ObjectKey, Json]  # labelled as this service's or of a wanted child's name, whoever owns them
    pods: tuple[Json, ...]
    capabilities: Capabilities
    release: Release
    now: datetime
    scaling: ScalingDecision | None = None  # None: none since the operator started
    tally: Tally | None = None  # of a canary's step; None: none is followed
    scrape: ScrapeReport | None = None  # None: no pod was asked since the operator started
    fetch: FetchProgress | None = None  # None: no Job fills a cache, or it hasn't said yet
    failures: tuple[ApplyFailure, ...] = ()
    has_turn: bool = True  # whether the service may take a newer release of the installation
    earlier_runs: str = ""  # of the revision that spec.rollout.toRevision names, as describe_runs() has it; empty: lost
    shared_claims: frozenset[ObjectKey] = frozenset()  # that pods on several nodes may have at once
    missing: frozenset[ObjectKey] = frozenset()  # objects that the spec names and that don't exist


class EventType(StrEnum):
    """Kubernetes' two kinds of events."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True)
class EventPlan:
    """An event to record on the service."""

    type: EventType
    reason: str
    action: str  # what the operator was doing, as events.k8s.io asks
    note: str


@dataclass(frozen=True)
class Handover:
    """A Deployment whose number of replicas another field manager is to own: before we stop sending it, as the API
    server would reset a field that nobody sends any more to its default, 1 pod; or while all else of it stays.
    """

    key: ObjectKey
    replicas: int


class Stage(StrEnum):
    """How a service stands to the installation's release."""

    CURRENT = "current"  # it has it, or its roll-out is of its own making
    MOVING = "moving"  # its pods are being replaced by those of the release
    FAILED = "failed"  # it went back from the release, and keeps its turn
    WAITING = "waiting"  # for its turn
    HELD = "held"  # pinned or paused


@dataclass(frozen=True)
class Standing:
    """A service's stage, and where it stands among those that wait: the lowest rank goes first."""

    stage: Stage = Stage.CURRENT
    rank: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class ReconcilePlan:
    """What to do about one service, in this order."""

    finalizers: tuple[str, ...] | None = None  # all that the service shall have; None: they stay
    handovers: tuple[Handover, ...] = ()
    creates: tuple[Json, ...] = ()  # Secrets that are made once, with a random key, and never changed after
    applies: tuple[Json, ...] = ()
    deletes: tuple[ObjectKey, ...] = ()
    conflicts: tuple[ApplyFailure, ...] = ()  # names that are taken: then nothing is applied
    renewals: tuple[Renewal, ...] = ()  # gateways that are to read their configuration anew
    status_patch: Json | None = None  # merge patch of /status; None: nothing changed
    events: tuple[EventPlan, ...] = ()
    look_again_at: datetime | None = None  # when time alone changes the status
    standing: Standing = Standing()
