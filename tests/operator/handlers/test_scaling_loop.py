"""One tick over all services: who is asked, what is published, and who writes a scale."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from easel_contract import names
from easel_operator.autoscaling.observation import PodMetrics, PodSample, QueueReading
from easel_operator.autoscaling.replay.setting import FIRST_SETTING
from easel_operator.cluster.external_metrics import ExternalMetricsServer
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.cluster.scraper import Scraper, ScrapeTarget
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.decide.pod_status import read_pods
from easel_operator.decide.snapshot import Capabilities, ScalingDecision
from easel_operator.handlers.scaling_loop import SERVICES_BETWEEN_OTHERS, ScalingLoop
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.handlers.shared_state import SharedState
from easel_operator.objects import DEPLOYMENTS, PODS, Json, ServiceKey, to_service_key
from prometheus_client import REGISTRY, generate_latest

from tests.operator.fake_api import FakeApi
from tests.operator.objects import CAPABLE, HUB_MODEL, NOW, OWNER, build_pod, build_service
from tests.support.eventually import eventually

KEY = to_service_key(build_service())
SCALING = {"minReplicas": 0, "maxReplicas": 8, "targetQueueDepth": 2}
SERVICE = {"model": HUB_MODEL, "scaling": SCALING}
WORKERS = "/apis/apps/v1/namespaces/studio/deployments/painter-worker"
DIRECT = replace(CAPABLE, is_metrics_api_ours=False, metrics_api_note="served by keda")


class FakeScraper(Scraper):
    """Pods that report the depth that the test sets; None: no pod answers."""

    def __init__(self) -> None:
        self.depth: int | None = 0
        self.fetched = 0.0  # of a Job that fills a model's cache
        self.running: set[str] = set()  # workers that say that they run a job
        self.is_broker_up = True
        self.longest_job_seconds: float | None = None
        self.asked: list[str] = []
        self.silent: set[str] = set()  # pods that answer only once they may
        self.may_answer = asyncio.Event()

    async def scrape(self, targets: Sequence[ScrapeTarget]) -> tuple[PodSample, ...]:
        self.asked = [target.pod_name for target in targets]
        if set(self.asked) & self.silent:
            await self.may_answer.wait()
        return tuple(self._answer(target) for target in targets)

    def _answer(self, target: ScrapeTarget) -> PodSample:
        if self.depth is None:
            return PodSample(target.pod_name, target.component, NOW, None, "connection refused")
        queue = QueueReading(waiting=self.depth, running=0) if self.is_broker_up else None
        in_flight = int(target.pod_name in self.running)
        metrics = PodMetrics(
            broker_up=self.is_broker_up, queue=queue, in_flight=in_flight, longest_job_seconds=self.longest_job_seconds
        )
        return PodSample(target.pod_name, target.component, NOW, metrics)


class Bench:
    """A scaling loop with everything around it."""

    def __init__(
        self, capabilities: Capabilities = CAPABLE, *, is_leader: bool = True, scraper: FakeScraper | None = None
    ) -> None:
        self.now = NOW
        self.reported: list[ServiceKey] = []
        self.api = FakeApi()
        self.scraper = scraper or FakeScraper()
        self.services = ServiceStore(on_change=lambda _: None)
        self.children = ObjectStore(on_change=lambda _: None)
        self.shared = SharedState(capabilities)
        self.server = ExternalMetricsServer(stale_after=timedelta(seconds=30), clock=self.clock)
        self.loop = ScalingLoop(
            scraper=self.scraper,
            metrics_server=self.server,
            writer=ClusterWriter(self.api, self.children, pod_name="operator-a", clock=self.clock),
            services=self.services,
            children=self.children,
            shared=self.shared,
            on_news=self.reported.append,
            is_leader=lambda: is_leader,
            clock=self.clock,
        )

    def clock(self) -> datetime:
        return self.now

    def add(self, service: Json, *pods: Json, workers: int = 1) -> None:
        """A service with its worker Deployment and these pods."""
        self.services.put(service)
        name = service["metadata"]["name"]
        deployment = {
            "kind": "Deployment",
            "metadata": {
                "namespace": OWNER.namespace,
                "name": names.worker_name(name),
                "uid": f"uid-of-{name}",
                "ownerReferences": [{"uid": service["metadata"]["uid"], "controller": True}],
                "labels": {names.LABEL_SERVICE: name},
            },
            "spec": {"replicas": workers},
        }
        self.children.put(self.api.store(DEPLOYMENTS.path(OWNER.namespace, names.worker_name(name)), deployment))
        for pod in pods:
            self.children.put({"kind": "Pod", **pod})
            self.api.store(PODS.path(OWNER.namespace, pod["metadata"]["name"]), {"kind": "Pod", **pod})

    async def tick(self, *, later_seconds: float = 2) -> None:
        self.now += timedelta(seconds=later_seconds)
        await self.loop.tick()

    @property
    def replicas(self) -> int:
        """What the worker Deployment now asks for."""
        return int(self.api.objects[WORKERS]["spec"]["replicas"])


GATEWAY = build_pod(names.COMPONENT_GATEWAY, "gateway")
WORKER = build_pod(names.COMPONENT_WORKER, "worker")


async def test_gateways_and_workers_are_asked_and_pods_without_an_address_are_not() -> None:
    bench = Bench()
    pending = build_pod(names.COMPONENT_WORKER, "pending", podIP=None)
    bench.add(build_service(SERVICE), GATEWAY, WORKER, pending)
    await bench.tick()
    assert sorted(bench.scraper.asked) == ["gateway", "worker"]


async def test_a_decision_is_reported_and_carries_its_figures() -> None:
    bench = Bench()
    bench.add(build_service(SERVICE), GATEWAY, WORKER)
    bench.scraper.depth = 7
    await bench.tick()
    decision = bench.shared.decisions[KEY]
    assert decision.desired_replicas == 4
    assert "7 requests" in decision.sentence
    assert KEY in bench.reported
    assert bench.api.writes == [], "the cluster's autoscaler acts, not the operator"


class FetchingScraper(FakeScraper):
    """The pod of a Job that fills a model's cache."""

    def _answer(self, target: ScrapeTarget) -> PodSample:
        if target.component != names.COMPONENT_MODEL_CACHE:
            return super()._answer(target)
        figures = PodMetrics(model_cache_bytes={"needed": 34e9, "fetched": self.fetched, "verified": 0})
        return PodSample(target.pod_name, target.component, NOW, figures)


