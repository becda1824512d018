"""Each trap that other autoscalers fell into, as a test. docs/platform/autoscaling.md lists them with their sources."""

from dataclasses import replace

import pytest
from easel_contract.resource import QueueOrder
from easel_operator.autoscaling.observation import Observation, QueueReading, observe
from easel_operator.autoscaling.signals import LATENCY, QUEUE

from tests.operator.autoscaling.support import (
    START,
    Service,
    after,
    build_observation,
    build_pods,
    build_sample,
    build_settings,
)


def test_a_queue_that_every_pod_reads_is_one_number_and_not_their_sum() -> None:
    samples = [build_sample(f"pod-{number}", queue=QueueReading(6, 2)) for number in range(5)]
    observation = observe(samples, None, build_pods(5), START)
    assert observation.queue == QueueReading(6, 2)


def test_running_requests_count_or_the_second_would_wait_for_the_first() -> None:
    service = Service(build_settings(target_queue_depth=1), desired=1)
    assert service.tick(build_observation(2, running=1, gpu_seconds=1)).desired_replicas == 2


def test_running_work_counts_with_its_rest_and_not_with_all_of_it() -> None:
    samples = [build_sample("a", queue=QueueReading(0, 1, 0.0, 0.0, 3.0))]
    assert observe(samples, None, build_pods(), START).backlog_gpu_seconds == 3.0


def test_missing_data_never_scales_down() -> None:
    service = Service(build_settings(scale_down_after_seconds=60, target_queue_depth=2))
    service.tick(build_observation(12))
    assert service.run(build_observation(None), 3600).desired_replicas == 6


def test_missing_data_never_scales_to_zero() -> None:
    service = Service(build_settings(), desired=1)
    assert service.run(build_observation(None), 3600).desired_replicas == 1


def test_time_without_data_is_not_time_without_need() -> None:
    service = Service(build_settings(target_queue_depth=2))
    service.tick(build_observation(12))
    service.run(build_observation(None), 600)
    assert service.run(build_observation(0), 55).desired_replicas == 6
    assert service.run(build_observation(0), 230).desired_replicas == 1
    assert service.run(build_observation(0), 30).desired_replicas == 0


def test_an_operator_that_stalled_did_not_watch_an_idle_service_meanwhile() -> None:
    service = Service(build_settings(target_queue_depth=2))
    service.tick(build_observation(12))
    stalled = replace(build_observation(0), elapsed_seconds=600.0)
    assert service.tick(stalled, seconds=600).desired_replicas == 6
    assert service.run(build_observation(0), 60).desired_replicas == 1
    assert service.run(build_observation(0), 300).desired_replicas == 0


def test_an_idle_service_with_patchy_data_still_reaches_its_minimum() -> None:
    service = Service(build_settings(), desired=8)
    for _ in range(400):
        service.tick(build_observation(None))
        decision = service.tick(build_observation(0))
    assert decision.desired_replicas == 0


def test_an_outage_of_redis_is_missing_data_and_not_an_empty_queue() -> None:
    samples = [build_sample("a", queue=QueueReading(0, 0), broker_up=False), build_sample("b", broker_up=False)]
    observation = observe(samples, None, build_pods(4), START)
    assert observation.queue is None
    service = Service(build_settings(), desired=4)
    decision = service.tick(observation)
    assert decision.desired_replicas == 4
    assert decision.sentence == (
        "4 pods held: the queue's depth is unknown; 2 of 2 pods answer /metrics; no pod reaches Redis"
    )


def test_held_proposals_keep_the_age_of_their_data() -> None:
    service = Service(build_settings())
    seen = service.tick(build_observation(4)).data_at
    assert service.run(build_observation(None), 60).data_at == seen


def test_without_any_data_yet_nothing_is_to_be_published() -> None:
    assert Service(build_settings(), desired=2).tick(build_observation(None)).data_at is None


def test_one_dead_pod_does_not_blind_the_rest() -> None:
    dead = build_sample("dead")
    samples = [
        type(dead)("dead", dead.component, START, None, "no answer within 1 s"),
        build_sample("alive", queue=QueueReading(3, 1)),
    ]
    observation = observe(samples, None, build_pods(2), START)
    assert observation.queue == QueueReading(3, 1)
    assert (observation.pods_answering, observation.pods_scraped) == (1, 2)


@pytest.mark.parametrize("target_queue_depth", [2, None])
def test_a_backlog_orders_no_more_pods_while_the_first_ones_load(target_queue_depth: int | None) -> None:
    service = Service(build_settings(target_queue_depth=target_queue_depth, max_replicas=50), cold_start=90)
    backlog = build_observation(16, gpu_seconds=320, pods=build_pods(0))
    ordered = service.tick(backlog).desired_replicas
    assert ordered >= 4
    for seconds in range(0, 90, 10):
        pods = build_pods(0, ordered, ages=(float(seconds),) * ordered, at=after(service.seconds + 10))
        decision = service.run(replace(backlog, pods=pods), 10)
        assert decision.desired_replicas == ordered, seconds


def test_no_more_pods_are_ordered_than_there_are_requests() -> None:
    service = Service(build_settings(max_replicas=50, target_latency_seconds=10))
    long_jobs = build_observation(3, gpu_seconds=600, pods=build_pods(0))
    assert service.tick(long_jobs).desired_replicas == 3


