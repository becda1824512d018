"""What the latest start of a worker was made of, as the status says it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from easel_contract.resource import ColdStartStatus
from easel_operator.autoscaling.observation import PodMetrics, PodSample
from easel_operator.cluster.scraper import parse_metrics
from easel_operator.decide.facts import recall_cold_start
from easel_operator.decide.pod_status import read_pod
from easel_operator.decide.reconcile import decide
from easel_operator.decide.scaling import find_cold_start
from easel_operator.decide.snapshot import ScrapeReport
from easel_operator.objects import Json

from tests.operator.objects import NOW, build_pod, build_service, build_snapshot

PHASES = {"imported": 9.6, "weights": 20.4, "compiled": 0.0, "warm": 1.2}


def at(clock: str) -> str:
    return f"2026-11-23T{clock}Z"


def build_worker(name: str = "worker-1", *, ready: str = "11:01:00", restarts: int = 0) -> Json:
    """Created at 11:00:00, on its node at 11:00:05, its container running since 11:00:20."""
    running = {"running": {"startedAt": at("11:00:20")}}
    pod = build_pod(
        "worker",
        name,
        conditions=[
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": at("11:00:05")},
            {"type": "Ready", "status": "True", "lastTransitionTime": at(ready)},
        ],
        containerStatuses=[{"name": "server", "ready": True, "restartCount": restarts, "state": running}],
    )
    pod["metadata"]["creationTimestamp"] = at("11:00:00")
    return pod


def sample(name: str = "worker-1", **metrics: Any) -> PodSample:
    return PodSample(name, "worker", NOW, PodMetrics(**({"start_phases": PHASES} | metrics)))


def find(*pods: Json, samples: tuple[PodSample, ...], known: ColdStartStatus | None = None) -> ColdStartStatus | None:
    return find_cold_start([read_pod(pod, NOW) for pod in pods], samples, known)


def test_a_start_is_made_of_what_the_cluster_and_the_worker_took():
    found = find(build_worker(), samples=(sample(),))
    assert found is not None
    assert found.to_wire() == {
        "podName": "worker-1",
        "readyAt": "2026-11-23T11:01:00Z",
        "scheduledSeconds": 5,
        "pulledSeconds": 15,
        "importedSeconds": 10,
        "weightsSeconds": 20,
        "compiledSeconds": 0,
        "warmSeconds": 1,
    }


def test_the_worker_that_became_ready_last_is_shown():
    pods = (build_worker("worker-1", ready="11:05:00"), build_worker("worker-2", ready="11:03:00"))
    found = find(*pods, samples=(sample("worker-1"), sample("worker-2")))
    assert found is not None
    assert found.pod_name == "worker-1"


def test_a_start_stays_known_when_its_pod_is_gone_or_silent():
    known = find(build_worker("worker-9", ready="11:09:00"), samples=(sample("worker-9"),))
    assert find(build_worker(), samples=(sample(),), known=known) == known, "it became ready before"
    assert find(build_worker("worker-2", ready="11:30:00"), samples=(), known=known) == known
    silent = PodSample("worker-2", "worker", NOW, None, "no answer")
    assert find(build_worker("worker-2", ready="11:30:00"), samples=(silent,), known=known) == known


def test_a_container_that_was_started_again_pulled_nothing():
    found = find(build_worker(restarts=1), samples=(sample(),))
    assert found is not None
    assert (found.scheduled_seconds, found.pulled_seconds, found.imported_seconds) == (None, None, 10)


def test_a_worker_that_was_started_again_in_its_container_waited_for_no_node():
    found = find(build_worker(), samples=(sample(restarts=1),))
    assert found is not None
    assert (found.scheduled_seconds, found.pulled_seconds) == (None, None)


def test_a_pod_of_an_earlier_release_says_nothing_of_its_phases():
    assert find(build_worker(), samples=(sample(start_phases={}),)) is None


def test_phases_are_read_from_the_workers_metrics():
    page = """easel_worker_start_phase_seconds{phase="imported"} 9.5
easel_worker_start_phase_seconds{phase="warm"} NaN
easel_worker_start_phase_seconds{phase="of another release"} 3
easel_worker_start_phase_seconds 3
easel_worker_restarts 2.0
"""
    read = parse_metrics(page)
    assert (dict(read.start_phases), read.restarts) == ({"imported": 9.5}, 2)


def test_the_status_says_it_and_a_restarted_operator_goes_on_saying_it():
    start = find(build_worker(), samples=(sample(),))
    snapshot = build_snapshot(build_service(), scrape=ScrapeReport(cold_start=start))
    patch = decide(snapshot).status_patch
    assert patch is not None
    assert patch["status"]["coldStart"]["importedSeconds"] == 10
    restarted = replace(snapshot, service=build_service(**patch["status"]), scrape=None)
    assert recall_cold_start(restarted.service) == start
    assert (decide(restarted).status_patch or patch)["status"]["coldStart"] == patch["status"]["coldStart"]


def test_what_another_version_has_stored_is_no_reason_to_fail():
    assert recall_cold_start(build_service(coldStart={"podName": 7})) is None
    assert recall_cold_start(build_service()) is None


def test_a_figure_that_nobody_believes_is_bounded():
    found = find(build_worker(), samples=(sample(start_phases={"weights": 1e14}),))
    assert found is not None
    assert found.weights_seconds == 86400
    assert found.ready_at == datetime(2026, 11, 23, 11, 1, tzinfo=UTC)
