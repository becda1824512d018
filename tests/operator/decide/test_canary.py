"""A new revision of workers is tried on a share of them: step by step, until it is promoted, goes back or is held."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from easel_contract import names
from easel_contract.resource import CanarySpec
from easel_operator.decide.reconcile import decide
from easel_operator.decide.rollouts.canary import count_workers
from easel_operator.decide.rollouts.judge import Figures
from easel_operator.decide.rollouts.record import read_record
from easel_operator.decide.rollouts.tally import StepKey, Tally
from easel_operator.decide.snapshot import Snapshot, Stage
from easel_operator.manifests.metadata import hash_json, read_revision, read_worker_file
from easel_operator.objects import Json, ObjectKey

from tests.operator.decide.test_conditions import crashed, find
from tests.operator.decide.test_rollouts import begin, carry_out, edit, find_deployment, roll, settle_all, stamp
from tests.operator.decide.test_waves import NEWER, WORKERS, image_of, upgrade
from tests.operator.objects import HUB_MODEL, RELEASE, build_pod, build_unschedulable_pod

CANARY: dict[str, Any] = {"canary": {"steps": [10, 50], "minJobs": 50, "maxStepSeconds": 600}}
ROLLOUT: dict[str, Any] = {"rollout": CANARY}
CHANGE: dict[str, Any] = {"worker": {"engine": {"compile": "On"}}}  # another revision of the same model


ENDING = '"outcome":"Running","said":""}'  # of a canary's record


def figures(jobs: int, failures: int = 0, *, bucket: int = 15) -> Figures:
    """So many jobs, of which so many failed; the others took about as long as the bucket says."""
    durations = tuple(jobs - failures if number == bucket else 0 for number in range(41))
    return Figures(jobs, failures, durations)


def try_new(workers: int = 10, **spec: Any) -> Snapshot:
    """A service that has begun to try a new revision."""
    return carry_out(edit(begin(workers, **{**ROLLOUT, **spec}), **CHANGE))


def bring_up(snapshot: Snapshot, *, old: int = 10, new: int = 1, pod: Json | None = None) -> Snapshot:
    """The Deployment controller has made the canary's pods, and stops there."""
    ready = old if pod is not None else old + new
    return roll(snapshot, "worker", old=old, new=new, ready=ready, pod=pod or build_pod("worker"))


def see(snapshot: Snapshot, canary: Figures, stable: Figures, *, after_seconds: int = 60) -> Snapshot:
    """The workers have done so much in the step that is on."""
    live = find_deployment(snapshot, "worker")
    record = read_record(live)
    assert record is not None
    tally = Tally(StepKey(read_revision(live), record.step), canary, stable)
    return replace(snapshot, tally=tally, now=snapshot.now + timedelta(seconds=after_seconds))


def rolling(snapshot: Snapshot) -> tuple[int, int]:
    """maxSurge and maxUnavailable of the worker Deployment."""
    strategy = find_deployment(snapshot, "worker")["spec"]["strategy"]["rollingUpdate"]
    return strategy["maxSurge"], strategy["maxUnavailable"]


def is_on_trial(snapshot: Snapshot) -> bool:
    """Whether the Deployment controller stops at a share."""
    return "minReadySeconds" in find_deployment(snapshot, "worker")["spec"]


def config(snapshot: Snapshot) -> dict[str, str]:
    """The files of the service's ConfigMap."""
    files: dict[str, str] = snapshot.children[ObjectKey("ConfigMap", "studio", "painter-config")]["data"]
    return files