def test_pods_that_start_are_reckoned_with_what_they_will_do() -> None:
    def propose(*ages: float) -> int:
        observation = build_observation(20, gpu_seconds=480, pods=build_pods(0, len(ages), ages=ages))
        return (
            Service(build_settings(max_replicas=50, min_replicas=0), cold_start=90)
            .tick(observation, seconds=0)
            .proposals[QUEUE.metric]
        )

    assert propose(0, 0, 0) > propose(60, 60, 60) > propose(89, 89, 89)


def test_pods_that_never_become_ready_are_not_counted_on_for_ever() -> None:
    def propose(age: float) -> int:
        observation = build_observation(20, gpu_seconds=480, pods=build_pods(0, 3, ages=(age,) * 3))
        return (
            Service(build_settings(max_replicas=50), cold_start=90).tick(observation, seconds=0).proposals[QUEUE.metric]
        )

    assert propose(300) < propose(3600)


def stuck(age: float, *, ready: int, starting: int = 0) -> Observation:
    """A queue that the other signals see no fault in: hardly any work, but its oldest request isn't served."""
    pods = build_pods(ready, starting)
    return build_observation(ready + 2, running=ready, gpu_seconds=0.1, oldest=age, pods=pods)


def test_a_stuck_queue_is_late_although_nothing_finishes() -> None:
    service = Service(build_settings(max_replicas=50), cold_start=60)
    assert service.run(stuck(100, ready=4), 120).proposals[LATENCY.metric] == 0, (
        "two targets and a cold start are allowed"
    )
    decision = service.tick(stuck(180, ready=4))
    assert decision.proposals[LATENCY.metric] == 6
    assert decision.sentence.startswith("6 pods: the oldest request waits for 180 s, ")
    assert service.run(stuck(20, ready=6), 120).proposals[LATENCY.metric] == 0


@pytest.mark.parametrize(
    ("order", "pods"),
    [(QueueOrder.TARGET_FIRST, 0), (QueueOrder.FIRST_COME_FIRST_SERVED, 8)],
    ids=["yields", "in order"],
)
def test_a_late_request_that_yields_for_as_long_as_it_may_asks_for_no_pods(order: QueueOrder, pods: int) -> None:
    settings = build_settings(max_replicas=50, max_overtaken_seconds=3600, queue_order=order)
    service = Service(settings, cold_start=60)
    assert service.run(stuck(1800, ready=4), 120).proposals[LATENCY.metric] == pods
    assert service.run(stuck(3700, ready=4), 120).proposals[LATENCY.metric] > 4, "from then on it goes first"


def test_an_old_request_orders_no_more_pods_while_the_first_ones_load() -> None:
    service = Service(build_settings(max_replicas=50), cold_start=60)
    service.tick(stuck(500, ready=4))
    for ready in (4, 5, 6, 7, 8):
        decision = service.run(stuck(500, ready=ready, starting=8 - ready), 60)
        assert decision.proposals[LATENCY.metric] == 8, ready
    assert service.run(stuck(500, ready=8), 120).proposals[LATENCY.metric] == 16


def test_unschedulable_pods_stop_growth_and_are_reported() -> None:
    service = Service(build_settings(max_replicas=50, target_queue_depth=2), desired=4)
    decision = service.tick(build_observation(40, pods=build_pods(2, 1, 1)))
    assert decision.desired_replicas == 4
    assert decision.is_limited_by_capacity


def test_unschedulable_pods_are_not_taken_back_only_to_be_ordered_again() -> None:
    service = Service(build_settings(max_replicas=50, target_queue_depth=2), desired=8)
    decisions = {service.tick(build_observation(16, pods=build_pods(4, 0, 4))).desired_replicas for _ in range(100)}
    assert decisions == {8}


def test_growth_goes_on_once_the_cluster_has_room() -> None:
    service = Service(build_settings(max_replicas=50, target_queue_depth=2), desired=4)
    service.tick(build_observation(40, pods=build_pods(2, 1, 1)))
    decision = service.tick(build_observation(40, gpu_seconds=1, pods=build_pods(4)))
    assert decision.desired_replicas == 20
    assert not decision.is_limited_by_capacity


def test_a_restarted_operator_holds_what_the_status_says() -> None:
    service = Service(build_settings(min_replicas=1, scale_down_after_seconds=60), desired=9)
    assert service.run(build_observation(0), 57.5).desired_replicas == 9
    assert service.tick(build_observation(0)).desired_replicas == 1


def test_a_restarted_operator_leaves_a_sleeping_service_asleep() -> None:
    service = Service(build_settings(), desired=0)
    assert service.run(build_observation(0), 600).desired_replicas == 0


def test_a_large_service_does_not_drop_from_many_pods_to_none_at_once() -> None:
    service = Service(build_settings(scale_down_after_seconds=60, scale_to_zero_after_seconds=300))
    service.tick(build_observation(20, gpu_seconds=2000))
    seen = [service.tick(build_observation(0)).desired_replicas for _ in range(200)]
    assert list(dict.fromkeys(seen)) == [10, 1, 0]


def test_a_decision_is_the_same_for_the_same_values() -> None:
    first, second = (Service(build_settings(), desired=3) for _ in range(2))
    observation = build_observation(9, running=3, late=1, finished=4, arrivals=1.7, pods=build_pods(3))
    assert first.run(observation, 120) == second.run(observation, 120)
