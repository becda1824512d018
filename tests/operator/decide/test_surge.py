"""Whether a roll-out starts a worker before it ends one: where there is a GPU for it, and nowhere else."""

from dataclasses import replace
from typing import Any

import pytest
from easel_contract.resource import StableDiffusionServiceSpec
from easel_operator.decide.facts import read_facts
from easel_operator.decide.reconcile import decide
from easel_operator.decide.scaling_mode import ModeDecision, ScalingMode
from easel_operator.decide.snapshot import Snapshot
from easel_operator.objects import ObjectKey

from tests.operator.decide.test_rollouts import begin, carry_out, edit, find_deployment, roll
from tests.operator.decide.test_waves import WORKERS
from tests.operator.objects import HUB_MODEL, OWNER, build_pod, build_unschedulable_pod

SURGE = {"maxSurge": 1, "maxUnavailable": 0}
IN_PLACE = {"maxSurge": 0, "maxUnavailable": 1}
OTHER_MODEL = {**HUB_MODEL, "dtype": "Float32"}
VOLUME = {"source": {"persistentVolumeClaim": {"claimName": "weights"}}}


def strategy(snapshot: Snapshot) -> Any:
    """How the worker Deployment replaces its pods."""
    return find_deployment(snapshot, "worker")["spec"]["strategy"]["rollingUpdate"]


def test_a_roll_out_starts_a_worker_before_it_ends_one_while_there_is_a_gpu_for_it() -> None:
    begun = carry_out(edit(begin(model=HUB_MODEL), model=OTHER_MODEL))
    assert strategy(begun) == SURGE
    under_way = roll(begun, "worker", old=3, new=1, ready=3, pod=build_pod("worker", is_ready=False))
    assert strategy(carry_out(under_way)) == SURGE


def test_a_worker_that_no_node_takes_has_the_roll_out_go_on_in_place_to_its_end() -> None:
    begun = carry_out(edit(begin(model=HUB_MODEL), model=OTHER_MODEL))
    template = find_deployment(begun, "worker")["spec"]["template"]
    stuck = carry_out(roll(begun, "worker", old=3, new=1, ready=3, pod=build_unschedulable_pod("w-new")))
    assert strategy(stuck) == IN_PLACE
    assert find_deployment(stuck, "worker")["spec"]["template"] == template, "no revision of its own"
    placed = roll(stuck, "worker", old=1, new=2, ready=3, pod=build_pod("worker"))
    assert strategy(carry_out(placed)) == IN_PLACE
    done = carry_out(roll(placed, "worker", old=0, new=3, ready=3, pod=build_pod("worker")))
    assert decide(done).applies == (), "and nothing is written for the end of it"
    assert strategy(carry_out(edit(done, model=HUB_MODEL))) == SURGE, "the next one tries again"


def test_a_quota_that_refuses_one_worker_more_has_the_roll_out_go_on_in_place() -> None:
    begun = carry_out(edit(begin(model=HUB_MODEL), model=OTHER_MODEL))
    refused = roll(begun, "worker", old=3, new=0, ready=3, pod=build_pod("worker"))
    live = find_deployment(refused, "worker")
    said = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"}
    status = {**live["status"], "conditions": [said]}
    refused = replace(refused, children={**refused.children, WORKERS: {**live, "status": status}})
    assert strategy(carry_out(refused)) == IN_PLACE


@pytest.mark.parametrize(
    "spec", [{"rollout": {"surge": "Never"}}, {"worker": {"cacheClaimName": "cache"}}, {"model": VOLUME}]
)
def test_workers_whose_claim_one_node_has_at_a_time_or_that_may_never_surge_are_replaced_in_place(
    spec: dict[str, Any],
) -> None:
    begun = carry_out(edit(begin(**{"model": HUB_MODEL, **spec}), batching={"maxImages": 2}))
    assert strategy(begun) == IN_PLACE


@pytest.mark.parametrize(
    ("spec", "claim"), [({"worker": {"cacheClaimName": "cache"}}, "cache"), ({"model": VOLUME}, "weights")]
)
def test_workers_whose_claim_many_nodes_may_have_are_replaced_with_a_surge(spec: dict[str, Any], claim: str) -> None:
    shared = frozenset({ObjectKey("PersistentVolumeClaim", "studio", claim)})
    snapshot = replace(begin(**{"model": HUB_MODEL, **spec}), shared_claims=shared)
    assert strategy(carry_out(edit(snapshot, batching={"maxImages": 2}))) == SURGE


@pytest.mark.parametrize(("modes", "is_exclusive"), [(["ReadWriteOnce"], True), (["ReadWriteMany"], False)])
def test_a_model_cache_of_the_services_own_is_judged_by_its_access_modes(
    modes: list[str], *, is_exclusive: bool
) -> None:
    cached = {**HUB_MODEL, "cache": {"size": "10Gi", "accessModes": modes}}
    spec = StableDiffusionServiceSpec.model_validate({"model": cached, "replicas": 2})
    mode = ModeDecision(ScalingMode.FIXED)
    assert read_facts(begin(), OWNER, spec, mode).has_exclusive_claims is is_exclusive


def test_a_service_of_an_earlier_operator_is_left_as_it_is_until_its_next_roll_out() -> None:
    snapshot = carry_out(edit(begin(model=HUB_MODEL), rollout={"surge": "Never"}))
    assert strategy(snapshot) == IN_PLACE
    after = edit(snapshot, rollout={})
    assert decide(after).applies == ()
