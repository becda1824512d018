"""The planner's decisions, keyed by sentences; the pitfalls that other autoscalers met are in test_pitfalls."""

import math
from dataclasses import replace

import pytest
from easel_contract import metrics
from easel_operator.autoscaling import planner
from easel_operator.autoscaling.counters import CounterReading, Growth, Window
from easel_operator.autoscaling.observation import Observation, QueueReading
from easel_operator.autoscaling.planner import Plan, to_external_values
from easel_operator.autoscaling.proposal import NOTHING, Proposal
from easel_operator.autoscaling.signals import FORECAST, LATENCY, QUEUE, SCHEDULE, SIGNALS
from easel_operator.autoscaling.work import MovingRate

from tests.operator.autoscaling.support import START, Service, after, build_observation, build_pods, build_settings

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
def test_requests_over_target_per_pod_where_a_target_is_set(minimum: int, depth: int, expected: int) -> None:
    service = Service(build_settings(min_replicas=minimum, target_queue_depth=2))
    assert service.tick(build_observation(depth, gpu_seconds=0.1)).desired_replicas == expected


def test_a_backlog_in_gpu_seconds_orders_pods_without_any_target_per_pod() -> None:
    small = Service(build_settings()).tick(build_observation(8, gpu_seconds=2.0, pods=build_pods(0)))
    large = Service(build_settings()).tick(build_observation(8, gpu_seconds=100.0, pods=build_pods(0)))
    assert small.desired_replicas == 1 < large.desired_replicas, "requests don't count, their work does"


SENTENCES = {
    "by requests": (
        {"target_queue_depth": 2},
        build_observation(7, pods=build_pods(2, 2, ages=(1, 1))),
        "4 pods: 7 requests waiting or running, 2 a pod, 2 pods ready, 2 starting, target 30 s",
    ),
    "by arrivals": (
        {},
        build_observation(0, arrivals=2.2, pods=build_pods(2)),
        "2 pods: arrivals keep 2.2 pods busy, 2 pods ready, 0 starting, target 30 s",
    ),
    "at the maximum": (
        {"target_queue_depth": 2},
        build_observation(50, pods=build_pods(10)),
        "10 pods: 50 requests waiting or running, 2 a pod (25 needed; maxReplicas 10), 10 pods ready, 0 starting, "
        "target 30 s",
    ),
    "out of room": (
        {"target_queue_depth": 2},
        build_observation(12, pods=build_pods(2, 0, 1)),
        "3 pods: 12 requests waiting or running, 2 a pod (6 needed; the cluster has no room for 1 of the pods already "
        "ordered), 2 pods ready, 0 starting, 1 unschedulable, target 30 s",
    ),
    "nothing known": (
        {},
        build_observation(None),
        "1 pod held: the queue's depth is unknown; 0 of 3 pods answer /metrics",
    ),
    "idle": (
        {},
        build_observation(0),
        "1 pod: nothing waits or runs (0 needed; the last pod is scaled down after 300 s of that), 1 pod ready, "
        "0 starting, target 30 s",
    ),
}


def why(decision: Plan) -> str:
    """The sentence without its last part, which is of the headroom."""
    return decision.sentence.partition("; margin 0: ")[0]


@pytest.mark.parametrize(("values", "observation", "sentence"), SENTENCES.values(), ids=SENTENCES.keys())
def test_the_sentence_carries_the_figures(values: dict[str, int], observation: object, sentence: str) -> None:
    service = Service(build_settings(**values), desired=1)
    assert why(service.tick(observation)) == sentence  # type: ignore[arg-type]  # a table of observations


def test_the_sentence_of_a_backlog_has_its_gpu_seconds() -> None:
    service = Service(build_settings(max_replicas=50), cold_start=5)
    decision = service.tick(build_observation(9, running=2, gpu_seconds=138, pods=build_pods(2, 1, ages=(1,))))
    assert why(decision) == "4 pods: 138 GPU-seconds queued, 2 pods ready, 1 starting, target 30 s"


def test_the_sentence_says_when_pods_are_only_held() -> None:
    service = Service(build_settings(min_replicas=1, scale_down_after_seconds=60, target_queue_depth=2))
    service.tick(build_observation(8, pods=build_pods(4)))
    assert why(service.tick(build_observation(1, gpu_seconds=1, pods=build_pods(4)))) == (
        "4 pods: 1 GPU-seconds queued (1 needed; a pod is scaled down after 60 s without need), 4 pods ready, 0 "
        "starting, target 30 s"
    )


