"""The planner's decisions, keyed by sentences; the pitfalls that other autoscalers met are in test_pitfalls."""

import pytest
from easel_contract import metrics
from easel_operator.autoscaling.planner import LATENCY, QUEUE, to_external_values

from tests.operator.autoscaling.support import Service, build_observation, build_pods, build_settings

DEPTHS = {
    "nothing to do, one pod at least": (1, 0, 1),
    "one request is one pod": (0, 1, 1),
    "two requests fit into one pod": (0, 2, 1),
    "three requests need two": (0, 3, 2),
    "seven requests need four": (0, 7, 4),
    "more than the maximum is the maximum": (0, 1000, 10),
    "less than the minimum is the minimum": (3, 2, 3),
}


@pytest.mark.parametrize(("minimum", "depth", "expected"), DEPTHS.values(), ids=DEPTHS.keys())
def test_requests_over_target_per_pod(minimum: int, depth: int, expected: int) -> None:
    service = Service(build_settings(min_replicas=minimum, target_queue_depth=2))
    assert service.tick(build_observation(depth)).desired_replicas == expected


SENTENCES = {
    "by the queue": (
        build_observation(7, pods=build_pods(2, 2)),
        "4 pods: 7 requests waiting or running, target 2 a pod; 2 ready, 2 starting",
    ),
    "by latency": (
        build_observation(4, running=2, p95=45, pods=build_pods(2)),
        "3 pods: latency 45 s (p95 or oldest waiting), target 30 s, 2 waiting; 2 ready, 0 starting",
    ),
    "at the maximum": (
        build_observation(50, pods=build_pods(10)),
        "10 pods: 50 requests waiting or running, target 2 a pod (25 needed; maxReplicas 10); 10 ready, 0 starting",
    ),
    "out of room": (
        build_observation(12, pods=build_pods(2, 0, 1)),
        "3 pods: 12 requests waiting or running, target 2 a pod (6 needed; the cluster has no room for 1 of the pods "
        "already ordered); 2 ready, 0 starting, 1 unschedulable",
    ),
    "nothing known": (
        build_observation(None),
        "1 pod held: the queue's depth is unknown; 0 of 3 pods answer /metrics",
    ),
    "idle": (
        build_observation(0),
        "1 pod: nothing waits or runs (0 needed; the last pod is given up after 300 s of that); 1 ready, 0 starting",
    ),
}


@pytest.mark.parametrize(("observation", "sentence"), SENTENCES.values(), ids=SENTENCES.keys())
def test_the_sentence_carries_the_figures(observation: object, sentence: str) -> None:
    service = Service(build_settings(), desired=1)
    assert service.tick(observation).sentence == sentence  # type: ignore[arg-type]  # a table of observations


def test_the_sentence_says_when_pods_are_only_held() -> None:
    service = Service(build_settings(min_replicas=1, scale_down_after_seconds=60))
    service.tick(build_observation(8, pods=build_pods(4)))
    assert service.tick(build_observation(2, pods=build_pods(4))).sentence == (
        "4 pods: 2 requests waiting or running, target 2 a pod (1 needed; a pod is given up after 60 s without need); "
        "4 ready, 0 starting"
    )


def test_a_pod_is_given_up_after_the_hold_and_not_before() -> None:
    service = Service(build_settings(min_replicas=1, scale_down_after_seconds=60))
    service.tick(build_observation(8))
    assert service.run(build_observation(2), 57.5).desired_replicas == 4
    assert service.tick(build_observation(2)).desired_replicas == 1


def test_pods_are_given_up_in_the_steps_in_which_the_need_went() -> None:
    service = Service(build_settings(min_replicas=1, scale_down_after_seconds=60))
    service.tick(build_observation(8))
    service.run(build_observation(6), 30)
    assert service.run(build_observation(2), 30).desired_replicas == 3
    assert service.run(build_observation(2), 30).desired_replicas == 1


def test_the_last_pod_goes_after_its_own_longer_time() -> None:
    service = Service(build_settings(scale_down_after_seconds=60, scale_to_zero_after_seconds=300))
    service.tick(build_observation(8))
    assert service.run(build_observation(0), 297.5).desired_replicas == 1
    decision = service.tick(build_observation(0))
    assert decision.desired_replicas == 0
    assert decision.sentence == "0 pods: nothing waited or ran for 300 s; 1 ready, 0 starting"