def test_a_change_of_workers_begins_on_a_share_of_them_and_stops_there() -> None:
    before = begin(10, **ROLLOUT)
    begun = try_new()
    live = find_deployment(begun, "worker")
    assert read_revision(live) != read_revision(find_deployment(before, "worker"))
    assert live["spec"]["minReadySeconds"] < live["spec"]["progressDeadlineSeconds"], "the API server asks for it"
    assert rolling(begun) == (1, 0), "one more worker of the new revision, none of the stable one less"
    under_way = carry_out(bring_up(begun))
    assert decide(under_way).applies == (), "nothing more is written until it was judged"
    status = under_way.service["status"]
    assert (status["canary"]["phase"], status["canary"]["step"], status["canary"]["percent"]) == ("Running", 1, 10)
    progressing = find(decide(bring_up(begun)), "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("True", "CanaryRunning")


def test_gateways_and_the_stable_workers_keep_their_configuration_while_the_new_ones_have_theirs() -> None:
    before = begin(10, **ROLLOUT)
    begun = try_new()
    assert config(begun)["gateway.json"] == config(before)["gateway.json"]
    assert config(begun)["worker.json"] == config(before)["worker.json"]
    assert '"compile": "On"' in config(begun)["worker-b.json"]
    assert read_worker_file(find_deployment(begun, "worker")) == "worker-b.json"


def test_a_good_revision_goes_from_step_to_step_and_is_promoted_with_its_figures_in_an_event() -> None:
    first = carry_out(bring_up(try_new()))
    seen = see(first, figures(50), figures(450, 1))
    second = carry_out(seen)
    assert rolling(second) == (1, 5), "six of eleven: one more, and five of the others end"
    plan = decide(replace(second, service=first.service))
    assert [event.reason for event in plan.events] == ["CanaryStep"]
    assert "50 jobs" in plan.events[0].note
    more = see(carry_out(bring_up(second, old=5, new=6)), figures(50), figures(50))
    promoted = carry_out(more)
    assert not is_on_trial(promoted)
    assert rolling(promoted) == (1, 0)
    assert read_revision(find_deployment(promoted, "worker")) == read_revision(find_deployment(second, "worker"))
    assert "canary" not in promoted.service["status"]
    events = decide(replace(promoted, service=more.service)).events
    assert [event.reason for event in events] == ["CanaryPromoted"]
    assert "0 of 50 jobs (0.0 %) failed on the new revision" in events[0].note
    done = carry_out(settle_all(replace(promoted, tally=None)))
    assert decide(done).applies == (), "and that is all"
    assert '"compile": "On"' in config(done)["worker-b.json"]


def test_a_step_waits_for_enough_jobs_and_ends_after_its_time_without_them() -> None:
    first = carry_out(bring_up(try_new()))
    assert decide(see(first, figures(49), figures(450))).applies == ()
    quiet = see(first, figures(0), figures(0), after_seconds=601)
    assert rolling(carry_out(quiet)) == (1, 5)
    looked = decide(see(first, figures(0), figures(0))).look_again_at
    assert looked == first.now + timedelta(seconds=600)


def test_a_step_goes_on_after_its_time_while_the_new_workers_end_no_job_and_says_so() -> None:
    first = carry_out(bring_up(try_new()))
    hanging = carry_out(see(first, figures(0), figures(5000), after_seconds=601))
    assert rolling(hanging) == (1, 0), "no evidence, no promotion"
    assert "goes on: none of its jobs has ended" in hanging.service["status"]["canary"]["message"]
    assert decide(hanging).applies == ()
    second = carry_out(see(hanging, figures(1), figures(5100)))
    assert rolling(second) == (1, 5)
    assert "goes on" not in second.service["status"]["canary"]["message"]


def test_a_revision_whose_jobs_fail_beside_one_that_counts_nothing_goes_back_when_its_time_is_up() -> None:
    first = carry_out(bring_up(try_new()))
    assert is_on_trial(carry_out(see(first, figures(500, 500), figures(0))))
    assert not is_on_trial(carry_out(see(first, figures(500, 500), figures(0), after_seconds=601)))


def test_a_revision_whose_jobs_fail_goes_back_with_its_figures_in_the_condition_and_an_event() -> None:
    stable = read_revision(find_deployment(begin(10, **ROLLOUT), "worker"))
    first = carry_out(bring_up(try_new()))
    failing = see(first, figures(50, 12), figures(450, 2))
    back = carry_out(failing)
    live = find_deployment(back, "worker")
    assert read_revision(live) == stable
    assert not is_on_trial(back)
    assert rolling(back) == (0, 1), "the one that failed ends at once"
    plan = decide(replace(back, service=first.service))
    progressing = find(plan, "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("False", "RolledBack")
    assert "12 of 50 jobs (24.0 %) failed on the new revision, 2 of 450 jobs (0.4 %)" in progressing["message"]
    assert [event.note for event in plan.events if event.reason == "RolledBack"] == [progressing["message"]]
    second = carry_out(bring_up(carry_out(see(first, figures(50), figures(450))), old=5, new=6))
    assert rolling(carry_out(see(second, figures(50, 20), figures(50)))) == (0, 6), "all of them at once"
    again = carry_out(replace(settle_all(back), tally=None))
    assert decide(again).applies == ()
    assert find(decide(replace(again, service=first.service)), "Progressing")["message"] == progressing["message"]
    assert "canary" not in again.service["status"]


def test_a_revision_that_is_slower_goes_back() -> None:
    first = carry_out(bring_up(try_new()))
    back = carry_out(see(first, figures(50, bucket=19), figures(450)))
    assert not is_on_trial(back)
    assert "jobs take longer by" in find(decide(replace(back, service=first.service)), "Progressing")["message"]


def test_one_that_is_clearly_broken_goes_back_before_its_step_is_over() -> None:
    first = carry_out(bring_up(try_new()))
    assert is_on_trial(carry_out(see(first, figures(3, 3), figures(27))))
    assert not is_on_trial(carry_out(see(first, figures(8, 8), figures(72))))


def test_a_service_that_is_to_hold_stays_at_its_step_and_says_so() -> None:
    first = carry_out(bring_up(try_new(rollout={**CANARY, "onFailure": "Hold"})))
    held = carry_out(see(first, figures(50, 12), figures(450, 2)))
    assert is_on_trial(held)
    assert rolling(held) == (1, 0)
    later = carry_out(see(held, figures(50), figures(450)))
    plan = decide(replace(later, tally=None))
    assert plan.applies == ()
    progressing = find(plan, "Progressing") if plan.status_patch else None
    said = {each["type"]: each for each in later.service["status"]["conditions"]}
    assert progressing is None
    assert (said["Progressing"]["status"], said["Progressing"]["reason"]) == ("False", "CanaryFailed")
    assert "12 of 50 jobs" in said["Progressing"]["message"]
    assert said["Stalled"]["status"] == "True"
    assert later.service["status"]["canary"]["phase"] == "Held"
    back = carry_out(edit(later, rollout=CANARY))
    assert not is_on_trial(back), "and goes back when it may"
    promoted = carry_out(edit(later, rollout={"onFailure": "Hold"}))
    assert not is_on_trial(promoted)
    assert read_revision(find_deployment(promoted, "worker")) == read_revision(find_deployment(held, "worker")), (
        "without a canary it is an ordinary roll-out"
    )
    assert read_record(find_deployment(promoted, "worker")) is None
    settled = carry_out(settle_all(promoted))
    runs = find_deployment(settled, "worker")["metadata"]["annotations"][names.ANNOTATION_RUNS]
    next_one = find_deployment(carry_out(edit(settled, worker={"engine": {"offload": "Group"}})), "worker")
    assert next_one["metadata"]["annotations"][names.ANNOTATION_LAST_GOOD] == runs, "and good like any other"


def test_workers_that_never_come_up_fail_the_canary_after_their_time_and_those_without_a_node_do_not() -> None:
    begun = try_new(rollout={**CANARY, "deadlineSeconds": 300})
    starting = {
        **crashed(1, "no CUDA"),
        "metadata": {**crashed(1)["metadata"], "creationTimestamp": "2026-11-23T12:00:00Z"},
    }
    broken = carry_out(bring_up(begun, pod=starting))
    assert is_on_trial(carry_out(see(broken, figures(0), figures(100), after_seconds=200)))
    back = carry_out(see(broken, figures(0), figures(100), after_seconds=400))
    assert not is_on_trial(back)
    assert "no CUDA" in find(decide(replace(back, service=broken.service)), "Progressing")["message"]
    homeless = carry_out(bring_up(begun, pod=build_unschedulable_pod("w-new")))
    waiting = carry_out(see(homeless, figures(0), figures(100), after_seconds=4000))
    assert is_on_trial(waiting)
    assert rolling(waiting) == (0, 1), "and it goes on in place"
    assert "goes on: no worker of it is ready" in waiting.service["status"]["canary"]["message"]


def test_where_no_gpu_is_spare_the_share_is_taken_from_the_stable_workers() -> None:
    begun = try_new(rollout={**CANARY, "surge": "Never"})
    assert rolling(begun) == (0, 1)
    second = carry_out(see(carry_out(bring_up(begun, old=9)), figures(50), figures(450)))
    assert rolling(second) == (0, 5)


def test_a_service_with_one_worker_tries_the_new_one_beside_it_or_not_at_all() -> None:
    assert rolling(try_new(1)) == (1, 0)
    homeless = carry_out(bring_up(try_new(1), old=1, pod=build_unschedulable_pod("w-new")))
    assert rolling(homeless) == (1, 0), "in place, none would be left to compare with"
    volume = {"source": {"persistentVolumeClaim": {"claimName": "weights"}}}
    alone = carry_out(edit(begin(1, **ROLLOUT, model=volume), **CHANGE))
    assert read_record(find_deployment(alone, "worker")) is None
    status = alone.service["status"]["canary"]
    assert status["phase"] == "Waiting"
    assert "one worker" in status["message"]


def test_a_service_that_sleeps_waits_and_one_that_falls_asleep_begins_anew() -> None:
    asleep = begin(2, **ROLLOUT)
    live = find_deployment(asleep, "worker")
    empty = {**live, "spec": {**live["spec"], "replicas": 0}}
    spec = {**asleep.service["spec"], "scaling": {"minReplicas": 0, "maxReplicas": 4}}
    del spec["replicas"]
    service = {**asleep.service, "spec": spec}
    gateways = tuple(pod for pod in asleep.pods if "gateway" in pod["metadata"]["labels"].values())
    asleep = replace(asleep, service=service, pods=gateways, children={**asleep.children, WORKERS: empty})
    waiting = carry_out(edit(asleep, **CHANGE))
    assert read_revision(find_deployment(waiting, "worker")) == read_revision(live)
    assert waiting.service["status"]["canary"]["phase"] == "Waiting"
    assert "sleeps" in waiting.service["status"]["canary"]["message"]
    awake = {**find_deployment(waiting, "worker")}
    awake["spec"] = {**awake["spec"], "replicas": 2}
    pods = begin(2, **ROLLOUT).pods
    begun = carry_out(replace(waiting, pods=pods, children={**waiting.children, WORKERS: awake}))
    assert is_on_trial(begun)
    trial = find_deployment(begun, "worker")
    slept = {**trial, "spec": {**trial["spec"], "replicas": 0}}
    again = carry_out(replace(begun, pods=gateways, children={**begun.children, WORKERS: slept}))
    assert read_revision(find_deployment(again, "worker")) == read_revision(live), "nothing unjudged wakes up"
    assert again.service["status"]["canary"]["phase"] == "Waiting"


def test_an_edit_that_is_to_mend_broken_workers_waits_for_none_of_them() -> None:
    def with_workers(*pods: Json) -> Snapshot:
        running = begin(2, **ROLLOUT)
        others = tuple(pod for pod in running.pods if "gateway" in pod["metadata"]["labels"].values())
        live = find_deployment(running, "worker")
        return edit(replace(running, pods=(*others, *(stamp(pod, live) for pod in pods))), **CHANGE)

    broken, starting = crashed(5, "no CUDA"), build_pod("worker", "w-1", is_ready=False)
    mended = carry_out(with_workers(broken))
    assert not is_on_trial(mended)
    assert '"compile": "On"' in config(mended)["worker.json"]
    waiting = carry_out(with_workers(broken, starting))
    assert waiting.service["status"]["canary"]["phase"] == "Waiting", "one of them may come up"
    assert '"compile": "On"' not in config(waiting)["worker.json"]


def test_the_share_follows_the_number_of_workers() -> None:
    first = carry_out(bring_up(try_new()))
    more = carry_out(edit(first, replicas=30))
    assert rolling(more) == (1, 2), "three of thirty-one"
    assert [count_workers(count, 10, is_surging=False) for count in (2, 10, 14, 15, 40)] == [1, 1, 1, 2, 4]
    assert [count_workers(count, 99, is_surging=False) for count in (2, 3)] == [1, 2], "never all"


def test_another_model_is_no_matter_for_a_canary_and_the_service_says_why() -> None:
    changed = carry_out(edit(begin(3, **ROLLOUT), model={**HUB_MODEL, "dtype": "Float32"}))
    assert not is_on_trial(changed)
    rolled = roll(changed, "worker", old=2, new=1, ready=2, pod=build_pod("worker", is_ready=False))
    progressing = find(decide(rolled), "Progressing")
    assert progressing["reason"] == "RollingOut"
    assert "no canary of another model" in progressing["message"]


def test_another_cache_is_made_and_filled_first_so_no_canary_waits_for_its_claim() -> None:
    changed = edit(begin(3, **ROLLOUT), model={**HUB_MODEL, "cache": {"size": "50Gi"}})
    kinds = {child["kind"] for child in decide(changed).applies}
    assert kinds >= {"PersistentVolumeClaim", "Job"}
    assert "Deployment" not in kinds, "workers follow when it is filled"
    assert not is_on_trial(carry_out(changed))


def test_another_edit_on_trial_is_tried_against_the_stable_revision_from_the_first_step() -> None:
    before = begin(10, **ROLLOUT)
    second = carry_out(see(carry_out(bring_up(try_new())), figures(50), figures(450)))
    other = carry_out(edit(second, worker={"engine": {"offload": "Group"}}))
    record = read_record(find_deployment(other, "worker"))
    assert record is not None
    assert record.step == 1
    assert config(other)["worker.json"] == config(before)["worker.json"]
    assert '"offload": "Group"' in config(other)["worker-b.json"]
    annotations = find_deployment(other, "worker")["metadata"]["annotations"]
    stable = find_deployment(before, "worker")["metadata"]["annotations"]
    assert annotations[names.ANNOTATION_LAST_GOOD] == stable[names.ANNOTATION_RUNS], "not the one that was on trial"


def test_taking_the_edit_back_ends_the_canary() -> None:
    first = carry_out(bring_up(try_new(10)))
    undone = carry_out(edit(first, worker={}))
    assert read_revision(find_deployment(undone, "worker")) == read_revision(find_deployment(begin(10), "worker"))
    assert not is_on_trial(undone)
    assert "canary" not in undone.service["status"]


def test_a_restarted_operator_goes_on_with_the_figures_that_were_written_down() -> None:
    first = carry_out(bring_up(try_new()))
    counted = carry_out(see(first, figures(40), figures(360)))
    assert counted.service["status"]["canary"]["canary"]["jobs"] == 40
    restarted = replace(counted, tally=None, now=counted.now + timedelta(seconds=60))
    plan = decide(restarted)
    assert (plan.applies, plan.status_patch) == ((), None)
    late = replace(restarted, now=counted.now + timedelta(seconds=600))
    assert "of 40 jobs" in str(carry_out(late).children[WORKERS]["metadata"]["annotations"])


def test_figures_are_written_down_now_and_then_and_not_for_each_job() -> None:
    first = carry_out(see(carry_out(bring_up(try_new())), figures(10), figures(90)))
    assert decide(see(first, figures(11), figures(95), after_seconds=5)).status_patch is None
    assert decide(see(first, figures(11), figures(95), after_seconds=31)).status_patch is not None


def test_a_release_is_tried_as_an_edit_is_and_keeps_its_turn_meanwhile() -> None:
    waiting = carry_out(upgrade(begin(10, **ROLLOUT)))
    assert decide(waiting).standing.stage is Stage.WAITING
    begun = carry_out(replace(waiting, has_turn=True))
    assert is_on_trial(begun)
    assert image_of(find_deployment(begun, "worker")) == NEWER.worker_image
    assert image_of(find_deployment(begun, "gateway")) == RELEASE.gateway_image
    first = carry_out(replace(bring_up(begun), has_turn=False))
    assert decide(first).standing.stage is Stage.MOVING
    live = find_deployment(first, "worker")
    slept = edit(first, scaling={"maxReplicas": 10})
    del slept.service["spec"]["replicas"]
    slept = replace(slept, children={**slept.children, WORKERS: {**live, "spec": {**live["spec"], "replicas": 0}}})
    assert image_of(find_deployment(carry_out(slept), "worker")) == RELEASE.worker_image, "it has to wait again"
    back = carry_out(see(first, figures(50, 12), figures(450, 2)))
    assert decide(back).standing.stage is Stage.FAILED
    assert image_of(find_deployment(back, "worker")) == RELEASE.worker_image


def test_a_release_waits_for_a_service_that_has_nothing_to_compare_it_with_and_keeps_no_turn() -> None:
    volume = {"source": {"persistentVolumeClaim": {"claimName": "weights"}}}
    waiting = carry_out(upgrade(begin(1, **ROLLOUT, model=volume), has_turn=True))
    assert image_of(find_deployment(waiting, "worker")) == RELEASE.worker_image
    assert decide(waiting).standing.stage is Stage.HELD
    assert waiting.service["status"]["rollout"]["hold"] == "Canary"


def test_workers_follow_another_redis_at_once_and_the_canary_begins_anew_after_it() -> None:
    first = carry_out(bring_up(try_new()))
    moved = carry_out(upgrade(first, replace(RELEASE, redis_url="redis://other.easel.svc:6379/0")))
    assert not is_on_trial(moved)
    assert '"compile"' not in config(moved)[read_worker_file(find_deployment(moved, "worker"))]
    assert moved.service["status"]["canary"]["phase"] == "Waiting"
    after = carry_out(settle_all(moved))
    assert is_on_trial(carry_out(after))


@pytest.mark.parametrize("steps", [[], [50, 10], [10, 10], [0], [100]])
def test_steps_that_make_no_sense_are_refused(steps: list[int]) -> None:
    with pytest.raises(ValueError, match="steps"):
        CanarySpec.model_validate({"steps": steps})


def test_a_canary_that_could_never_have_a_worker_beside_it_is_refused() -> None:
    spec = {"model": HUB_MODEL, "replicas": 1, "rollout": {"canary": {}, "surge": "Never"}}
    snapshot = edit(begin(1), **spec)
    progressing = find(decide(snapshot), "Progressing")
    assert progressing["reason"] == "InvalidSpec"
    assert "allow two workers" in progressing["message"]


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (names.ANNOTATION_RUNS, "{"),
        (names.ANNOTATION_LAST_GOOD, "{"),
        (names.ANNOTATION_LAST_GOOD, '{"spec":[],"image":"x","pullPolicy":null}'),
        (names.ANNOTATION_RELEASE, "newest"),
        (names.ANNOTATION_TO_REVISION, "three"),
        (names.ANNOTATION_CANARY, '{"digest":"DIGEST","stable":"","step":0,"since":"2026-11-23T12:00:00Z",' + ENDING),
        (
            names.ANNOTATION_CANARY,
            '{"digest":"DIGEST","stable":"","step":1e999,"since":"2026-11-23T12:00:00Z",' + ENDING,
        ),
        (names.ANNOTATION_CANARY, '{"digest":"DIGEST","stable":"","step":1,"since":"2026-11-23T12:00:00",' + ENDING),
    ],
)
def test_what_somebody_else_writes_into_a_deployments_annotations_stops_no_service(annotation: str, value: str) -> None:
    for snapshot in (begin(10, **ROLLOUT), carry_out(bring_up(try_new()))):
        live = find_deployment(snapshot, "worker")
        known = live["metadata"]["annotations"]
        written = value.replace("DIGEST", hash_json(known[names.ANNOTATION_RUNS]))
        spoilt = {**live, "metadata": {**live["metadata"], "annotations": {**known, annotation: written}}}
        found = replace(snapshot, children={**snapshot.children, WORKERS: spoilt})
        decide(replace(found, has_turn=False))
        changed = carry_out(edit(found, worker={"nodeSelector": {"disk": "fast"}}, rollout={}))
        assert "disk" in json.dumps(find_deployment(changed, "worker")["spec"]["template"])
