"""What kubectl describe says of add-ons that requests can't have."""

from dataclasses import replace
from typing import Any

from easel_contract import names
from easel_contract.resource import StableDiffusionServiceSpec
from easel_operator.autoscaling.observation import PodMetrics, PodSample
from easel_operator.decide.pod_status import read_pods
from easel_operator.decide.reconcile import decide
from easel_operator.decide.scaling import find_add_on_problems
from easel_operator.decide.snapshot import ReconcilePlan, ScrapeReport
from easel_operator.manifests.configuration import build_add_ons
from easel_operator.objects import Json, find_condition

from tests.operator.decide.test_conditions import GATEWAY, WORKER, build_running
from tests.operator.objects import HUB_MODEL, NOW, build_pod, build_service

VOLUME = {"persistentVolumeClaim": {"claimName": "loras", "path": "ink.safetensors"}}
SPEC: Json = {
    "model": HUB_MODEL,
    "replicas": 1,
    "adapters": [{"name": "ink", "source": VOLUME}],
    "controlNets": [{"name": "canny", "source": {"huggingFace": {"repository": "someone/canny"}}}],
}
WHY = "ink (/add-ons/loras) has no ink.safetensors; correct its path"


def key_of(spec: Json, name: str = "ink") -> str:
    """As workers report it."""

    add_ons = build_add_ons(StableDiffusionServiceSpec.model_validate(spec))
    return next(each.key for each in (*add_ons.adapters, *add_ons.control_nets) if each.name == name)


def decided(spec: Json, problems: dict[str, str] | None, **status: Any) -> ReconcilePlan:
    snapshot = build_running(build_service(spec, **status), GATEWAY, WORKER)
    return decide(replace(snapshot, scrape=ScrapeReport(is_broker_up=True, add_on_problems=problems)))


def condition_in(plan: ReconcilePlan, kind: str = "AddOnsAvailable") -> Json | None:
    assert plan.status_patch is not None
    return find_condition(plan.status_patch, kind)


def test_a_missing_file_is_named_with_its_reason_and_an_event_and_the_service_stays_ready() -> None:
    plan = decided(SPEC, {key_of(SPEC): WHY})
    said, ready = condition_in(plan), condition_in(plan, "Ready")
    assert said is not None
    assert ready is not None
    assert (said["status"], said["reason"]) == ("False", "AddOnUnavailable")
    assert said["message"].startswith(f"Requests that ask for 1 of 2 add-ons fail, others don't: adapter {WHY}. ")
    assert ready["status"] == "True"
    [event] = [each for each in plan.events if each.reason == "AddOnUnavailable"]
    assert event.type == "Warning"


def test_add_ons_that_no_worker_found_fault_with_are_available() -> None:
    said = condition_in(decided(SPEC, {}))
    assert said is not None
    assert (said["status"], said["reason"]) == ("True", "Available")


def test_a_service_without_add_ons_has_no_such_condition() -> None:
    assert condition_in(decided({"model": HUB_MODEL, "replicas": 1}, {})) is None


def test_a_source_that_was_corrected_isnt_blamed_for_what_workers_said_of_the_one_before() -> None:
    corrected = {"persistentVolumeClaim": {"claimName": "loras", "path": "ink-v2.safetensors"}}
    spec = {**SPEC, "adapters": [{"name": "ink", "source": corrected}]}
    said = condition_in(decided(spec, {key_of(SPEC): WHY}))
    assert said is not None
    assert said["status"] == "True"


def test_one_that_many_are_missing_names_the_first_and_counts_the_rest() -> None:
    adapters = [{"name": f"style-{number}", "source": {}} for number in range(20)]
    for number, each in enumerate(adapters):
        each["source"] = {"persistentVolumeClaim": {"claimName": "loras", "path": f"{number}.safetensors"}}
    spec = {**SPEC, "adapters": adapters}
    problems = {key_of(spec, f"style-{number}"): f"style-{number} isn't there" for number in range(20)}
    said = condition_in(decided(spec, problems))
    assert said is not None
    assert "Requests that ask for 20 of 21 add-ons fail" in said["message"]
    assert "adapter style-7 isn't there; and 12 more. " in said["message"]


def test_an_operator_that_has_just_started_keeps_what_was_said() -> None:
    condition = {
        "type": "AddOnsAvailable",
        "status": "False",
        "reason": "AddOnUnavailable",
        "message": "as before",
        "lastTransitionTime": "2026-11-23T11:00:00Z",
        "observedGeneration": 3,
    }
    said = condition_in(decided(SPEC, None, conditions=[condition]))
    assert said == condition
    fresh = condition_in(decided(SPEC, None))
    assert fresh is not None
    assert fresh["status"] == "Unknown"


def test_only_ready_workers_are_believed_and_sleeping_ones_mend_nothing() -> None:
    pods = [build_pod(names.COMPONENT_WORKER, "a"), build_pod(names.COMPONENT_WORKER, "b", is_ready=False)]
    workers = read_pods(pods, names.COMPONENT_WORKER, NOW)

    def sample(pod: str, **problems: str) -> PodSample:
        return PodSample(pod, names.COMPONENT_WORKER, NOW, PodMetrics(add_on_problems=problems))

    assert find_add_on_problems(workers, [sample("a", ink="gone"), sample("b")], None) == {"ink": "gone"}
    assert find_add_on_problems(workers, [sample("b")], {"ink": "gone"}) == {"ink": "gone"}
    assert find_add_on_problems((), [], {"ink": "gone"}) == {"ink": "gone"}
    assert find_add_on_problems(workers, [sample("a"), sample("b", ink="gone")], {"ink": "gone"}) == {}