def test_a_pod_that_still_loads_its_model_is_not_given_up_for_idleness() -> None:
    service = Service(build_settings(scale_to_zero_after_seconds=300), desired=1)
    loading = build_observation(0, pods=build_pods(0, 1))
    assert service.run(loading, 590).desired_replicas == 1
    assert service.run(build_observation(0), 290).desired_replicas == 1, "the time without requests runs from ready on"
    assert service.run(build_observation(0), 10).desired_replicas == 0


def test_a_pod_that_never_gets_ready_does_not_hold_its_gpu_for_ever() -> None:
    service = Service(build_settings(scale_to_zero_after_seconds=300), desired=1)
    assert service.run(build_observation(0, pods=build_pods(0, 1)), 600 + 304).desired_replicas == 0


def test_with_a_minimum_the_last_pod_stays() -> None:
    service = Service(build_settings(min_replicas=1))
    assert service.run(build_observation(0), 3600).desired_replicas == 1


def test_a_job_between_two_scrapes_counts_as_work() -> None:
    service = Service(build_settings(scale_to_zero_after_seconds=300), desired=1)
    service.run(build_observation(0), 290)
    service.tick(build_observation(0, finished=1))
    assert service.run(build_observation(0), 290).desired_replicas == 1


def test_work_wakes_an_idle_service_with_as_many_pods_as_it_needs() -> None:
    service = Service(build_settings(), desired=0)
    assert service.run(build_observation(0), 60).desired_replicas == 0
    assert service.tick(build_observation(9)).desired_replicas == 5


def test_latency_grows_in_proportion_and_at_most_twofold() -> None:
    for p95, expected in ((31, 5), (45, 6), (60, 8), (500, 8)):
        service = Service(build_settings(target_queue_depth=100, max_replicas=50))
        observation = build_observation(8, running=4, p95=p95, pods=build_pods(4))
        assert service.tick(observation).proposals[LATENCY] == expected, p95


def test_a_stuck_queue_is_late_although_nothing_finishes() -> None:
    service = Service(build_settings(target_queue_depth=100))
    observation = build_observation(8, running=4, p95=None, oldest=60, pods=build_pods(4))
    assert service.tick(observation).proposals[LATENCY] == 8


def test_late_jobs_without_waiting_ones_order_no_pods() -> None:
    service = Service(build_settings(target_queue_depth=100))
    observation = build_observation(4, running=4, p95=90, pods=build_pods(4))
    assert service.tick(observation).desired_replicas == 1


def test_latency_lets_go_one_pod_at_a_time_once_jobs_are_early() -> None:
    service = Service(build_settings(target_queue_depth=100, scale_down_after_seconds=0, max_replicas=50))
    service.tick(build_observation(8, running=4, p95=60, pods=build_pods(4)))
    ready = build_pods(8)
    assert service.run(build_observation(8, running=8, p95=25, pods=ready), 300).desired_replicas == 8
    assert service.run(build_observation(8, running=8, p95=10, pods=ready), 100).desired_replicas == 6


def test_the_largest_proposal_is_the_decision() -> None:
    service = Service(build_settings(target_queue_depth=2))
    decision = service.tick(build_observation(5, running=2, p95=60, pods=build_pods(3)))
    assert dict(decision.proposals) == {QUEUE: 3, LATENCY: 6}
    assert decision.desired_replicas == 6


def test_external_values_are_the_proposals_and_what_is_known() -> None:
    service = Service(build_settings())
    known = build_observation(7, p95=12.5)
    assert to_external_values(service.tick(known), known) == {
        metrics.EXTERNAL_REPLICAS_FOR_QUEUE: 4,
        metrics.EXTERNAL_REPLICAS_FOR_LATENCY: 1,
        metrics.EXTERNAL_QUEUE_DEPTH: 7,
        metrics.EXTERNAL_LATENCY_P95_SECONDS: 12.5,
    }
    unknown = build_observation(None)
    assert set(to_external_values(service.tick(unknown), unknown)) == {QUEUE, LATENCY}


def test_changed_bounds_take_effect_at_once_even_without_data() -> None:
    service = Service(build_settings(), desired=8)
    service.settings = build_settings(max_replicas=3)
    assert service.tick(build_observation(None)).desired_replicas == 3
    service.settings = build_settings(min_replicas=5)
    assert service.tick(build_observation(None)).desired_replicas == 5
