"""What is written, and above all what isn't: idempotence, drift, leftovers, handovers, deletion, bad specs."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from easel_contract import names
from easel_contract.resource import HeadroomStatus
from easel_operator.decide.reconcile import decide
from easel_operator.decide.snapshot import ScalingDecision, ScrapeReport, Snapshot
from easel_operator.objects import Json, ObjectKey, to_object_key

from tests.operator.objects import HUB_MODEL, NOW, OWNER, build_pod, build_service, build_snapshot, index

HEADROOM = HeadroomStatus(margin_percent=75, hold_seconds=12, last_pod_seconds=600, reason="margin 0.75: the cheapest")
FIXED = {"model": HUB_MODEL, "replicas": 3}
WORKER_KEY = ObjectKey("Deployment", OWNER.namespace, "painter-worker")


def converge(snapshot: Snapshot) -> Snapshot:
    """The snapshot after its plan was carried out."""
    plan = decide(snapshot)
    children = {**snapshot.children, **index(*plan.applies)}
    for key in plan.deletes:
        del children[key]
    service = snapshot.service
    if plan.status_patch is not None:
        kept = {key: value for key, value in plan.status_patch["status"].items() if value is not None}
        service = {**service, "status": kept}
    return replace(snapshot, children=children, service=service)


def test_a_recommendation_is_an_event_of_its_own_and_moves_nothing() -> None:
    spec = {"model": HUB_MODEL, "scaling": {"maxReplicas": 8, "mode": "Recommend"}}
    decision = ScalingDecision(4, "4 pods: 38 GPU-seconds queued", NOW, (61,), HEADROOM)
    plan = decide(build_snapshot(build_service(spec), scaling=decision))
    assert [event.note for event in plan.events if event.reason == "ScalingRecommendation"] == [decision.sentence]
    assert "HorizontalPodAutoscaler" not in [child["kind"] for child in plan.applies]
    workers = next(child for child in plan.applies if child["metadata"]["name"] == "painter-worker")
    assert "replicas" not in workers["spec"]
    assert plan.status_patch is not None
    stored = plan.status_patch["status"]["scaling"]
    assert (stored["coldStartsSeconds"], stored["headroom"]) == ([61], HEADROOM.to_wire())
    active = next(each for each in plan.status_patch["status"]["conditions"] if each["type"] == "ScalingActive")
    assert (active["status"], active["reason"]) == ("False", "Recommending")


def test_a_second_look_writes_nothing() -> None:
    settled = converge(converge(build_snapshot(pods=(build_pod(names.COMPONENT_GATEWAY),))))
    later = replace(settled, now=NOW + timedelta(hours=1))
    plan = decide(later)
    assert (plan.applies, plan.deletes, plan.status_patch, plan.events) == ((), (), None, ())


def test_children_come_before_the_pods_that_need_them() -> None:
    kinds = [child["kind"] for child in decide(build_snapshot()).applies]
    assert kinds.index("Secret") < kinds.index("Deployment")
    assert kinds.index("ConfigMap") < kinds.index("Deployment")
    assert kinds.index("ServiceAccount") < kinds.index("Deployment")


def test_only_what_somebody_changed_is_written_again() -> None:
    settled = converge(build_snapshot())
    key = ObjectKey("Service", OWNER.namespace, OWNER.name)
    edited = {**settled.children[key], "spec": {**settled.children[key]["spec"], "selector": {"app": "other"}}}
    plan = decide(replace(settled, children={**settled.children, key: edited}))
    assert [to_object_key(child) for child in plan.applies] == [key]


def test_what_others_add_is_left_alone() -> None:
    settled = converge(build_snapshot())
    live = settled.children[WORKER_KEY]
    sidecar = {"name": "mesh", "image": "mesh:1"}
    template = live["spec"]["template"]
    pod = {**template["spec"], "containers": [*template["spec"]["containers"], sidecar], "dnsPolicy": "ClusterFirst"}
    changed = {**live, "spec": {**live["spec"], "replicas": 7, "template": {**template, "spec": pod}}}
    plan = decide(replace(settled, children={**settled.children, WORKER_KEY: changed}))
    assert plan.applies == ()


def test_a_child_that_is_no_longer_wanted_goes() -> None:
    settled = converge(build_snapshot())
    plan = decide(replace(settled, service=build_service(FIXED)))
    assert plan.deletes == (ObjectKey("HorizontalPodAutoscaler", OWNER.namespace, "painter-worker"),)


def test_another_service_s_child_of_that_name_stays() -> None:
    settled = converge(build_snapshot())
    key = ObjectKey("HorizontalPodAutoscaler", OWNER.namespace, "painter-worker")
    foreign = {**settled.children[key], "metadata": {**settled.children[key]["metadata"], "ownerReferences": []}}
    plan = decide(replace(settled, service=build_service(FIXED), children={**settled.children, key: foreign}))
    assert plan.deletes == ()


def test_replicas_are_handed_over_before_they_are_no_longer_sent() -> None:
    settled = converge(build_snapshot(build_service(FIXED)))
    live = settled.children[WORKER_KEY]
    ours = {"manager": names.FIELD_MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    live = {**live, "metadata": {**live["metadata"], "managedFields": [ours]}}
    plan = decide(replace(settled, service=build_service(), children={**settled.children, WORKER_KEY: live}))
    assert [(handover.key, handover.replicas) for handover in plan.handovers] == [(WORKER_KEY, 3)]


def test_nothing_is_handed_over_that_isn_t_ours() -> None:
    settled = converge(build_snapshot(build_service(FIXED)))
    assert decide(replace(settled, service=build_service())).handovers == ()


def test_a_service_that_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    service = build_service()
    service["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z"
    assert decide(build_snapshot(service)) == type(decide(build_snapshot()))()


def test_a_child_that_is_being_deleted_is_waited_for() -> None:
    settled = converge(build_snapshot())
    live = settled.children[WORKER_KEY]
    ending = {**live, "spec": {}, "metadata": {**live["metadata"], "deletionTimestamp": "2026-11-23T12:00:00Z"}}
    plan = decide(replace(settled, children={**settled.children, WORKER_KEY: ending}))
    assert (plan.applies, plan.deletes) == ((), ())


def test_an_invalid_spec_is_reported_and_nothing_else_is_touched() -> None:
    settled = converge(build_snapshot(pods=(build_pod("gateway"), build_pod("worker"))))
    broken = {**build_service({"model": HUB_MODEL, "replicas": -1}), "status": settled.service["status"]}
    plan = decide(replace(settled, service=broken))
    assert (plan.applies, plan.deletes) == ((), ())
    assert plan.status_patch is not None
    by_kind = {condition["type"]: condition for condition in plan.status_patch["status"]["conditions"]}
    assert (by_kind["Ready"]["status"], by_kind["Ready"]["reason"]) == ("True", "ServingPreviousRevision")
    assert (by_kind["Stalled"]["status"], by_kind["Stalled"]["reason"]) == ("True", "InvalidSpec")
    assert "spec.replicas: Input should be greater than or equal to 0 (value seen: -1)" in by_kind["Ready"]["message"]
    assert by_kind["ModelLoaded"]["reason"] == "Loaded"
    assert [event.reason for event in plan.events] == ["InvalidSpec"]


def test_a_service_that_never_ran_and_has_an_invalid_spec_is_not_ready() -> None:
    plan = decide(build_snapshot(build_service({"model": HUB_MODEL, "replicas": -1})))
    assert plan.status_patch is not None
    ready = plan.status_patch["status"]["conditions"][0]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "False", "InvalidSpec")


def test_a_decision_is_stored_and_reported_once() -> None:
    decision = ScalingDecision(4, "4 pods: 7 requests waiting or running", datetime(2026, 11, 23, 12, tzinfo=UTC))
    settled = converge(build_snapshot())
    plan = decide(replace(settled, scaling=decision))
    assert [event.note for event in plan.events] == ["4 pods: 7 requests waiting or running"]
    reported = converge(replace(settled, scaling=decision))
    assert reported.service["status"]["scaling"]["desiredReplicas"] == 4
    assert decide(reported).events == ()
    after_restart = replace(reported, scaling=None)
    assert decide(after_restart).status_patch is None


@pytest.mark.parametrize(
    "trouble",
    [ScrapeReport(is_broker_up=False, is_data_missing=True), ScrapeReport(is_broker_up=True, is_redis_full=True)],
    ids=["away", "full"],
)
def test_a_restart_is_no_news_while_redis_is_in_trouble(trouble: ScrapeReport) -> None:
    pods = (build_pod("gateway", is_ready=False), build_pod("worker", is_ready=False))
    settled = converge(converge(build_snapshot(pods=pods, scrape=trouble)))
    restarted = decide(replace(settled, scrape=None))
    assert (restarted.status_patch, restarted.events) == (None, ())


def test_a_fixed_service_tells_no_decision_again_and_again() -> None:
    decision = ScalingDecision(4, "4 pods", NOW)
    assert "ScalingDecision" not in [
        event.reason for event in decide(build_snapshot(build_service(FIXED), scaling=decision)).events
    ]


def test_a_fixed_service_forgets_the_last_decision() -> None:
    decided = {"desiredReplicas": 4, "reason": "…", "decidedAt": "2026-11-23T12:00:00Z"}
    service: Json = {**build_service(FIXED), "status": {"scaling": decided}}
    plan = decide(build_snapshot(service))
    assert plan.status_patch is not None
    assert plan.status_patch["status"]["scaling"] is None


def test_an_alarm_is_raised_once_for_all_conditions_that_carry_it() -> None:
    ended: dict[str, Any] = {"exitCode": 78, "message": "no such model"}
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    status = {"name": "server", "ready": False, "restartCount": 1, "state": waiting, "lastState": {"terminated": ended}}
    snapshot = build_snapshot(pods=(build_pod("worker", is_ready=False, containerStatuses=[status]),))
    assert [event.reason for event in decide(snapshot).events] == ["ModelLoadFailed"]
    assert decide(converge(snapshot)).events == ()
