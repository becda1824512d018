"""A revision that never becomes ready within its time: the service runs again what it ran before, says so, and stays
there until something changes."""

import json
from dataclasses import replace
from typing import Any

import pytest
from easel_contract import names
from easel_operator.decide.reconcile import decide
from easel_operator.decide.snapshot import Snapshot, Stage
from easel_operator.objects import Json, ObjectKey

from tests.operator.decide.test_conditions import crashed, find
from tests.operator.decide.test_rollouts import MISSING_MODEL, begin, carry_out, edit, find_deployment, roll, stamp
from tests.operator.decide.test_waves import NEWER, WORKERS, image_of, upgrade, written
from tests.operator.objects import HUB_MODEL, RELEASE, build_pod, build_unschedulable_pod, settle

OLD = "stabilityai/sdxl-turbo"
NEW = "stabilityai/no-such-model"


def overdue(snapshot: Snapshot, pod: Json, *, old: int = 2) -> Snapshot:
    """After the worker Deployment's deadline, with a new pod that is like ``pod``."""
    begun = carry_out(roll(snapshot, "worker", old=old, new=1, ready=old, pod=pod))
    live = find_deployment(begun, "worker")
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}
    status = {**live["status"], "observedGeneration": live["metadata"]["generation"], "conditions": [late]}
    return replace(begun, children={**begun.children, WORKERS: {**live, "status": status}})


def served_model(snapshot: Snapshot) -> str:
    """The model that gateways are told of."""
    return str(snapshot.children[ObjectKey("ConfigMap", "studio", "painter-config")]["data"]["gateway.json"])


def fail(**spec: Any) -> Snapshot:
    """A service with an edit whose worker crashes, after its time."""
    return overdue(carry_out(edit(begin(), model=MISSING_MODEL, **spec)), crashed(1, "no such repository"))


def test_a_model_that_no_worker_loads_in_time_gives_way_to_the_one_before_in_workers_and_gateways() -> None:
    failing = fail()
    assert NEW in served_model(failing)
    after = carry_out(failing)
    template = find_deployment(after, "worker")["spec"]["template"]
    first = failing.service["status"]["revisions"][0]["revision"]
    assert template["metadata"]["annotations"][names.ANNOTATION_REVISION] == first
    assert OLD in served_model(after)
    assert NEW not in served_model(after)


