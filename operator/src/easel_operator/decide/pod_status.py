"""What a pod's status says: is it ready, has it a place, and what is wrong with it, in words that say what to do."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from easel_contract import names
from easel_contract.conditions import Reason

from easel_operator.objects import Json, find_condition

IMAGE_REASONS: Final = frozenset({"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull"})
CREATE_REASONS: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
# A container that keeps crashing some time after it became ready is caught by how often and how recently it ended.
CRASH_LOOP_RESTARTS: Final = 3
SECOND_END_RESTARTS: Final = 2
CRASH_LOOP_MEMORY: Final = timedelta(minutes=5)
EVICTED: Final = "Evicted"  # the kubelet's word
EVICTION_MEMORY: Final = timedelta(hours=1)
MAX_MESSAGE_CHARACTERS: Final = 1024


class StartPhase(StrEnum):
    """How far a pod that isn't ready has come, in words."""

    PLACING = "waits for a node"
    PREPARING = "pulls its images, mounts its volumes or runs its init containers"
    LOADING = "has started and isn't ready yet"


@dataclass(frozen=True)
class PodProblem:
    """Why a pod can't work until somebody acts."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class PodStatus:
    """One pod that isn't being deleted."""

    name: str
    component: str
    address: str | None
    metrics_port: int
    is_ready: bool
    is_scheduled: bool
    unschedulable_message: str | None
    problem: PodProblem | None
    created_at: datetime | None = None
    scheduled_at: datetime | None = None  # when it got its node
    first_started_at: datetime | None = None  # of its container; None before, and once it was started again
    restarts: int = 0  # of its container
    ready_at: datetime | None = None  # since when it is ready; None while it isn't
    deletion_cost: int | None = None  # annotation; None if it has none
    revision: str = ""  # of the template that it was made of; empty if it doesn't say
    model: str = ""  # spec.model of that time, as JSON
    live_config: str = ""  # hash of the configuration that its files were last renewed to; empty if they never were
    phase: StartPhase | None = None  # None once it is ready


@dataclass(frozen=True)
class Eviction:
    """A pod that the kubelet ended; others take its place, and it stays as a record."""

    problem: PodProblem
    created_at: datetime | None  # the pod
    revision: str  # as PodStatus has it


def read_evictions(pods: Iterable[Json], component: str, now: datetime) -> tuple[Eviction, ...]:
    """A component's evictions of late, the newest pod's first."""
    evicted = [
        pod
        for pod in pods
        if pod["metadata"].get("labels", {}).get(names.LABEL_COMPONENT) == component
        and _is_of_deployment(pod, component)
        and pod.get("status", {}).get("reason") == EVICTED
        and now - (_read_evicted_at(pod) or now) < EVICTION_MEMORY
    ]
    evicted.sort(key=lambda pod: (str(pod["metadata"].get("creationTimestamp")), pod["metadata"]["name"]), reverse=True)
    return tuple(
        Eviction(
            problem=PodProblem(Reason.EVICTED, _explain_eviction(pod, component)),
            created_at=_read_time(pod["metadata"].get("creationTimestamp")),
            revision=str((pod["metadata"].get("annotations") or {}).get(names.ANNOTATION_REVISION, "")),
        )
        for pod in evicted
    )


def _read_evicted_at(pod: Json) -> datetime | None:
    condition = find_condition(pod, "DisruptionTarget")
    return _read_time(condition.get("lastTransitionTime") if condition else pod["metadata"].get("creationTimestamp"))


def _explain_eviction(pod: Json, component: str) -> str:
    """What the kubelet said, and which field would have kept the pod."""
    said = str(pod["status"].get("message") or "the kubelet left no message").strip()
    role = names.COMPONENT_GATEWAY if component == names.COMPONENT_GATEWAY else names.COMPONENT_WORKER
    on_claim = "" if role == names.COMPONENT_GATEWAY else ", or keep the model on a claim (spec.model.cache)"
    if 'volume "cache"' in said:
        advice = f"raise spec.worker.scratch.cache{on_claim}"
    elif 'volume "tmp"' in said:
        advice = f"raise spec.{role}.scratch.tmp"
    elif "limit" in said:
        advice = f"raise spec.{role}.resources.limits.ephemeral-storage, or that of the volume that it names{on_claim}"
    else:
        advice = (
            "its node ran out: ask for what pods use in "
            f"spec.{role}.resources.requests, so that they are placed where it is{on_claim}"
        )
    return _text(f"Pod {pod['metadata']['name']} was evicted: {said}", advice)


def read_pods(pods: Iterable[Json], component: str, now: datetime) -> tuple[PodStatus, ...]:
    """Facts of a component's pods that are neither being deleted nor finished, nor of somebody else's making."""
    return tuple(
        read_pod(pod, now)
        for pod in pods
        if pod["metadata"].get("labels", {}).get(names.LABEL_COMPONENT) == component
        and _is_of_deployment(pod, component)
        and "deletionTimestamp" not in pod["metadata"]
        and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    )


