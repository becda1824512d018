"""How long stopping workers may take: what it follows from, and above all when it may change."""

from dataclasses import replace

import pytest
from easel_contract import names
from easel_operator.decide.grace import STEPS_SECONDS, derive_grace_seconds
from easel_operator.decide.reconcile import decide
from easel_operator.decide.snapshot import ReconcilePlan, ScrapeReport, Snapshot
from easel_operator.objects import Json, ObjectKey, to_object_key
from hypothesis import given
from hypothesis import strategies as st

from tests.operator.decide.test_reconcile import converge
from tests.operator.objects import HUB_MODEL, OWNER, build_pod, build_service, build_snapshot

WORKERS = ObjectKey("Deployment", OWNER.namespace, "painter-worker")
WORKER = build_pod(names.COMPONENT_WORKER)
SPEC: Json = {"model": HUB_MODEL, "scaling": {"minReplicas": 0, "maxReplicas": 8}}

# longest job → grace: at least half as long again, and the ten seconds in which a job is released
DERIVED = {0: 60, 33: 60, 34: 120, 73: 120, 74: 240, 153: 240, 154: 480, 313: 480, 633: 960, 634: 1800, 9999: 1800}


@pytest.mark.parametrize(("longest", "grace"), DERIVED.items())
def test_the_grace_is_a_step_above_the_longest_job(longest: int, grace: int) -> None:
    assert derive_grace_seconds(longest) == grace


def settle(spec: Json, *, longest: int = 0, pods: tuple[Json, ...] = ()) -> Snapshot:
    """A service whose children are there, with a status that reports its longest job."""
    first = build_snapshot(build_service(spec), scrape=ScrapeReport(longest_job_seconds=longest))
    return replace(converge(converge(first)), pods=pods)


def with_longest_job(snapshot: Snapshot, longest: int) -> Snapshot:
    """The next look, after a worker reported of a longer job."""
    return replace(snapshot, scrape=ScrapeReport(longest_job_seconds=longest))


def grace_of(snapshot: Snapshot) -> int:
    """What workers that start now have."""
    template: Json = snapshot.children[WORKERS]["spec"]["template"]
    seconds: int = template["spec"]["terminationGracePeriodSeconds"]
    return seconds


def advice_of(snapshot: Snapshot) -> str:
    return str(snapshot.service["status"]["termination"]["advice"])


def respecify(snapshot: Snapshot, spec: Json) -> Snapshot:
    return replace(snapshot, service={**snapshot.service, "spec": spec})


def event_reasons(plan: ReconcilePlan) -> list[str]:
    return [event.reason for event in plan.events]


def test_a_service_that_is_new_begins_with_a_minute_and_tells_of_no_jobs() -> None:
    settled = settle(SPEC)
    assert grace_of(settled) == 60
    assert "termination" not in settled.service["status"]


def test_while_no_workers_are_there_the_grace_follows_the_longest_job() -> None:
    asleep = converge(with_longest_job(settle(SPEC), 100))
    assert (grace_of(asleep), advice_of(asleep)) == (240, "")


def test_while_workers_are_there_none_is_replaced_for_it_and_the_advice_says_what_helps() -> None:
    busy = with_longest_job(settle(SPEC, pods=(WORKER,)), 100)
    plan = decide(busy)
    assert plan.applies == ()
    assert event_reasons(plan) == ["GracePeriodTooShort"]
    busy = converge(busy)
    assert grace_of(busy) == 60
    assert advice_of(busy) == (
        "The longest job took 100 s and a stopping worker has 60 s, so a busy one that is chosen for removal may "
        "release its job to the queue; 240 s follow with the next change of the workers, or once there are none. Set "
        "spec.worker.terminationGracePeriodSeconds to 240 to have them now, at a cold start for each worker."
    )
    again = decide(busy)
    assert (again.applies, again.status_patch, again.events) == ((), None, ())


