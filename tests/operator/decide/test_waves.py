"""A newer release of the installation reaches services in turns, a few at a time; what a spec changes doesn't wait."""

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from easel_contract import names
from easel_contract.resource import MAX_REVISIONS
from easel_operator.decide.reconcile import decide
from easel_operator.decide.rollouts.turns import grant_turns
from easel_operator.decide.snapshot import ReconcilePlan, Snapshot, Stage, Standing
from easel_operator.manifests.metadata import Release
from easel_operator.objects import Json, ObjectKey, ServiceKey, find_condition

from tests.operator.decide.test_conditions import find
from tests.operator.decide.test_rollouts import begin, carry_out, edit, find_deployment, roll, stamp
from tests.operator.objects import HUB_MODEL, RELEASE, build_pod, build_unschedulable_pod, settle

NEWER = replace(
    RELEASE,
    worker_image="registry.example/easel-worker:0.2.0",
    gateway_image="registry.example/easel-gateway:0.2.0",
)
WORKERS = ObjectKey("Deployment", "studio", "painter-worker")
GATEWAYS = ObjectKey("Deployment", "studio", "painter-gateway")


def upgrade(snapshot: Snapshot, release: Release = NEWER, *, has_turn: bool = False) -> Snapshot:
    """The service under an operator of another release."""
    return replace(snapshot, release=release, has_turn=has_turn)


def written(plan: ReconcilePlan) -> dict[str, Json]:
    """The Deployments that are applied, by name."""
    return {child["metadata"]["name"]: child for child in plan.applies if child["kind"] == "Deployment"}


def image_of(deployment: Json) -> str:
    """The server's image in a Deployment."""
    return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])


def without_annotations(snapshot: Snapshot) -> Snapshot:
    """As the operator before waves has left the worker Deployment."""
    live = find_deployment(snapshot, "worker")
    kept = {
        name: value
        for name, value in live["metadata"]["annotations"].items()
        if name not in {names.ANNOTATION_RELEASE, names.ANNOTATION_WORKER_SPEC}
    }
    changed = {**live, "metadata": {**live["metadata"], "annotations": kept}}
    return replace(snapshot, children={**snapshot.children, WORKERS: changed})


@pytest.mark.parametrize("prepare", [lambda snapshot: snapshot, without_annotations])
def test_a_newer_image_replaces_no_pod_of_a_service_without_a_turn(prepare: Any) -> None:
    snapshot = prepare(upgrade(begin()))
    after = carry_out(snapshot)
    for role in ("gateway", "worker"):
        before = find_deployment(snapshot, role)["spec"]["template"]
        assert find_deployment(after, role)["spec"]["template"] == before
    plan = decide(after)
    assert plan.applies == ()
    assert plan.standing.stage is Stage.WAITING
    ready = find_condition(after.service, "Ready")
    assert ready is not None
    assert ready["status"] == "True"


def test_a_service_that_waits_says_what_for() -> None:
    status = carry_out(upgrade(begin())).service["status"]
    assert status["rollout"]["hold"] == "Waiting"
    assert NEWER.worker_image in status["rollout"]["message"]
    assert RELEASE.worker_image in status["rollout"]["message"]


def test_a_service_whose_turn_it_is_takes_the_release_and_keeps_its_turn_until_its_pods_are_there() -> None:
    begun = carry_out(upgrade(begin(), has_turn=True))
    assert image_of(find_deployment(begun, "worker")) == NEWER.worker_image
    assert "rollout" not in begun.service["status"]
    under_way = replace(roll(begun, "worker", old=2, new=1, ready=2, pod=build_pod("worker")), has_turn=False)
    assert decide(under_way).standing.stage is Stage.MOVING
    assert decide(under_way).applies == (), "what has begun isn't taken back"
    done = {key: settle(find_deployment(begun, key.name[8:]), 3) for key in (WORKERS, GATEWAYS)}
    assert decide(replace(under_way, children={**under_way.children, **done})).standing.stage is Stage.CURRENT


def test_a_change_of_the_spec_is_carried_out_at_once_with_the_release_that_the_service_has() -> None:
    waiting = carry_out(upgrade(begin()))
    edited = edit(waiting, model={**HUB_MODEL, "dtype": "Float32"})
    deployment = written(decide(edited))["painter-worker"]
    assert image_of(deployment) == RELEASE.worker_image
    after = carry_out(edited)
    assert decide(after).standing.stage is Stage.WAITING, "it still waits for the release"
    assert decide(after).applies == ()