def read_pod(pod: Json, now: datetime) -> PodStatus:
    """Facts of one pod."""
    status = pod.get("status", {})
    ready, scheduled = find_condition(pod, "Ready"), find_condition(pod, "PodScheduled")
    is_unschedulable = (
        scheduled is not None and scheduled["status"] == "False" and scheduled.get("reason") == "Unschedulable"
    )
    ports = {port.get("name") for each in pod.get("spec", {}).get("containers", ()) for port in each.get("ports", ())}
    is_ready = ready is not None and ready["status"] == "True"
    annotations: Json = pod["metadata"].get("annotations") or {}
    return PodStatus(
        name=pod["metadata"]["name"],
        component=pod["metadata"].get("labels", {}).get(names.LABEL_COMPONENT, ""),
        address=status.get("podIP"),
        # A pod of an earlier release has its metrics on the port of its APIs.
        metrics_port=names.METRICS_PORT if names.METRICS_PORT_NAME in ports or not ports else names.HTTP_PORT,
        is_ready=is_ready,
        is_scheduled=bool(pod.get("spec", {}).get("nodeName")),
        unschedulable_message=str(scheduled.get("message", "")) if scheduled and is_unschedulable else None,
        problem=_find_problem(pod, now),
        created_at=_read_time(pod["metadata"].get("creationTimestamp")),
        scheduled_at=_read_time(scheduled.get("lastTransitionTime")) if scheduled and not is_unschedulable else None,
        first_started_at=_read_first_start(status),
        restarts=_read_restarts(status),
        ready_at=_read_time(ready.get("lastTransitionTime")) if ready and is_ready else None,
        deletion_cost=_read_deletion_cost(pod),
        revision=str(annotations.get(names.ANNOTATION_REVISION, "")),
        model=str(annotations.get(names.ANNOTATION_MODEL, "")),
        live_config=str(annotations.get(names.ANNOTATION_LIVE_CONFIG, "")),
        phase=None if is_ready else _read_phase(pod),
    )


def _is_of_deployment(pod: Json, component: str) -> bool:
    """Whether the service's Deployment (by a ReplicaSet) or its cache's Job made the pod; labels can be anybody's.

    The Deployment controller names a ReplicaSet by its Deployment and the hash of its template.
    """
    labels = pod["metadata"]["labels"]
    references = pod["metadata"].get("ownerReferences") or []
    if component == names.COMPONENT_MODEL_CACHE:
        begin = f"{names.model_cache_name(labels[names.LABEL_SERVICE])}-"
        return any(each.get("kind") == "Job" and str(each.get("name")).startswith(begin) for each in references)
    expected = f"{labels[names.LABEL_SERVICE]}-{component}-{labels.get(names.LABEL_TEMPLATE_HASH)}"
    return any(each.get("kind") == "ReplicaSet" and each.get("name") == expected for each in references)


def _read_phase(pod: Json) -> StartPhase:
    if not pod.get("spec", {}).get("nodeName"):
        return StartPhase.PLACING
    statuses: list[Json] = pod.get("status", {}).get("containerStatuses") or []
    own = [status for status in statuses if status.get("name") == names.CONTAINER_NAME]
    has_begun = any("running" in status.get("state", {}) or status.get("restartCount") for status in own)
    return StartPhase.LOADING if has_begun else StartPhase.PREPARING


def _read_first_start(status: Json) -> datetime | None:
    for each in status.get("containerStatuses") or ():
        if each.get("name") == names.CONTAINER_NAME and not each.get("restartCount"):
            return _read_time((each.get("state", {}).get("running") or {}).get("startedAt"))
    return None


def _read_restarts(status: Json) -> int:
    own = (each for each in status.get("containerStatuses") or () if each.get("name") == names.CONTAINER_NAME)
    return sum(each.get("restartCount", 0) for each in own)


def _read_time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _read_deletion_cost(pod: Json) -> int | None:
    text = str(pod["metadata"].get("annotations", {}).get(names.ANNOTATION_DELETION_COST, ""))
    try:
        return int(text)
    except ValueError:
        return None


def _find_problem(pod: Json, now: datetime) -> PodProblem | None:
    """What ails the pod: first Easel's own container, then those that overlays, or others, have put beside it."""
    statuses: list[Json] = pod.get("status", {}).get("containerStatuses") or []
    beside: list[Json] = pod.get("status", {}).get("initContainerStatuses") or []
    server = next((status for status in statuses if status.get("name") == names.CONTAINER_NAME), None)
    beside += [status for status in statuses if status is not server]
    problem = None if server is None else _find_start_problem(pod, server) or _find_crash(pod, server, now)
    return problem or next(filter(None, (_find_problem_beside(pod, status) for status in beside)), None)