def test_a_pod_is_scaled_down_after_the_delay_and_not_before() -> None:
    service = Service(build_settings(min_replicas=1, scale_down_after_seconds=60, target_queue_depth=2))
    service.tick(build_observation(8))
    assert service.run(build_observation(2), 57.5).desired_replicas == 4
    assert service.tick(build_observation(2)).desired_replicas == 1


def test_pods_are_scaled_down_in_the_steps_in_which_the_need_went() -> None:
    service = Service(build_settings(min_replicas=1, scale_down_after_seconds=60, target_queue_depth=2))
    service.tick(build_observation(8))
    service.run(build_observation(6), 30)
    assert service.run(build_observation(2), 30).desired_replicas == 3
    assert service.run(build_observation(2), 30).desired_replicas == 1


def test_without_a_time_set_pods_are_kept_for_a_part_of_what_their_return_would_cost() -> None:
    def seconds_held(cold_start: int) -> float:
        settings = build_settings(scale_down_after_seconds=None, min_replicas=1, target_queue_depth=2)
        service = Service(settings, cold_start=cold_start)
        service.tick(build_observation(8))
        while service.tick(build_observation(1, gpu_seconds=0.1)).desired_replicas == 4:
            assert service.seconds < 3600
        return service.seconds

    assert seconds_held(30) < seconds_held(90) < seconds_held(300) < 300


def test_the_last_pod_goes_after_its_own_longer_time() -> None:
    service = Service(build_settings(scale_down_after_seconds=60, scale_to_zero_after_seconds=300))
    service.tick(build_observation(8, gpu_seconds=200))
    assert service.run(build_observation(0), 297.5).desired_replicas == 1
    decision = service.tick(build_observation(0))
    assert decision.desired_replicas == 0
    assert why(decision) == "0 pods: nothing waited or ran for 300 s, 1 pod ready, 0 starting, target 30 s"


def test_a_service_that_sleeps_says_so_although_much_arrived_shortly_before() -> None:
    service = Service(build_settings(scale_down_after_seconds=0, scale_to_zero_after_seconds=30))
    service.tick(build_observation(8, gpu_seconds=200, arrivals=1.5))
    decision = service.run(build_observation(0, arrivals=1.5), 32.5)  # a mean that still remembers them
    assert decision.desired_replicas == 0
    assert why(decision) == "0 pods: nothing waited or ran for 30 s, 1 pod ready, 0 starting, target 30 s"


def test_a_pod_that_still_loads_its_model_is_not_scaled_down_for_idleness() -> None:
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
    assert service.run(build_observation(0, pods=build_pods(0)), 60).desired_replicas == 0
    decision = service.tick(build_observation(9, gpu_seconds=90, pods=build_pods(0)))
    assert decision.desired_replicas > 2
    assert decision.desired_replicas == decision.proposals[QUEUE.metric]


def test_the_largest_proposal_is_the_decision() -> None:
    service = Service(build_settings(target_queue_depth=2))
    decision = service.tick(build_observation(5, gpu_seconds=1, arrivals=6.2, pods=build_pods(6)))
    assert set(decision.proposals) == {signal.metric for signal in SIGNALS}
    assert (decision.proposals[QUEUE.metric], decision.proposals[LATENCY.metric]) == (5, 6)
    assert decision.desired_replicas == 6


def test_pods_that_run_jobs_are_not_scaled_down() -> None:
    service = Service(build_settings(min_replicas=1, scale_down_after_seconds=0), desired=6)
    busy = build_observation(4, running=4, gpu_seconds=0.5, pods=build_pods(6), idle_pods=2)
    assert service.run(busy, 60).desired_replicas == 4
    assert service.run(build_observation(0, pods=build_pods(4), idle_pods=4), 10).desired_replicas == 1


