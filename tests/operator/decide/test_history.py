"""``spec.rollout.toRevision``: a service runs again what one of its ten last revisions ran, until it is taken out."""

import json
from dataclasses import replace

from easel_contract import names
from easel_operator.decide.reconcile import decide
from easel_operator.decide.rollouts.history import RevisionQuery, find_runs, read_runs
from easel_operator.decide.snapshot import Snapshot, Stage
from easel_operator.objects import Json

from tests.operator.decide.test_conditions import crashed, find
from tests.operator.decide.test_going_back import NEW, OLD, overdue, served_model
from tests.operator.decide.test_rollouts import MISSING_MODEL, begin, carry_out, edit, find_deployment, settle_all
from tests.operator.decide.test_waves import NEWER, WORKERS, image_of, upgrade, written
from tests.operator.objects import RELEASE

FIRST = begin()


def replica_set(deployment: Json) -> Json:
    """The one of a Deployment's template, as its controller makes it: with the Deployment's annotations."""
    metadata = {
        "annotations": deployment["metadata"]["annotations"],
        "ownerReferences": [{"uid": "uid-of-workers", "controller": True}],
    }
    return {"metadata": metadata, "spec": {"template": deployment["spec"]["template"]}}


def look(snapshot: Snapshot) -> Snapshot:
    """The snapshot with what the reconciler finds of the revision that is asked for."""
    live = find_deployment(snapshot, "worker")
    live = {**live, "metadata": {**live["metadata"], "uid": "uid-of-workers"}}
    runs = find_runs(snapshot.service, live)
    if isinstance(runs, RevisionQuery):
        runs = read_runs([replica_set(find_deployment(FIRST, "worker")), replica_set(live)], runs)
    return replace(snapshot, earlier_runs=runs)


def go_on(snapshot: Snapshot) -> Snapshot:
    """The next reconcile, carried out."""
    return carry_out(look(snapshot))


def change() -> Snapshot:
    """A service with a second revision, of another model and a newer release, whose workers are all there."""
    changed = carry_out(edit(upgrade(FIRST, has_turn=True), model=MISSING_MODEL))
    return carry_out(settle_all(changed))


def test_a_service_goes_back_to_the_model_and_the_image_of_the_revision_that_is_named() -> None:
    assert NEW in served_model(change())
    after = go_on(edit(change(), rollout={"toRevision": 1}))
    assert OLD in served_model(after)
    assert image_of(find_deployment(after, "worker")) == RELEASE.worker_image
    first = FIRST.service["status"]["revisions"][0]["revision"]
    template = find_deployment(after, "worker")["spec"]["template"]
    assert template["metadata"]["annotations"][names.ANNOTATION_REVISION] == first


def test_a_service_stays_at_its_revision_through_restarts_and_newer_releases_and_says_so() -> None:
    after = settle_all(go_on(edit(change(), rollout={"toRevision": 1})))
    for _ in range(3):
        after = go_on(after)
        assert decide(look(after)).applies == ()
    later = replace(after, release=replace(NEWER, worker_image="registry.example/easel-worker:0.3.0"), has_turn=True)
    plan = decide(look(later))
    assert written(plan) == {}
    assert plan.standing.stage is Stage.HELD
    said = after.service["status"]["rollout"]
    assert said["hold"] == "Revision"
    assert OLD in said["message"]


def test_without_it_the_spec_counts_at_once_and_the_release_again_at_its_turn() -> None:
    back = settle_all(go_on(edit(change(), rollout={"toRevision": 1})))
    after = go_on(edit(replace(go_on(back), has_turn=False), rollout={}))
    assert NEW in served_model(after)
    assert image_of(find_deployment(after, "worker")) == RELEASE.worker_image, "a release waits for its turn"
    assert image_of(find_deployment(go_on(replace(after, has_turn=True)), "worker")) == NEWER.worker_image
    assert names.ANNOTATION_TO_REVISION not in find_deployment(after, "worker")["metadata"]["annotations"]


def test_a_revision_that_is_not_kept_changes_nothing_and_is_said() -> None:
    asked = edit(change(), rollout={"toRevision": 7})
    plan = decide(look(asked))
    assert written(plan) == {}
    said = go_on(asked).service["status"]["rollout"]
    assert "Revision 7" in said["message"]
    assert "isn't kept" in said["message"]


def test_a_new_service_that_names_a_revision_begins_with_its_spec() -> None:
    new = edit(FIRST, rollout={"toRevision": 3})
    gone = replace(new, children={}, pods=(), service={**new.service, "status": {}})
    assert image_of(written(decide(replace(gone, earlier_runs="")))["painter-worker"]) == RELEASE.worker_image


def test_a_revision_that_fails_when_it_is_gone_back_to_gives_way_to_what_ran_before() -> None:
    asked = edit(change(), rollout={"toRevision": 1, "deadlineSeconds": 60})
    failing = look(overdue(go_on(asked), crashed(1, "no such file")))
    after = go_on(failing)
    assert NEW in served_model(after)
    assert find(decide(failing), "Progressing")["reason"] == "RolledBack"
    assert decide(look(go_on(after))).applies == ()


def test_the_deployment_keeps_as_many_revisions_as_the_status_lists() -> None:
    assert find_deployment(FIRST, "worker")["spec"]["revisionHistoryLimit"] == 10


def test_a_pinned_service_that_fails_at_its_own_change_has_a_way_back() -> None:
    pinned = carry_out(settle_all(upgrade(begin(rollout={"pinned": True}))))
    failing = overdue(carry_out(edit(pinned, model=MISSING_MODEL)), crashed(1, "no such repository"))
    assert OLD in served_model(carry_out(failing))


def test_a_pinned_service_that_is_scaled_keeps_all_of_its_release() -> None:
    labelled = {"worker": {"podTemplate": {"metadata": {"labels": {"team": "art"}}}}}
    other = replace(RELEASE, defaults=type(RELEASE.defaults).model_validate(labelled))
    plan = decide(edit(upgrade(begin(rollout={"pinned": True}), other), replicas=5))
    assert "painter-worker" not in written(plan)
    assert [(each.key, each.replicas) for each in plan.handovers] == [(WORKERS, 5)]


def test_what_a_revision_ran_is_read_from_the_replica_set_of_this_very_deployment() -> None:
    deployment = find_deployment(FIRST, "worker")
    found = replica_set(deployment)
    revision = FIRST.service["status"]["revisions"][0]["revision"]
    assert json.loads(read_runs([found], RevisionQuery("uid-of-workers", revision)))["image"] == RELEASE.worker_image
    assert read_runs([found], RevisionQuery("another", revision)) == ""
    assert read_runs([found], RevisionQuery("uid-of-workers", "another")) == ""


def test_a_release_alone_is_gone_back_from_while_the_service_has_no_turn() -> None:
    newer = carry_out(settle_all(carry_out(upgrade(FIRST, has_turn=True))))
    after = go_on(edit(replace(newer, has_turn=False), rollout={"toRevision": 1}))
    assert image_of(find_deployment(after, "worker")) == RELEASE.worker_image