def test_a_service_that_rolls_out_its_own_change_keeps_no_turn_from_others() -> None:
    begun = carry_out(edit(replace(begin(), has_turn=False), model={**HUB_MODEL, "dtype": "Float32"}))
    stuck = roll(begun, "worker", old=2, new=1, ready=2, pod=build_pod("worker", is_ready=False))
    assert decide(stuck).standing.stage is Stage.CURRENT


def test_overlays_for_all_services_wait_for_a_turn_as_an_image_does() -> None:
    labelled = {"worker": {"podTemplate": {"metadata": {"labels": {"team": "art"}}}}}
    other = replace(RELEASE, defaults=type(RELEASE.defaults).model_validate(labelled))
    snapshot = upgrade(begin(), other)
    plan = decide(snapshot)
    assert "painter-worker" not in written(plan)
    assert plan.standing.stage is Stage.WAITING
    assert WORKERS not in plan.deletes
    assert (find(plan, "Ready")["status"], find(plan, "Progressing")["reason"]) == ("True", "Complete")
    assert "painter-worker" in written(decide(replace(snapshot, has_turn=True)))


def test_workers_follow_another_redis_at_once() -> None:
    moved = replace(RELEASE, redis_url="redis://other.easel.svc:6379/0")
    assert "painter-worker" in written(decide(upgrade(begin(), moved)))


@pytest.mark.parametrize(("field", "hold"), [("pinned", "Pinned"), ("paused", "Paused")])
def test_a_pinned_or_paused_service_keeps_its_release_though_it_had_a_turn(field: str, hold: str) -> None:
    after = carry_out(upgrade(begin(rollout={field: True}), has_turn=True))
    assert image_of(find_deployment(after, "worker")) == RELEASE.worker_image
    assert decide(after).standing.stage is Stage.HELD
    assert after.service["status"]["rollout"]["hold"] == hold


def test_a_pinned_service_is_scaled_by_hand() -> None:
    edited = edit(upgrade(begin(rollout={"pinned": True})), replicas=5)
    deployment = written(decide(edited))["painter-worker"]
    assert (deployment["spec"]["replicas"], image_of(deployment)) == (5, RELEASE.worker_image)


def test_pausing_stops_a_roll_out_of_the_spec_as_a_deployment_does() -> None:
    begun = carry_out(edit(begin(), model={**HUB_MODEL, "dtype": "Float32"}))
    paused = carry_out(edit(begun, rollout={"paused": True}))
    assert find_deployment(paused, "worker")["spec"]["paused"] is True
    half = roll(paused, "worker", old=2, new=1, ready=3, pod=build_pod("worker"))
    progressing = find(decide(half), "Progressing")
    assert (progressing["status"], progressing["reason"]) == ("True", "Paused")
    assert "2 of 3 workers" in progressing["message"]
    resumed = carry_out(edit(paused, rollout={}))
    assert "paused" not in find_deployment(resumed, "worker")["spec"]


def test_a_new_service_begins_with_the_newest_release() -> None:
    new = replace(upgrade(begin()), children={}, pods=())
    assert image_of(written(decide(new))["painter-worker"]) == NEWER.worker_image


def test_the_history_says_what_the_workers_ran_and_whether_it_ever_worked() -> None:
    snapshot = begin()
    edited = carry_out(edit(snapshot, model={**HUB_MODEL, "dtype": "Float32"}))
    failing = carry_out(roll(edited, "worker", old=2, new=1, ready=2, pod=build_pod("worker", is_ready=False)))
    first, second = failing.service["status"]["revisions"]
    assert (first["number"], second["number"]) == (1, 2)
    assert "readyAt" in first
    assert "readyAt" not in second
    assert "Float32" in second["model"]
    back = carry_out(edit(failing, model=HUB_MODEL))
    third = carry_out(back).service["status"]["revisions"][2]
    assert (third["number"], third["revision"]) == (3, first["revision"]), "going back is a change of its own"