async def test_a_download_is_followed_before_there_are_workers_and_said_twenty_times() -> None:
    bench = Bench(scraper=FetchingScraper())
    pod = build_pod(names.COMPONENT_MODEL_CACHE, "painter-model-0123456789-x", is_ready=False)
    pod["metadata"]["ownerReferences"] = [{"kind": "Job", "name": f"{names.model_cache_name(KEY.name)}-0123456789"}]
    bench.services.put(build_service(SERVICE))
    bench.children.put({"kind": "Pod", **pod})
    told = []
    for megabytes in range(0, 34_001, 100):
        bench.scraper.fetched = megabytes * 1e6
        await bench.loop.tick()
        told.append(bench.shared.fetches[KEY].fetched_bytes)
    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, 34_000_000_000)
    assert len(set(told)) == len(bench.reported) == 21
    bench.children.delete({"kind": "Pod", **pod})
    await bench.loop.tick()
    assert KEY not in bench.shared.fetches


def build_other_service() -> Json:
    other = build_service(SERVICE)
    return {**other, "metadata": {**other["metadata"], "name": "sculptor", "uid": "another"}}


def build_gateway_of_other(pod_name: str) -> Json:
    pod = build_pod(names.COMPONENT_GATEWAY, pod_name)
    pod["metadata"]["labels"] = {**pod["metadata"]["labels"], names.LABEL_SERVICE: "sculptor"}
    pod["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "sculptor-gateway-7d4b9"}]
    return pod


async def test_a_service_that_the_loop_fails_on_holds_up_no_other_one(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    poisoned = {**build_other_service(), "status": {"scaling": {"desiredReplicas": "many"}}}
    bench.add(poisoned, build_gateway_of_other("its-gateway"))
    bench.add(build_service(SERVICE), GATEWAY, WORKER)
    bench.scraper.depth = 7
    await bench.tick()
    assert bench.shared.decisions[KEY].desired_replicas == 4
    assert to_service_key(poisoned) not in bench.shared.decisions
    assert "studio/sculptor: it wasn't scaled at this tick" in caplog.text
    mended = build_other_service()
    mended["metadata"] |= {"resourceVersion": "1001"}
    bench.services.put(mended)
    await bench.tick()
    assert to_service_key(poisoned) in bench.shared.decisions


async def test_a_service_is_decided_as_soon_as_its_own_pods_have_answered() -> None:
    bench = Bench()
    other = build_other_service()
    bench.add(other, build_gateway_of_other("silent"))
    bench.add(build_service(SERVICE), GATEWAY, WORKER)
    bench.scraper.silent, bench.scraper.depth = {"silent"}, 7

    async def find_decision() -> ScalingDecision | None:
        return bench.shared.decisions.get(KEY)

    ticking = asyncio.create_task(bench.tick())
    assert (await eventually(find_decision)) is not None
    assert not ticking.done()
    bench.scraper.may_answer.set()
    await ticking
    assert to_service_key(other) in bench.shared.decisions


async def test_without_an_autoscaler_the_leader_writes_the_scale() -> None:
    bench = Bench(DIRECT)
    bench.add(build_service(SERVICE), GATEWAY, WORKER)
    bench.scraper.depth = 7
    await bench.tick()
    assert bench.replicas == 4


async def test_a_standby_plans_and_writes_nothing() -> None:
    bench = Bench(DIRECT, is_leader=False)
    bench.add(build_service(SERVICE), GATEWAY, WORKER)
    bench.scraper.depth = 7
    await bench.tick()
    assert bench.shared.decisions[KEY].desired_replicas == 4
    assert bench.api.writes == []


async def test_silent_pods_change_nothing_and_are_reported_after_a_while() -> None:
    bench = Bench(DIRECT)
    bench.add(build_service(SERVICE), GATEWAY, WORKER, workers=3)
    bench.scraper.depth = None
    await bench.tick()
    assert not bench.shared.scrapes[KEY].is_data_missing
    assert bench.shared.decisions == {}, "nobody has reported anything to decide from"
    await bench.tick(later_seconds=600)
    assert bench.shared.scrapes[KEY].is_data_missing
    assert (bench.replicas, bench.api.writes) == (3, [])


async def test_redis_away_is_reported_and_scales_nothing() -> None:
    bench = Bench(DIRECT)
    bench.add(build_service(SERVICE), GATEWAY, WORKER, workers=3)
    bench.scraper.is_broker_up = False
    await bench.tick()
    assert bench.shared.scrapes[KEY].is_broker_up is False
    assert bench.api.writes == []


async def test_a_fixed_service_is_asked_but_not_scaled() -> None:
    bench = Bench(DIRECT)
    bench.add(build_service({"model": HUB_MODEL, "replicas": 1}), GATEWAY, WORKER)
    bench.scraper.depth = 50
    await bench.tick()
    assert bench.shared.scrapes[KEY].is_broker_up is True
    assert (bench.shared.decisions, bench.api.writes) == ({}, [])


async def test_after_a_restart_the_stored_decision_is_held() -> None:
    bench = Bench(DIRECT)
    stored = {"desiredReplicas": 5, "reason": "…", "decidedAt": "2026-11-23T11:59:00Z"}
    bench.add(build_service(SERVICE, scaling=stored), GATEWAY, WORKER, workers=5)
    await bench.tick()
    assert bench.replicas == 5, "an idle moment after a restart scales nothing down before its time"
    assert bench.shared.decisions == {}


async def test_the_longest_job_is_reported_once_and_outlives_the_worker_that_did_it() -> None:
    bench = Bench()
    bench.add(build_service(SERVICE), GATEWAY, WORKER)
    for reported in (41.2, None, 3.0):
        bench.scraper.longest_job_seconds = reported
        await bench.tick()
        assert bench.shared.scrapes[KEY].longest_job_seconds == 42
    bench.reported.clear()
    await bench.tick()
    assert bench.reported == []


async def test_after_a_restart_the_stored_longest_job_is_known() -> None:
    bench = Bench()
    stored = {"gracePeriodSeconds": 240, "longestJobSeconds": 100, "advice": ""}
    bench.add(build_service(SERVICE, termination=stored), GATEWAY, WORKER)
    bench.scraper.longest_job_seconds = 5.0
    await bench.tick()
    assert bench.shared.scrapes[KEY].longest_job_seconds == 100


async def test_a_service_of_the_same_name_starts_afresh() -> None:
    bench = Bench()
    bench.add(build_service(SERVICE), GATEWAY, WORKER)
    bench.scraper.depth = 14
    await bench.tick()
    bench.services.forget(KEY)
    await bench.tick()
    bench.shared.forget(KEY)
    bench.scraper.depth = 0
    fresh = build_service(SERVICE)
    fresh["metadata"] = {**fresh["metadata"], "uid": "another"}
    bench.add(fresh)
    await bench.tick()
    assert bench.shared.decisions[KEY].desired_replicas == 1


async def test_a_strangers_deployment_is_neither_scaled_nor_followed() -> None:
    bench = Bench(DIRECT)
    bench.add(build_service(SERVICE), GATEWAY, WORKER, workers=3)
    theirs = bench.api.objects[WORKERS]
    theirs["metadata"] = {**theirs["metadata"], "uid": "theirs", "ownerReferences": []}
    bench.children.put(theirs)
    bench.scraper.depth = 0
    for _ in range(5):
        await bench.tick(later_seconds=600)
    assert bench.api.writes == []
    assert bench.scraper.asked == []
    assert bench.replicas == 3


async def test_a_deployment_that_took_the_name_a_moment_ago_is_refused_by_its_uid() -> None:
    bench = Bench(DIRECT)
    bench.add(build_service(SERVICE), GATEWAY, WORKER, workers=1)
    bench.scraper.depth = 14
    await bench.tick()
    assert bench.api.bodies[f"{WORKERS}/scale"]["metadata"] == {"uid": "uid-of-painter"}


async def test_a_strangers_pod_with_the_services_labels_is_neither_asked_nor_counted_nor_marked() -> None:
    bench = Bench()
    debug = build_pod(names.COMPONENT_WORKER, "debug")
    debug["metadata"]["ownerReferences"] = []
    bench.add(build_service(SERVICE), GATEWAY, WORKER, debug, workers=2)
    bench.scraper.depth = 0
    await bench.tick()
    await bench.tick(later_seconds=3600)
    assert "debug" not in bench.scraper.asked
    assert [path for _, path in bench.api.writes if path.endswith("/debug")] == []


RECOMMENDED = {"model": HUB_MODEL, "scaling": {**SCALING, "mode": "Recommend"}}


async def test_a_recommendation_is_reported_and_not_carried_out() -> None:
    bench = Bench(DIRECT)
    bench.add(build_service(RECOMMENDED), GATEWAY, WORKER)
    bench.scraper.depth = 7
    await bench.tick()
    assert bench.shared.decisions[KEY].desired_replicas == 4
    assert (bench.replicas, bench.api.writes) == (1, [])


async def test_idle_pods_are_marked_before_the_number_falls() -> None:
    bench = Bench(DIRECT)
    hasty = {**SCALING, "scaleDownAfterSeconds": 0}
    idle, busy = (build_pod(names.COMPONENT_WORKER, name) for name in ("idle", "busy"))
    bench.add(build_service({"model": HUB_MODEL, "scaling": hasty}), GATEWAY, idle, busy, workers=2)
    bench.scraper.running = {"busy"}
    await bench.tick()
    pod = PODS.path(OWNER.namespace, "idle")
    assert bench.api.writes == [("PATCH", pod), ("PATCH", f"{WORKERS}/scale")]
    assert bench.api.objects[pod]["metadata"]["annotations"] == {names.ANNOTATION_DELETION_COST: "-100"}
    assert bench.replicas == 1


async def test_a_standby_marks_no_pods() -> None:
    bench = Bench(DIRECT, is_leader=False)
    hasty = {**SCALING, "scaleDownAfterSeconds": 0}
    bench.add(build_service({"model": HUB_MODEL, "scaling": hasty}), GATEWAY, WORKER, workers=2)
    await bench.tick()
    assert bench.api.writes == []


def test_a_pod_is_asked_on_its_metrics_port_and_one_of_an_earlier_release_on_the_only_one_it_has() -> None:
    def pod_with(name: str, ports: dict[str, int]) -> Json:
        pod = build_pod(names.COMPONENT_GATEWAY, name)
        listed = [{"name": port, "containerPort": number} for port, number in ports.items()]
        return {**pod, "spec": {**pod["spec"], "containers": [{"name": "server", "ports": listed}]}}

    new, old = pod_with("new", {"http": 8080, "metrics": 9090}), pod_with("old", {"http": 8080})
    ports = {pod.name: pod.metrics_port for pod in read_pods((new, old), names.COMPONENT_GATEWAY, NOW)}
    assert ports == {"new": 9090, "old": 8080}


def read_replicas(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, {"namespace": "studio", "service": "painter", **labels})


async def test_figures_of_a_service_that_nobody_scales_any_more_are_gone() -> None:
    bench = Bench()
    bench.add(build_service(SERVICE), GATEWAY, WORKER)
    bench.scraper.depth = 7
    await bench.tick()
    assert read_replicas("easel_operator_desired_replicas") == 4
    assert read_replicas("easel_operator_proposed_replicas", signal="easel_replicas_for_queue") is not None
    assert read_replicas("easel_operator_headroom_margin") == FIRST_SETTING.margin
    fixed = build_service({"model": HUB_MODEL, "replicas": 2})
    fixed["metadata"] |= {"generation": 4, "resourceVersion": "1001"}
    bench.services.put(fixed)
    await bench.tick()
    await bench.tick()
    assert read_replicas("easel_operator_desired_replicas") is None
    assert read_replicas("easel_operator_proposed_replicas", signal="easel_replicas_for_queue") is None
    assert read_replicas("easel_operator_headroom_margin") is None


async def test_figures_of_a_service_that_is_gone_are_gone() -> None:
    bench = Bench()
    bench.add(build_service(SERVICE), GATEWAY, WORKER)
    await bench.tick()
    assert read_replicas("easel_operator_desired_replicas") is not None
    bench.services.forget(KEY)
    await bench.tick()
    assert read_replicas("easel_operator_desired_replicas") is None


def test_writes_are_a_counter_and_keep_their_older_name() -> None:
    page = generate_latest().decode()
    assert "# TYPE easel_operator_api_writes_total counter" in page
    assert "# TYPE easel_operator_api_writes gauge" in page


async def test_a_tick_over_many_services_lets_others_have_their_turn_in_between() -> None:
    bench = Bench()
    ticked: list[ServiceKey] = []
    seen: list[int] = []

    async def tick_service(key: ServiceKey, _service: Json) -> None:
        ticked.append(key)

    async def look() -> None:
        while True:
            seen.append(len(ticked))
            await asyncio.sleep(0)

    for number in range(10 * SERVICES_BETWEEN_OTHERS):
        service = build_service()
        metadata = {**service["metadata"], "name": f"painter-{number}", "uid": f"uid-{number}"}
        bench.services.put({**service, "metadata": metadata})
    bench.loop._tick_service = tick_service  # type: ignore[method-assign, assignment]
    looking = asyncio.create_task(look())
    await bench.loop.tick()
    looking.cancel()
    await asyncio.wait([looking])

    most = max(later - earlier for earlier, later in pairwise(seen))
    assert most <= 2 * SERVICES_BETWEEN_OTHERS
