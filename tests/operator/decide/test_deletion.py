"""How a deleted service ends: its waiters first, then its keys, and never later than the bounds allow."""

import pytest
from easel_contract.names import FINALIZER
from easel_operator.decide.deletion import (
    ENDING_SECONDS,
    QUIET_SECONDS,
    UNREACHABLE_SECONDS,
    Ending,
    EndingStep,
    WorkLeft,
    build_ended_event,
    build_left_event,
    decide_ending,
    find_orphans,
    find_prefix,
    find_surplus_finalizer,
    recall_service,
)
from easel_operator.objects import Json, ServiceKey

from tests.operator.objects import HUB_MODEL, OWNER, build_service

NOTHING = WorkLeft(0, 0, 0)
PREFIX = f"easel:{{{OWNER.namespace}/{OWNER.name}/{OWNER.uid}}}:"


def ending(
    elapsed_seconds: float, work: WorkLeft | None, quiet_seconds: float = 0.0, *, has_pods: bool = True
) -> EndingStep:
    return decide_ending(Ending(elapsed_seconds, work, quiet_seconds, has_pods=has_pods))


def test_a_service_for_which_nobody_waits_ends_at_once() -> None:
    assert ending(0.0, NOTHING) is EndingStep.DELETE_KEYS


@pytest.mark.parametrize("work", [WorkLeft(1, 0, 0), WorkLeft(0, 1, 0), WorkLeft(0, 0, 1)])
def test_whoever_waits_is_answered_first_but_not_for_ever(work: WorkLeft) -> None:
    assert ending(ENDING_SECONDS - 1, work) is EndingStep.WAIT
    assert ending(ENDING_SECONDS, work) is EndingStep.DELETE_KEYS


def test_gateways_get_a_moment_to_read_how_the_last_job_ended() -> None:
    assert ending(5.0, NOTHING, quiet_seconds=QUIET_SECONDS / 2) is EndingStep.WAIT
    assert ending(5.0, NOTHING, quiet_seconds=QUIET_SECONDS) is EndingStep.DELETE_KEYS


def test_jobs_that_no_pod_is_left_to_end_are_not_waited_for() -> None:
    assert ending(0.0, WorkLeft(3, 0, 0), has_pods=False) is EndingStep.DELETE_KEYS


def test_a_redis_that_is_away_is_waited_for_half_a_minute() -> None:
    assert ending(UNREACHABLE_SECONDS - 1, None) is EndingStep.WAIT
    assert ending(UNREACHABLE_SECONDS, None) is EndingStep.GIVE_UP
    assert ending(UNREACHABLE_SECONDS, None, has_pods=False) is EndingStep.GIVE_UP


def test_the_finalizers_of_others_stay_and_that_of_earlier_releases_goes() -> None:
    service = build_service()
    assert find_surplus_finalizer(service) is None
    service["metadata"]["finalizers"] = ["theirs"]
    assert find_surplus_finalizer(service) is None
    service["metadata"]["finalizers"] = ["theirs", FINALIZER]
    assert find_surplus_finalizer(service) == ("theirs",)


def test_what_another_finalizer_keeps_is_ended_as_soon_as_it_is_deleted() -> None:
    service = build_service()
    service["metadata"] |= {"finalizers": ["foregroundDeletion"], "deletionTimestamp": "2026-11-26T12:00:00Z"}
    assert find_orphans({PREFIX: "studio/painter"}, [service], ()) == {PREFIX: ServiceKey("studio", "painter")}


def test_the_registry_knows_whose_keys_they_were() -> None:
    recalled = recall_service(PREFIX, ServiceKey(OWNER.namespace, OWNER.name))
    assert find_prefix(recalled) == PREFIX
    assert recalled["metadata"]["uid"] == OWNER.uid


def test_an_orphan_is_of_no_living_service_and_of_a_namespace_that_is_watched() -> None:
    registry = {
        PREFIX: "studio/painter",
        "easel:{studio/painter/older}:": "studio/painter",
        "easel:{art/gone/u}:": "art/gone",
    }
    living: list[Json] = [build_service()]
    assert find_prefix(living[0]) == PREFIX
    assert find_orphans(registry, living, ()) == {
        "easel:{studio/painter/older}:": ServiceKey("studio", "painter"),
        "easel:{art/gone/u}:": ServiceKey("art", "gone"),
    }
    of_studio = {"easel:{studio/painter/older}:": ServiceKey("studio", "painter")}
    assert find_orphans(registry, living, ("studio",)) == of_studio


def test_events_say_what_is_left_and_where() -> None:
    assert build_ended_event(build_service(), NOTHING).note == f"The keys of {PREFIX} are deleted from Redis."
    assert "2 waiting and 1 running requests" in build_ended_event(build_service(), WorkLeft(2, 1, 0)).note
    left = build_left_event(build_service(), "ConnectionError: refused").note
    assert "ConnectionError: refused" in left
    assert PREFIX in left


def test_images_in_a_bucket_stay_and_the_event_says_under_which_folder() -> None:
    bucket = {"name": "pictures", "region": "eu-central-1", "prefix": "easel/", "credentialsSecretName": "s3"}
    spec = {"model": HUB_MODEL, "replicas": 1, "gateway": {"results": {"bucket": bucket}}}
    note = build_ended_event(build_service(spec), NOTHING).note
    assert f"the bucket pictures under easel/studio/painter/{OWNER.uid}/" in note
