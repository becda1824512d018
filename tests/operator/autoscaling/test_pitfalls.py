"""Each trap that other autoscalers fell into, as a test. docs/autoscaling.md lists them with their sources."""

from dataclasses import replace

from easel_operator.autoscaling.observation import QueueReading, observe
from easel_operator.autoscaling.planner import LATENCY
from easel_operator.autoscaling.signals import Load

from tests.operator.autoscaling.support import (
    START,
    TICK_SECONDS,
    Service,
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
    assert service.tick(build_observation(2, running=1)).desired_replicas == 2


def test_missing_data_never_scales_down() -> None:
    service = Service(build_settings(scale_down_after_seconds=60))
    service.tick(build_observation(12))
    assert service.run(build_observation(None), 3600).desired_replicas == 6


def test_missing_data_never_scales_to_zero() -> None:
    service = Service(build_settings(), desired=1)
    assert service.run(build_observation(None), 3600).desired_replicas == 1


def test_time_without_data_is_not_time_without_need() -> None:
    service = Service(build_settings(scale_down_after_seconds=60, scale_to_zero_after_seconds=300))
    service.tick(build_observation(12))
    service.run(build_observation(None), 600)
    assert service.run(build_observation(0), 55).desired_replicas == 6
    assert service.run(build_observation(0), 230).desired_replicas == 1
    assert service.run(build_observation(0), 30).desired_replicas == 0


def test_an_operator_that_stalled_did_not_watch_an_idle_service_meanwhile() -> None:
    service = Service(build_settings(scale_down_after_seconds=60, scale_to_zero_after_seconds=300))
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


def test_a_backlog_orders_no_more_pods_while_the_first_ones_load() -> None:
    service = Service(build_settings(target_queue_depth=2, max_replicas=50))
    for ready in (0, 1, 2, 3, 4):
        observation = build_observation(16, running=ready, pods=build_pods(ready, 8 - ready))
        assert service.run(observation, 30).desired_replicas == 8


def test_lateness_orders_no_more_pods_while_the_first_ones_load() -> None:
    service = Service(build_settings(target_queue_depth=100, max_replicas=50))
    for ready in (4, 5, 6, 7, 8):
        pods = build_pods(ready, 8 - ready)
        decision = service.run(build_observation(40, running=ready, p95=90, oldest=90, pods=pods), 30)
        assert decision.proposals[LATENCY] == 8, ready
    later = build_observation(40, running=8, p95=90, oldest=90, pods=build_pods(8))
    assert service.run(later, 60).proposals[LATENCY] == 16


def test_pods_that_never_become_ready_do_not_silence_lateness_for_ever() -> None:
    service = Service(build_settings(target_queue_depth=100, max_replicas=50))
    stuck = build_observation(40, running=6, p95=90, oldest=90, pods=build_pods(6, 2))
    assert service.run(stuck, 540).proposals[LATENCY] == 12
    seven = build_observation(40, running=7, p95=90, oldest=90, pods=build_pods(7, 5))
    assert service.run(seven, 120).proposals[LATENCY] == 14


def test_unschedulable_pods_stop_growth_and_are_reported() -> None:
    service = Service(build_settings(max_replicas=50), desired=4)
    decision = service.tick(build_observation(40, pods=build_pods(2, 1, 1)))
    assert decision.desired_replicas == 4
    assert decision.is_limited_by_capacity


def test_unschedulable_pods_are_not_taken_back_only_to_be_ordered_again() -> None:
    service = Service(build_settings(max_replicas=50), desired=8)
    decisions = {service.tick(build_observation(16, pods=build_pods(4, 0, 4))).desired_replicas for _ in range(100)}
    assert decisions == {8}


def test_growth_goes_on_once_the_cluster_has_room() -> None:
    service = Service(build_settings(max_replicas=50), desired=4)
    service.tick(build_observation(40, pods=build_pods(2, 1, 1)))
    decision = service.tick(build_observation(40, pods=build_pods(4)))
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
    service.tick(build_observation(20))
    seen = [service.tick(build_observation(0)).desired_replicas for _ in range(200)]
    assert list(dict.fromkeys(seen)) == [10, 1, 0]


def test_a_pod_whose_work_the_others_could_not_carry_is_kept_although_the_queue_is_short() -> None:
    # Three pods at 0.25 jobs/s each were measured under load; 0.6 jobs/s arrive and keep 2.4 of them busy.
    load = Load(finished=75, pod_seconds=300, busy_pods=2.4)
    assert load.needed_replicas(0.6) == 3
    service = Service(build_settings(target_queue_depth=4, scale_down_after_seconds=0), desired=3)
    service.history = replace(service.history, load=load)
    observation = build_observation(2, running=2, arrivals=0.6, idle_workers=1, pods=build_pods(3))
    assert service.run(observation, 30).desired_replicas == 3
    assert "0.6 requests/s keep" in service.tick(observation).sentence


def test_a_stale_capacity_holds_no_idle_pods() -> None:
    load = Load(finished=10, pod_seconds=1000, busy_pods=0.3)
    assert load.needed_replicas(0.6) == 1


def test_measured_arrivals_keep_pods_but_never_order_any() -> None:
    service = Service(build_settings(target_queue_depth=4), desired=1)
    service.history = replace(service.history, load=Load(finished=75, pod_seconds=300, busy_pods=5))
    assert service.tick(build_observation(2, arrivals=2.0)).desired_replicas == 1


def test_capacity_is_measured_only_while_work_waits() -> None:
    load = Load()
    for _ in range(20):
        load = load.measure(build_observation(2, running=2, finished=1, pods=build_pods(2)))
    assert load.pod_seconds == 0
    for _ in range(20):
        load = load.measure(build_observation(4, running=2, finished=1, pods=build_pods(2)))
    assert abs(load.finished / load.pod_seconds - 1 / (2 * TICK_SECONDS)) < 1e-9


def test_a_decision_is_the_same_for_the_same_values() -> None:
    first, second = (Service(build_settings(), desired=3) for _ in range(2))
    observation = build_observation(9, running=3, p95=44, pods=build_pods(3))
    assert first.run(observation, 120) == second.run(observation, 120)