def _find_start_problem(pod: Json, status: Json) -> PodProblem | None:
    """Why a container can't be started."""
    name = pod["metadata"]["name"]
    waiting: Json = status.get("state", {}).get("waiting") or {}
    reason, detail = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    if reason in IMAGE_REASONS:
        advice = "check the image's name and that the nodes may pull it"
        return PodProblem(
            Reason.IMAGE_PULL_FAILED, _text(f"Pod {name} can't pull {status.get('image')}: {detail}", advice)
        )
    if reason in CREATE_REASONS:
        advice = "check the Secrets, ConfigMaps and volumes that the resource names"
        container = "its container" if status.get("name") == names.CONTAINER_NAME else f"container {status.get('name')}"
        return PodProblem(_unavailable(pod), _text(f"Pod {name} can't start {container}: {detail or reason}", advice))
    return None


def _find_problem_beside(pod: Json, status: Json) -> PodProblem | None:
    """Why a container that isn't Easel's keeps the pod from being ready; one that is done has no trouble any more."""
    if status.get("ready"):
        return None
    ended: Json | None = status.get("lastState", {}).get("terminated")
    is_looping = (status.get("state", {}).get("waiting") or {}).get("reason") == "CrashLoopBackOff"
    if not is_looping or ended is None:
        return _find_start_problem(pod, status)
    name, container, code = pod["metadata"]["name"], status.get("name"), ended.get("exitCode")
    said = str(ended.get("message") or ended.get("reason") or "it left no message").strip()
    component = pod["metadata"].get("labels", {}).get(names.LABEL_COMPONENT, "")
    advice = (
        f"see kubectl logs {name} -c {container}, and correct spec.{component}.podTemplate, the installation's default "
        "of it, or what injects the container"
    )
    what = f"Container {container} of pod {name}, which isn't Easel's, keeps ending (exit code {code}): {said}"
    return PodProblem(Reason.CRASH_LOOP, _text(what, advice))


def _find_crash(pod: Json, server: Json, now: datetime) -> PodProblem | None:
    ended: Json | None = server.get("state", {}).get("terminated") or server.get("lastState", {}).get("terminated")
    if ended is None or not _is_crash_current(server, ended, now):
        return None
    name, code = pod["metadata"]["name"], ended.get("exitCode")
    said = str(ended.get("message") or ended.get("reason") or "it left no message").strip()
    if code == names.EXIT_MODEL_LOAD_FAILED:
        return PodProblem(
            Reason.MODEL_LOAD_FAILED,
            _text(f"Pod {name} can't load the model: {said}", "correct spec.model, its Secret or its volume"),
        )
    if code == names.EXIT_ENGINE_FAILED:
        advice = (
            f"it starts anew, no job is lost; if it happens again, look at its node's GPU and kubectl logs {name} -p"
        )
        return PodProblem(Reason.ENGINE_FAILED, _text(f"Pod {name} ended: {said}", advice))
    if ended.get("reason") == "OOMKilled":
        component = pod["metadata"].get("labels", {}).get(names.LABEL_COMPONENT, "")
        advice = f"raise spec.{component}.resources.limits.memory"
        return PodProblem(Reason.CRASH_LOOP, _text(f"Pod {name} runs out of memory (OOMKilled)", advice))
    return PodProblem(
        Reason.CRASH_LOOP,
        _text(f"Pod {name} keeps ending (exit code {code}): {said}", f"see kubectl logs {name}"),
    )


def _is_crash_current(server: Json, ended: Json, now: datetime) -> bool:
    """Whether a past end of the container still says something about it."""
    restarts: int = server.get("restartCount", 0)
    is_loop = restarts >= CRASH_LOOP_RESTARTS
    if ended.get("exitCode", 0) == 0 and not is_loop:
        return False
    if ended.get("exitCode") == names.EXIT_MODEL_LOAD_FAILED:
        return not server.get("ready")  # a pod that is ready has loaded it after all
    if ended.get("exitCode") == names.EXIT_ENGINE_FAILED and not server.get("ready"):
        return True  # loading takes minutes: a single end says why there is a worker less
    if not server.get("ready"):
        # Whether it waits for its next start or has just begun it: the condition mustn't flap. A single end is left to
        # the kubelet, which starts the container again at once; a second one is a loop.
        return restarts >= SECOND_END_RESTARTS or bool(server.get("state", {}).get("waiting"))
    if not is_loop or not ended.get("finishedAt"):
        return False
    return now - datetime.fromisoformat(str(ended["finishedAt"])) < CRASH_LOOP_MEMORY


def _unavailable(pod: Json) -> Reason:
    is_worker = pod["metadata"].get("labels", {}).get(names.LABEL_COMPONENT) == names.COMPONENT_WORKER
    return Reason.WORKERS_UNAVAILABLE if is_worker else Reason.GATEWAY_UNAVAILABLE


def _text(what: str, advice: str) -> str:
    """What happened, shortened, and always what to do."""
    return f"{what.rstrip('. ')[:MAX_MESSAGE_CHARACTERS]}; {advice}"
