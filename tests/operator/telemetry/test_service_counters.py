"""What a service's workers cost and went through, as the leader counts it."""

from datetime import timedelta
from typing import Any

import pytest
from easel_contract import metrics, names
from easel_contract.metrics import DecisionReason
from easel_contract.resource import ServiceDefaults, StableDiffusionServiceSpec
from easel_operator.autoscaling.counters import CounterReading
from easel_operator.autoscaling.observation import Observation, PodMetrics, PodSample, observe
from easel_operator.autoscaling.workers import PodCounts
from easel_operator.decide.pod_status import read_pods
from easel_operator.objects import Json, ServiceKey
from easel_operator.telemetry.service_counters import ServiceCounters, Sight
from prometheus_client import REGISTRY

from tests.operator.objects import HUB_MODEL, NOW, build_container_status, build_pod, build_unschedulable_pod

DEFAULTS = ServiceDefaults.model_validate({"worker": {"pricePerGpuHour": 3.6}, "currency": "EUR"})
WORKER = names.COMPONENT_WORKER


class Follower:
    """Ticks over one service, and reads what was counted of it."""

    def __init__(self, name: str, worker: Json | None = None) -> None:
        self.key = ServiceKey("studio", name)
        self.counters = ServiceCounters(DEFAULTS)
        self.spec = StableDiffusionServiceSpec.model_validate(
            {"model": HUB_MODEL, "replicas": 1, "worker": worker or {}}
        )
        self.now = NOW
        self.observation: Observation | None = None

    def tick(self, *pods: Json, seconds: float = 2, is_leader: bool = True, **readings: PodMetrics | None) -> None:
        self.now += timedelta(seconds=seconds)
        workers = read_pods(pods, WORKER, self.now)
        samples = [
            PodSample(pod, WORKER, self.now, read, None if read else "no answer") for pod, read in readings.items()
        ]
        counts = PodCounts(desired=1, existing=1, ready=1, starting=0, unschedulable=0)
        self.observation = observe(samples, self.observation, counts, self.now)
        sight = Sight(self.spec, pods, workers, workers, samples, self.observation, None)
        self.counters.count(self.key, sight, is_leader=is_leader)

    def read(self, name: str, **labels: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"namespace": "studio", "service": self.key.name, **labels})


@pytest.fixture
def follow(request: pytest.FixtureRequest) -> Any:
    made: list[Follower] = []

    def build(worker: Json | None = None) -> Follower:
        made.append(Follower(request.node.name.removeprefix("test_"), worker))
        return made[-1]

    yield build
    for each in made:
        each.counters.forget(each.key)


def busy(gpu_seconds: float, restarts: int = 0) -> PodMetrics:
    return PodMetrics(counters=CounterReading(work_gpu_seconds=gpu_seconds), restarts=restarts)


def with_gpus(pod: Json, count: str) -> Json:
    container = {"name": names.CONTAINER_NAME, "resources": {"limits": {"nvidia.com/gpu": count, "memory": "9Gi"}}}
    return {**pod, "spec": {**pod["spec"], "containers": [container]}}


def test_gpus_are_held_from_a_pods_node_to_its_end_and_cost_their_price(follow: Any) -> None:
    one = follow({"gpu": {"count": 1}})
    loading = build_pod(WORKER, "b", is_ready=False)
    ending = build_pod(WORKER, "c")
    ending["metadata"]["deletionTimestamp"] = "2026-11-23T12:00:00Z"
    over = build_pod(WORKER, "d", phase="Succeeded")
    pods = (with_gpus(build_pod(WORKER, "a"), "2"), loading, ending, over, build_unschedulable_pod("e"))
    one.tick(*pods)
    assert one.read(metrics.SERVICE_HELD_GPU_SECONDS_TOTAL) == 0, "since when they were is unknown"
    one.tick(*pods, seconds=10)
    assert one.read(metrics.SERVICE_HELD_GPU_SECONDS_TOTAL) == (2 + 1 + 1) * 10
    assert one.read(metrics.SERVICE_COST_TOTAL, currency="EUR") == pytest.approx(0.04)


def test_what_was_held_while_nobody_looked_isn_t_made_up(follow: Any) -> None:
    one, pod = follow(), build_pod(WORKER, "a")
    one.tick(pod)
    one.tick(pod, seconds=301)
    one.tick(pod, seconds=-60)
    assert one.read(metrics.SERVICE_HELD_GPU_SECONDS_TOTAL) == 0


def test_only_the_leader_counts_so_that_a_sum_over_replicas_is_right(follow: Any) -> None:
    one, pod = follow(), build_pod(WORKER, "a")
    one.tick(pod, is_leader=False, a=busy(0))
    one.tick(pod, is_leader=False, a=busy(2))
    one.tick(pod, a=busy(3))  # has just become the leader: the one before has counted so far
    assert not one.read(metrics.SERVICE_HELD_GPU_SECONDS_TOTAL)
    assert not one.read(metrics.SERVICE_WORKED_GPU_SECONDS_TOTAL)
    one.tick(pod, seconds=4, a=busy(6))
    assert one.read(metrics.SERVICE_HELD_GPU_SECONDS_TOTAL) == 4
    assert one.read(metrics.SERVICE_WORKED_GPU_SECONDS_TOTAL) == 3


def test_a_service_without_a_price_has_no_cost(follow: Any) -> None:
    one = follow()
    one.counters = ServiceCounters(ServiceDefaults())
    one.tick(build_pod(WORKER, "a"))
    one.tick(build_pod(WORKER, "a"))
    assert one.read(metrics.SERVICE_COST_TOTAL, currency="USD") is None


def test_restarts_of_containers_and_of_workers_in_them_count_once_each(follow: Any) -> None:
    one = follow()
    before = build_pod(WORKER, "a", containerStatuses=[build_container_status(restarts=4)])
    one.tick(before, a=busy(0, restarts=1))
    assert one.read(metrics.SERVICE_WORKER_RESTARTS_TOTAL) == 0, "they were before anybody looked"
    one.tick(before, a=busy(0, restarts=2))
    after = build_pod(WORKER, "a", containerStatuses=[build_container_status(restarts=6)])
    one.tick(after, build_pod(WORKER, "new"), a=busy(0, restarts=2))
    assert one.read(metrics.SERVICE_WORKER_RESTARTS_TOTAL) == 3


def test_a_ready_pod_that_doesn_t_answer_is_a_failure_and_one_that_loads_is_none(follow: Any) -> None:
    one = follow()
    one.tick(build_pod(WORKER, "a"), build_pod(WORKER, "b", is_ready=False), a=None, b=None, is_leader=False)
    assert one.read(metrics.SERVICE_SCRAPE_FAILURES_TOTAL) == 1


def test_one_reason_holds_at_a_time_and_none_of_a_service_that_is_gone(follow: Any) -> None:
    one = follow()
    for reason in (DecisionReason.QUEUE, DecisionReason.NO_CAPACITY):
        one.counters.show_decision(one.key, reason)
    assert one.read(metrics.SERVICE_DECISION, reason="NoCapacity") == 1
    assert one.read(metrics.SERVICE_DECISION, reason="Queue") is None
    one.counters.forget(one.key)
    assert one.read(metrics.SERVICE_DECISION, reason="NoCapacity") is None