def test_during_a_rollout_no_pod_is_scaled_down_and_more_may_come() -> None:
    service = Service(build_settings(min_replicas=1, scale_down_after_seconds=0), desired=4)
    rolling = build_pods(3, 1, is_rolling_out=True)
    decision = service.run(build_observation(0, pods=rolling), 300)
    assert decision.desired_replicas == 4
    assert "none is scaled down while pods are being replaced" in decision.sentence
    assert service.tick(build_observation(90, gpu_seconds=900, pods=rolling)).desired_replicas == 10
    assert service.run(build_observation(0, pods=rolling), 3600).desired_replicas == 1, "a stuck rollout is no reason"


SCHEDULE_OF_NOON = {"name": "noon", "cron": "30 12 * * *", "durationMinutes": 60, "minReplicas": 5}


def test_a_schedule_is_a_floor_whose_pods_are_ordered_a_cold_start_ahead() -> None:
    service = Service(build_settings(schedules=[SCHEDULE_OF_NOON], scale_down_after_seconds=0), cold_start=120)
    idle = build_observation(0)
    assert service.run(idle, 28 * 60 - 30).proposals[SCHEDULE.metric] == 0
    assert after(service.seconds) == START.replace(minute=27, second=30)
    decision = service.run(idle, 60)
    assert decision.desired_replicas == decision.proposals[SCHEDULE.metric] == 5
    assert decision.sentence.startswith("5 pods: schedule noon, ")
    assert service.run(idle, 60 * 60).desired_replicas == 5
    assert service.run(idle, 3 * 60).desired_replicas == 0


def test_a_forecast_that_has_not_proved_itself_asks_for_nothing() -> None:
    service = Service(build_settings())
    assert service.run(build_observation(3, arrivals=3.0), 600).proposals[FORECAST.metric] == 0


def test_pods_for_a_foreseen_burst_are_not_kept_as_others_are_when_it_does_not_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Proposal(0, "900 GPU-seconds expected at 12:00 UTC", passing=7)
    service = Service(build_settings(scale_down_after_seconds=600))
    given = {"by_forecast": asked}
    signals = tuple(
        replace(signal, propose=lambda _: given["by_forecast"]) if signal is FORECAST else signal for signal in SIGNALS
    )
    monkeypatch.setattr(planner, "SIGNALS", signals)
    decision = service.run(build_observation(0), 60)
    assert decision.desired_replicas == decision.proposals[FORECAST.metric] == 7
    assert decision.sentence.startswith("7 pods: 900 GPU-seconds expected at 12:00 UTC")
    given["by_forecast"] = NOTHING
    assert service.tick(build_observation(0)).desired_replicas == 1


def test_external_values_are_the_proposals_and_what_is_known() -> None:
    service = Service(build_settings())
    known = build_observation(7, gpu_seconds=21.5, arrivals=0.5)
    finished = CounterReading(latency_buckets={12.5: 95.0, 25.0: 100.0, math.inf: 100.0})
    known = replace(known, window=Window(START, (Growth(START, START, finished),)))
    values = to_external_values(service.tick(known), known)
    assert {name: value for name, value in values.items() if name not in {signal.metric for signal in SIGNALS}} == {
        metrics.EXTERNAL_QUEUE_DEPTH: 7,
        metrics.EXTERNAL_BACKLOG_GPU_SECONDS: 21.5,
        metrics.EXTERNAL_ARRIVING_GPU_SECONDS_PER_SECOND: 0.5,
        metrics.EXTERNAL_LATENCY_P95_SECONDS: 12.5,
    }
    unknown = build_observation(None)
    assert set(to_external_values(service.tick(unknown), unknown)) == {signal.metric for signal in SIGNALS}


def observe_jobs(
    waiting: int,
    running: int,
    *,
    gpu_seconds: float,
    bounded: float,
    overrunning: int,
    pods: int,
    arrivals: float = 0.0,
) -> Observation:
    """Bounded work as servers report it."""
    queue = QueueReading(waiting, running, 0.0, gpu_seconds, 0.0, bounded, 0.0, overrunning)
    known = build_observation(waiting + running, pods=build_pods(pods), arrivals=arrivals)
    return replace(known, queue=queue)