def test_it_comes_once_the_last_worker_is_gone() -> None:
    busy = converge(with_longest_job(settle(SPEC, pods=(WORKER,)), 100))
    asleep = converge(replace(busy, pods=()))
    assert (grace_of(asleep), advice_of(asleep)) == (240, "")


def test_it_comes_together_with_another_change_of_the_workers() -> None:
    busy = converge(with_longest_job(settle(SPEC, pods=(WORKER,)), 100))
    changed = {**SPEC, "worker": {"image": "registry.example/own:2"}}
    assert grace_of(converge(respecify(busy, changed))) == 240


def test_it_does_not_come_with_a_change_that_leaves_the_workers_alone() -> None:
    fixed = {"model": HUB_MODEL, "replicas": 2}
    busy = converge(with_longest_job(settle(fixed, pods=(WORKER,)), 100))
    more = converge(respecify(busy, {**fixed, "replicas": 3, "gateway": {"limits": {"maxImages": 2}}}))
    assert more.children[WORKERS]["spec"]["replicas"] == 3
    assert grace_of(more) == 60


def test_a_job_that_fits_anyway_needs_no_advice() -> None:
    busy = converge(with_longest_job(settle(SPEC, pods=(WORKER,)), 45))
    assert (grace_of(busy), advice_of(busy)) == (60, "")


@pytest.mark.parametrize("pods", [(), (WORKER,)])
def test_it_never_shrinks(pods: tuple[Json, ...]) -> None:
    settled = settle(SPEC, longest=100)
    assert grace_of(settled) == 240
    forgotten = {**settled.service, "status": {}}
    assert grace_of(converge(replace(settled, service=forgotten, scrape=None, pods=pods))) == 240


def test_what_the_user_sets_holds() -> None:
    spec = {**SPEC, "worker": {"terminationGracePeriodSeconds": 60}}
    asleep = converge(with_longest_job(settle(spec), 100))
    assert grace_of(asleep) == 60
    assert "raise spec.worker.terminationGracePeriodSeconds to 240 or more, or leave it out" in advice_of(asleep)


def test_jobs_longer_than_anything_that_is_derived_are_the_user_s_to_provide_for() -> None:
    asleep = converge(with_longest_job(settle(SPEC), 2000))
    assert grace_of(asleep) == 1800
    assert "the most that is derived: set spec.worker.terminationGracePeriodSeconds, up to 3600" in advice_of(asleep)


def test_another_hand_s_change_of_the_grace_is_no_measurement() -> None:
    settled = settle(SPEC, pods=(WORKER,))
    live = settled.children[WORKERS]
    template = live["spec"]["template"]
    pod = {**template["spec"], "terminationGracePeriodSeconds": 5000}
    edited = {**live, "spec": {**live["spec"], "template": {**template, "spec": pod}}}
    plan = decide(replace(settled, children={**settled.children, WORKERS: edited}))
    assert [to_object_key(child) for child in plan.applies] == [WORKERS]
    assert plan.applies[0]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 60


def test_a_service_that_an_earlier_operator_made_with_its_default_is_not_rolled() -> None:
    """Its API server stored the default of then, 60, as if the user had set it."""
    stored = {**SPEC, "worker": {"terminationGracePeriodSeconds": 60}}
    old = settle(stored, pods=(WORKER,))
    unset = respecify(old, SPEC)
    assert decide(old).applies == ()
    assert WORKERS not in [to_object_key(child) for child in decide(unset).applies]


@given(st.lists(st.tuples(st.integers(0, 3000), st.booleans()), max_size=8))
def test_whatever_is_measured_only_a_service_without_workers_gets_another_template(
    looks: list[tuple[int, bool]],
) -> None:
    snapshot, known = settle(SPEC), 0
    for longest, has_workers in looks:
        known = max(known, longest)
        before = grace_of(snapshot)
        snapshot = converge(replace(with_longest_job(snapshot, known), pods=(WORKER,) if has_workers else ()))
        after = grace_of(snapshot)
        assert after in STEPS_SECONDS
        assert after == before if has_workers else after == derive_grace_seconds(known)