def test_the_history_is_bounded() -> None:
    snapshot = begin()
    for count in range(MAX_REVISIONS + 5):
        edited = carry_out(edit(snapshot, batching={"maxImages": count + 1}))
        snapshot = carry_out(edited)
    kept = snapshot.service["status"]["revisions"]
    assert len(kept) == MAX_REVISIONS
    assert kept[-1]["number"] > MAX_REVISIONS


def key(number: int) -> ServiceKey:
    """A service."""
    return ServiceKey("studio", f"painter-{number:03}")


def test_no_more_services_move_than_the_installation_allows() -> None:
    waiting = {key(number): Standing(Stage.WAITING, (0, 1)) for number in range(10)}
    assert len(grant_turns(waiting, frozenset(), 3)) == 3
    two_move = {**waiting, key(0): Standing(Stage.MOVING), key(1): Standing(Stage.MOVING)}
    assert len(grant_turns(two_move, frozenset(), 3)) == 1
    assert grant_turns(waiting, frozenset(), 0) == frozenset(), "0 stops all"
    assert grant_turns(waiting, frozenset({key(7)}), 1) == {key(7)}, "a turn isn't taken back"


def test_a_release_that_never_comes_up_is_met_by_so_many_services_and_no_more() -> None:
    """A whole fleet: whoever has a turn moves and never ends."""
    standings = {key(number): Standing(Stage.WAITING, (0, 1)) for number in range(200)}
    granted: frozenset[ServiceKey] = frozenset()
    for _ in range(50):
        granted = grant_turns(standings, granted, 4)
        standings |= dict.fromkeys(granted, Standing(Stage.MOVING))
    assert sum(each.stage is Stage.MOVING for each in standings.values()) == 4


@pytest.mark.parametrize("seed", range(5))
def test_every_service_gets_a_good_release_whatever_the_order_of_events(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - an order, not a secret
    standings = {key(number): Standing(Stage.WAITING, (random.randrange(3), number)) for number in range(60)}
    granted: frozenset[ServiceKey] = frozenset()
    while any(each.stage is not Stage.CURRENT for each in standings.values()):
        granted = grant_turns(standings, granted, 5)
        moving = [name for name, each in standings.items() if each.stage is Stage.MOVING]
        assert len(moving) + len(granted - set(moving)) <= 5
        name = random.choice(sorted({*granted, *moving}))
        standings[name] = Standing(Stage.MOVING if standings[name].stage is Stage.WAITING else Stage.CURRENT)


def test_a_small_service_that_serves_goes_before_a_large_one_and_one_that_shows_nothing_goes_last() -> None:
    ranks = [decide(upgrade(begin(workers=count))).standing.rank for count in (1, 5, 0)]
    broken = upgrade(begin(workers=2))
    broken = replace(broken, pods=tuple(pod for pod in broken.pods if "gateway" in pod["metadata"]["labels"].values()))
    ranks.append(decide(broken).standing.rank)
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 4


def moved(workers: int, *, placed: int) -> Snapshot:
    """A service of three workers under a newer release, whose earlier pods are gone: so many of the new ones have a
    node, and the rest find none."""
    begun = carry_out(upgrade(begin(), has_turn=True))
    waiting = roll(begun, "worker", old=0, new=workers, ready=placed, pod=build_unschedulable_pod("w-new"))
    gateways = {GATEWAYS: settle(find_deployment(begun, "gateway"), 3)}
    pods = [
        stamp(build_pod("worker", pod["metadata"]["name"]), find_deployment(begun, "worker"))
        if pod["metadata"]["name"] in {f"new-{number}" for number in range(placed)}
        else pod
        for pod in waiting.pods
    ]
    return replace(waiting, children={**waiting.children, **gateways}, pods=tuple(pods))


@pytest.mark.parametrize("placed", [0, 1])
def test_a_service_that_asks_for_more_gpus_than_there_are_gives_its_turn_to_the_next(placed: int) -> None:
    assert decide(moved(3, placed=placed)).standing.stage is Stage.CURRENT


def test_a_service_whose_new_workers_have_a_node_and_are_not_ready_keeps_its_turn() -> None:
    begun = carry_out(upgrade(begin(), has_turn=True))
    starting = roll(begun, "worker", old=0, new=3, ready=0, pod=build_pod("worker", is_ready=False))
    assert decide(starting).standing.stage is Stage.MOVING