def test_a_job_of_ten_targets_that_waits_asks_for_one_pod_since_more_would_not_make_it_shorter() -> None:
    service = Service(build_settings(max_replicas=50))
    decision = service.tick(observe_jobs(1, 0, gpu_seconds=300, bounded=30, overrunning=0, pods=0))
    assert decision.desired_replicas == 1
    earlier = build_observation(1, gpu_seconds=300, pods=build_pods(0), arrivals=0.0)
    assert Service(build_settings(max_replicas=50)).tick(earlier).desired_replicas == 1  # no more pods than requests
    crowd = observe_jobs(20, 0, gpu_seconds=6000, bounded=600, overrunning=0, pods=0)
    assert service.tick(crowd).desired_replicas < 20


def test_a_pod_whose_job_overruns_is_not_counted_on_for_what_waits() -> None:
    service = Service(build_settings(max_replicas=50), desired=3)
    waiting = observe_jobs(4, 3, gpu_seconds=320, bounded=20, overrunning=3, pods=3)
    alone = observe_jobs(4, 0, gpu_seconds=20, bounded=20, overrunning=0, pods=0)
    expected = 3 + Service(build_settings(max_replicas=50)).tick(alone).desired_replicas
    decision = service.tick(waiting)
    assert decision.proposals[QUEUE.metric] == expected > 3
    assert "3 pods busy with jobs that run for longer than the target" in decision.sentence


def test_arrivals_get_their_pods_beside_those_that_overrunning_jobs_keep_busy() -> None:
    service = Service(build_settings(max_replicas=50), desired=4)
    decision = service.tick(observe_jobs(0, 4, gpu_seconds=0, bounded=0, overrunning=2, pods=4, arrivals=3.0))
    assert decision.proposals[LATENCY.metric] == 5


def test_jobs_that_share_a_pod_and_overrun_are_no_more_pods_than_there_are() -> None:
    service = Service(build_settings(max_replicas=50), desired=2)
    shared = observe_jobs(0, 16, gpu_seconds=0, bounded=0, overrunning=16, pods=2)
    assert service.tick(shared).desired_replicas == 2


def test_a_batch_that_overruns_on_one_pod_is_not_a_pod_for_each_of_its_jobs() -> None:
    """Eight on one of eight pods: the seven others go on with what waits."""
    batch = observe_jobs(4, 15, gpu_seconds=100, bounded=100, overrunning=8, pods=8)
    alone = observe_jobs(4, 8, gpu_seconds=100, bounded=100, overrunning=8, pods=8)
    assert batch.overrunning_pods == 5, "two jobs a pod, as far as anybody knows"
    assert alone.overrunning_pods == 8
    decisions = [Service(build_settings(max_replicas=50), desired=8).tick(each) for each in (batch, alone)]
    assert decisions[0].proposals[QUEUE.metric] < decisions[1].proposals[QUEUE.metric]


def test_people_s_own_autoscalers_still_see_all_of_the_work() -> None:
    known = observe_jobs(5, 2, gpu_seconds=900, bounded=90, overrunning=1, pods=2)
    arrivals = replace(
        known.arrivals, unbounded_fast=MovingRate(30.0, 7.0, 1.0), unbounded_slow=MovingRate(120.0, 7.0, 1.0)
    )
    values = to_external_values(Service(build_settings()).tick(known), replace(known, arrivals=arrivals))
    assert values[metrics.EXTERNAL_BACKLOG_GPU_SECONDS] == 900
    assert values[metrics.EXTERNAL_ARRIVING_GPU_SECONDS_PER_SECOND] == pytest.approx(7.0)


def test_changed_bounds_take_effect_at_once_even_without_data() -> None:
    service = Service(build_settings(), desired=8)
    service.settings = build_settings(max_replicas=3)
    assert service.tick(build_observation(None)).desired_replicas == 3
    service.settings = build_settings(min_replicas=5)
    assert service.tick(build_observation(None)).desired_replicas == 5


def test_a_clock_that_is_set_back_neither_gives_up_pods_nor_holds_them_longer() -> None:
    service = Service(build_settings(min_replicas=1, scale_down_after_seconds=60, target_queue_depth=2))
    service.tick(build_observation(8))
    back = replace(build_observation(1, gpu_seconds=1), elapsed_seconds=-3600.0)
    assert service.tick(back, seconds=-3600).desired_replicas == 4
    assert service.run(build_observation(1, gpu_seconds=1), 55).desired_replicas == 4
    assert service.run(build_observation(1, gpu_seconds=1), 10).desired_replicas == 1
