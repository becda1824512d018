"""Which gateways hear that their configuration has changed, so that none takes jobs for a model of before."""

from dataclasses import replace

import pytest
from easel_contract import names
from easel_contract.gateway_config import QueueConfig
from easel_operator.decide.reconcile import decide
from easel_operator.decide.snapshot import ReconcilePlan, ScalingDecision, Snapshot
from easel_operator.manifests.metadata import hash_json
from easel_operator.objects import Json, ObjectKey

from tests.operator.objects import NOW, OWNER, build_pod, build_service, build_snapshot, index

CONFIG = ObjectKey("ConfigMap", OWNER.namespace, "painter-config")
OTHER_MODEL: Json = {
    "model": {"source": {"huggingFace": {"repository": "stabilityai/sd-turbo"}}},
    "scaling": {"minReplicas": 0, "maxReplicas": 8},
}
BEFORE, CHANGED, AFTER = "2026-11-23T11:00:00Z", "2026-11-23T11:59:58Z", "2026-11-23T11:59:59Z"


def build_gateway(created_at: str = BEFORE, live_config: str = "", name: str = "painter-gateway-a") -> Json:
    pod = build_pod(names.COMPONENT_GATEWAY, name)
    pod["metadata"]["creationTimestamp"] = created_at
    pod["metadata"]["annotations"] = {names.ANNOTATION_LIVE_CONFIG: live_config}
    return pod


def write_children(snapshot: Snapshot, changed_at: str = CHANGED) -> Snapshot:
    """The snapshot once its children are written, and when the ConfigMap last was."""
    children = {**snapshot.children, **index(*decide(snapshot).applies)}
    entry = {"manager": names.FIELD_MANAGER, "operation": "Apply", "time": changed_at}
    config = children[CONFIG]
    children[CONFIG] = {**config, "metadata": {**config["metadata"], "managedFields": [entry]}}
    return replace(snapshot, children=children)


def find_hash(snapshot: Snapshot) -> str:
    data = snapshot.children[CONFIG]["data"]
    return hash_json([data[names.CONFIG_KEY_GATEWAY], data[names.CONFIG_KEY_QUEUE]])


def read_queue(snapshot: Snapshot) -> QueueConfig:
    return QueueConfig.model_validate_json(snapshot.children[CONFIG]["data"][names.CONFIG_KEY_QUEUE])


def list_pods(plan: ReconcilePlan) -> list[str]:
    return [renewal.pod for renewal in plan.renewals]


def test_after_an_edit_of_the_model_a_running_gateway_reads_it_at_once() -> None:
    served = write_children(build_snapshot(pods=(build_gateway(),)), BEFORE)
    before = find_hash(served)
    edited = replace(served, service=build_service(OTHER_MODEL))
    assert decide(edited).renewals == (), "its file would be renewed to what it was"
    written = write_children(edited)
    assert list_pods(decide(written)) == ["painter-gateway-a"]
    assert decide(written).renewals[0].config_hash == find_hash(written) != before


def test_after_an_edit_of_the_queues_order_running_gateways_read_it_at_once_and_none_is_rolled() -> None:
    served = write_children(build_snapshot(pods=(build_gateway(),)), BEFORE)
    scaling = {**served.service["spec"]["scaling"], "queueOrder": "FirstComeFirstServed"}
    edited = replace(served, service=build_service({**served.service["spec"], "scaling": scaling}))
    assert [child["kind"] for child in decide(edited).applies] == ["ConfigMap"]
    assert list_pods(decide(write_children(edited))) == ["painter-gateway-a"]


def test_a_measured_cold_start_reaches_gateways_and_the_next_that_is_about_as_long_writes_nothing() -> None:
    def measure(written: Snapshot, *seconds: int) -> Snapshot:
        return replace(written, scaling=ScalingDecision(2, "", NOW, cold_starts_seconds=seconds))

    written = write_children(build_snapshot(pods=(build_gateway(),)))
    assumed = read_queue(written)
    assert assumed.overtaken_seconds == 60 + 2 * 30
    slow = measure(written, 178)
    assert [child["kind"] for child in decide(slow).applies] == ["ConfigMap"]
    known = write_children(slow)
    assert read_queue(known).overtaken_seconds == 180 + 2 * 30
    assert decide(measure(known, 178, 190, 201)).applies == ()
    restarted = replace(known, scaling=None, service=build_service(scaling={"coldStartsSeconds": [178, 190, 201]}))
    assert decide(restarted).applies == (), "a restarted operator knows it by what it has written"
    assert decide(measure(known, 20, 21, 22)).applies != ()


def test_a_file_of_the_queue_that_cannot_be_read_is_written_anew() -> None:
    written = write_children(build_snapshot())
    config = written.children[CONFIG]
    broken = {**config, "data": {**config["data"], names.CONFIG_KEY_QUEUE: '{"targetSeconds": -1'}}
    again = write_children(replace(written, children={**written.children, CONFIG: broken}))
    assert read_queue(again) == read_queue(written)


def test_a_gateway_is_annotated_once() -> None:
    written = write_children(build_snapshot())
    annotated = replace(written, pods=(build_gateway(live_config=find_hash(written)),))
    assert decide(annotated).renewals == ()
    of_another = replace(written, pods=(build_gateway(live_config="0123456789abcdef"),))
    assert list_pods(decide(of_another)) == ["painter-gateway-a"]


@pytest.mark.parametrize(("created_at", "is_annotated"), [(BEFORE, True), (CHANGED, True), (AFTER, False)])
def test_a_gateway_that_began_after_the_change_has_mounted_it(created_at: str, is_annotated: bool) -> None:
    written = write_children(build_snapshot(pods=(build_gateway(created_at),)))
    assert bool(decide(written).renewals) is is_annotated


def test_workers_and_pods_that_end_are_left_alone() -> None:
    worker, ending = build_pod(names.COMPONENT_WORKER), build_gateway()
    worker["metadata"]["creationTimestamp"] = BEFORE
    ending["metadata"]["deletionTimestamp"] = CHANGED
    assert decide(write_children(build_snapshot(pods=(worker, ending)))).renewals == ()


def test_nothing_is_written_where_it_is_not_known_when_the_configuration_changed() -> None:
    written = write_children(build_snapshot(pods=(build_gateway(),)))
    config = written.children[CONFIG]
    silent = {**config, "metadata": {**config["metadata"], "managedFields": []}}
    assert decide(replace(written, children={**written.children, CONFIG: silent})).renewals == ()