def test_going_back_is_said_in_the_conditions_and_in_an_event_with_what_the_workers_met() -> None:
    failing = fail()
    plan = decide(failing)
    progressing = find(plan, "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "RolledBack")
    assert "no such repository" in progressing["message"]
    assert OLD in progressing["message"]
    assert find(plan, "Stalled")["status"] == "True"
    assert [event.note for event in plan.events if event.reason == "RolledBack"] == [progressing["message"]]


def test_a_service_that_went_back_stays_there_and_a_restarted_operator_writes_nothing() -> None:
    after = carry_out(carry_out(fail()))
    live = find_deployment(after, "worker")
    settled = settle(live, 3)
    settled["metadata"]["generation"] = settled["status"]["observedGeneration"] = live["metadata"]["generation"]
    pods = [stamp(build_pod("worker", f"w-{number}"), live) for number in range(3)]
    gateways = [pod for pod in after.pods if "gateway" in pod["metadata"]["labels"].values()]
    quiet = replace(after, children={**after.children, WORKERS: settled}, pods=(*gateways, *pods))
    for _ in range(3):
        plan = decide(quiet)
        assert (plan.applies, plan.deletes) == ((), ())
        quiet = carry_out(quiet)
    conditions = {each["type"]: each for each in quiet.service["status"]["conditions"]}
    assert conditions["Progressing"]["reason"] == "RolledBack"
    assert "no such repository" in conditions["Progressing"]["message"], "though its pods are gone"
    assert conditions["Ready"]["status"] == "True"
    assert decide(quiet).events == ()


def test_another_edit_is_tried_anew() -> None:
    after = carry_out(fail())
    other = {"source": {"huggingFace": {"repository": "someone/another"}}}
    tried = carry_out(edit(after, model=other))
    assert "someone/another" in served_model(tried)
    assert names.ANNOTATION_FAILED not in find_deployment(tried, "worker")["metadata"]["annotations"]
    assert OLD in find_deployment(tried, "worker")["metadata"]["annotations"][names.ANNOTATION_LAST_GOOD]


def test_a_service_that_is_to_hold_goes_on_trying() -> None:
    failing = fail(rollout={"onFailure": "Hold"})
    assert decide(failing).applies == ()
    assert NEW in served_model(carry_out(failing))
    assert "RolledBack" not in str(carry_out(failing).service["status"])


def test_what_went_back_is_tried_again_when_it_is_to_hold() -> None:
    after = carry_out(edit(carry_out(fail()), rollout={"onFailure": "Hold"}))
    assert NEW in served_model(after)


def test_a_worker_that_no_node_has_room_for_is_no_reason_to_go_back() -> None:
    waiting = overdue(carry_out(edit(begin(), model=MISSING_MODEL)), build_unschedulable_pod("w-new"))
    assert decide(waiting).applies == ()


def test_a_slow_start_within_its_time_is_no_reason_to_go_back() -> None:
    begun = carry_out(edit(begin(), model=MISSING_MODEL))
    slow = roll(begun, "worker", old=2, new=1, ready=2, pod=build_pod("worker", is_ready=False))
    assert decide(slow).applies == ()


def test_a_revision_that_a_worker_was_ready_of_is_never_gone_back_from() -> None:
    begun = carry_out(edit(begin(), model={**HUB_MODEL, "dtype": "Float32"}))
    good = carry_out(roll(begun, "worker", old=1, new=2, ready=3, pod=build_pod("worker")))
    failing = overdue(good, crashed(1, "out of memory"), old=1)
    assert decide(failing).applies == ()


def test_a_new_service_has_nothing_to_go_back_to() -> None:
    first = begin(model=MISSING_MODEL)
    never = {**first.service, "status": {**first.service["status"], "revisions": []}}
    failing = overdue(replace(first, service=never), crashed(1, "no such repository"), old=0)
    assert decide(failing).applies == ()


def test_the_time_that_a_start_has_is_the_specs() -> None:
    deployment = written(decide(edit(begin(), rollout={"deadlineSeconds": 300})))["painter-worker"]
    assert deployment["spec"]["progressDeadlineSeconds"] == 300


@pytest.mark.parametrize("has_turn", [False, True])
def test_a_release_that_fails_is_gone_back_from_once_and_its_turn_is_kept_so_that_it_stops_there(
    *, has_turn: bool
) -> None:
    failing = overdue(carry_out(upgrade(begin(), has_turn=True)), crashed(1, "no CUDA"))
    after = carry_out(replace(failing, has_turn=False))
    assert image_of(find_deployment(after, "worker")) == RELEASE.worker_image
    again = replace(carry_out(after), has_turn=has_turn)
    plan = decide(again)
    assert plan.applies == ()
    assert plan.standing.stage is Stage.FAILED
    assert NEWER.worker_image in str(again.service["status"]["conditions"])
    mended = replace(again, release=replace(NEWER, worker_image="registry.example/easel-worker:0.2.1"), has_turn=False)
    assert decide(mended).standing.stage is Stage.WAITING, "the next release is another matter"


def test_pinning_a_service_that_a_release_failed_at_lets_the_others_have_it() -> None:
    failing = overdue(carry_out(upgrade(begin(), has_turn=True)), crashed(1, "no CUDA"))
    pinned = decide(edit(carry_out(replace(failing, has_turn=False)), rollout={"pinned": True}))
    assert pinned.standing.stage is Stage.HELD
    assert pinned.applies == ()


def test_what_is_remembered_can_be_read_by_people() -> None:
    runs = find_deployment(begin(), "worker")["metadata"]["annotations"][names.ANNOTATION_RUNS]
    assert json.loads(runs) == {
        "spec": {"model": HUB_MODEL, "worker": {}},
        "image": RELEASE.worker_image,
        "pullPolicy": None,
        "gateway": {"image": RELEASE.gateway_image, "pullPolicy": None},
    }
