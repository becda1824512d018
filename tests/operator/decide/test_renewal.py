"""Which gateways hear that their configuration has changed, so that none takes jobs for a model of before."""

from dataclasses import replace

import pytest
from easel_contract import names
from easel_operator.decide.reconcile import decide
from easel_operator.decide.snapshot import ReconcilePlan, Snapshot
from easel_operator.manifests.metadata import hash_json
from easel_operator.objects import Json, ObjectKey

from tests.operator.objects import OWNER, build_pod, build_service, build_snapshot, index

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
    return hash_json(snapshot.children[CONFIG]["data"][names.CONFIG_KEY_GATEWAY])


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
