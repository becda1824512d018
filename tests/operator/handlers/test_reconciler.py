"""Gather, decide and apply against an API server in memory: convergence, idempotence, conflicts, faults."""

import asyncio
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from easel_contract import names
from easel_contract.resource import ServiceDefaults
from easel_operator.cluster.client import ApiRefusedError, ApiUnreachableError, KubernetesError
from easel_operator.cluster.informer import trim
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.decide.snapshot import FetchProgress, ScrapeReport
from easel_operator.handlers.reconciler import Reconciler
from easel_operator.handlers.references import ReferenceLookups
from easel_operator.handlers.service_store import ServiceStore
from easel_operator.handlers.shared_state import RolloutTurns, SharedState
from easel_operator.handlers.tenancy.secrets_access import SecretsAccess
from easel_operator.handlers.work_queue import WorkQueue
from easel_operator.manifests.metadata import Release
from easel_operator.objects import (
    CHILD_RESOURCES,
    SERVICES_OF_EASEL,
    Json,
    ObjectKey,
    find_condition,
    to_service_key,
)

from tests.operator.fake_api import FakeApi, Fault
from tests.operator.objects import CAPABLE, HUB_MODEL, NOW, OWNER, RELEASE, build_pod, build_service, settle
from tests.support.eventually import eventually

PATH = SERVICES_OF_EASEL.path(OWNER.namespace, OWNER.name)
KEY = to_service_key(build_service())
CHILDREN = {
    "/api/v1/namespaces/studio/serviceaccounts/painter",
    "/api/v1/namespaces/studio/secrets/painter-redis",
    "/api/v1/namespaces/studio/configmaps/painter-config",
    "/api/v1/namespaces/studio/services/painter",
    "/apis/apps/v1/namespaces/studio/deployments/painter-gateway",
    "/apis/apps/v1/namespaces/studio/deployments/painter-worker",
    "/apis/policy/v1/namespaces/studio/poddisruptionbudgets/painter-gateway",
    "/apis/policy/v1/namespaces/studio/poddisruptionbudgets/painter-worker",
    "/apis/autoscaling/v2/namespaces/studio/horizontalpodautoscalers/painter-worker",
}

POD_MAKERS = {path for path in CHILDREN if "/deployments/" in path or "autoscalers" in path}
KINDS = {resource.plural: resource.kind for resource in CHILD_RESOURCES}


class Bench:
    """A reconciler with everything around it."""

    def __init__(self, api: FakeApi, release: Release = RELEASE) -> None:
        self.api = api
        self.queue = WorkQueue()
        self.shared = SharedState(CAPABLE)
        self.services = ServiceStore(on_change=self.queue.add)
        self.children = ObjectStore(on_change=self.queue.add)
        self.references = ReferenceLookups(
            api, defaults=ServiceDefaults(), on_change=self.queue.add, monotonic=lambda: 0.0
        )
        self.access = SecretsAccess(
            api,
            self.services,
            role="",
            account="easel-operator",
            account_namespace="easel",
            monotonic=lambda: 0.0,
            resync_seconds=120,
        )
        self.reconciler = Reconciler(
            client=api,
            writer=ClusterWriter(api, self.children, pod_name="operator-a", clock=lambda: NOW),
            services=self.services,
            references=self.references,
            access=self.access,
            children=self.children,
            shared=self.shared,
            queue=self.queue,
            turns=RolloutTurns(max_services=5, count_services=lambda: len(self.services), on_turn=self.queue.add),
            release=release,
            clock=lambda: NOW,
        )

    def submit(self, service: Json) -> None:
        """Store a service, as a user would, and have the watch deliver it."""
        self.services.put(self.api.store(PATH, service))

    def child_paths(self) -> set[str]:
        """Everything in the namespace but the service and its events."""
        return {path for path in self.api.objects if path != PATH and "/events/" not in path}

    async def settle(self, *, attempts: int = 200) -> None:
        """Reconcile until a look writes nothing."""
        for _ in range(attempts):
            before = len(self.api.writes)
            try:
                is_settled = await self.reconciler.reconcile(KEY)
            except KubernetesError:
                continue
            if is_settled and len(self.api.writes) == before:
                return
        raise AssertionError(f"not settled after {attempts} attempts")


async def test_a_new_service_gets_its_children_and_its_status() -> None:
    bench = Bench(FakeApi())
    bench.submit(build_service())
    await bench.settle()
    assert bench.child_paths() == CHILDREN
    assert len(bench.api.objects[PATH]["status"]["conditions"]) == 7


async def test_a_new_service_costs_a_look_at_what_makes_pods_and_one_write_of_each_object() -> None:
    bench = Bench(FakeApi())
    bench.submit(build_service())
    await bench.queue.get()

    await bench.reconciler.reconcile(KEY)

    looks = [path for method, path in bench.api.requests if method == "GET"]
    written = [path for method, path in bench.api.requests if method != "GET"]
    assert sorted(looks) == sorted([PATH, *POD_MAKERS])
    assert sorted(written) == sorted([*CHILDREN, f"{PATH}/status"])


async def test_the_children_that_the_operator_wrote_do_not_wake_it() -> None:
    bench = Bench(FakeApi())
    bench.submit(build_service())
    key = await bench.queue.get()

    await bench.reconciler.reconcile(key)
    bench.queue.done(key)
    await bench.queue.get()  # by its status
    bench.queue.done(key)
    for path in CHILDREN:  # as the watches will deliver it
        resource = next(each for each in CHILD_RESOURCES if f"/{each.plural}/" in path)
        bench.children.put(trim(bench.api.objects[path], resource))
    bench.services.put(bench.api.objects[PATH])

    assert len(bench.queue) == 0


async def test_who_takes_a_name_between_our_look_and_our_write_keeps_it() -> None:
    class FasterStranger(FakeApi):
        """Makes the Deployment just before we do."""

        async def request(self, method: str, path: str, **rest: Any) -> Json:
            if method == "PATCH" and path == taken and not self.objects.get(taken):
                self.store(taken, stranger)
            return await super().request(method, path, **rest)

    taken = "/apis/apps/v1/namespaces/studio/deployments/painter-gateway"
    stranger = {
        "kind": "Deployment",
        "metadata": {"namespace": "studio", "name": "painter-gateway", "uid": "uid-of-a-stranger"},
        "spec": {"replicas": 7},
    }
    bench = Bench(FasterStranger())
    bench.submit(build_service())

    assert not await bench.reconciler.reconcile(KEY)

    assert bench.api.objects[taken]["spec"] == {"replicas": 7}
    assert bench.child_paths() & POD_MAKERS == {taken}
    conditions = {each["type"]: each for each in bench.api.objects[PATH]["status"]["conditions"]}
    assert conditions["Ready"]["reason"] == "ChildConflict"


async def test_a_change_of_a_service_asks_for_nothing_before_its_children_are_written() -> None:
    bench = Bench(FakeApi())
    bench.submit(build_service())
    await bench.settle()
    edited = build_service({"model": {**HUB_MODEL, "dtype": "Float16"}, "scaling": {"maxReplicas": 8}})
    bench.submit({**edited, "status": bench.api.objects[PATH]["status"]})
    bench.api.requests.clear()

    await bench.reconciler.reconcile(KEY)

    assert {method for method, _ in bench.api.requests} == {"PATCH"}
    written = [path.rsplit("/", 1)[1] for _, path in bench.api.requests]
    assert (written[0], *written[-2:]) == ("painter-config", "painter-worker", "status")


async def test_a_child_that_the_watch_has_not_delivered_yet_is_applied_over() -> None:
    bench = Bench(FakeApi())
    bench.submit(build_service())
    await bench.settle()
    for path in CHILDREN:
        bench.children.remove(ObjectKey(KINDS[path.split("/")[-2]], "studio", path.split("/")[-1]))

    assert await bench.reconciler.reconcile(KEY)

    conditions = {each["type"]: each for each in bench.api.objects[PATH]["status"]["conditions"]}
    assert conditions["Progressing"]["reason"] != "ChildConflict"


async def test_nothing_keeps_a_service_that_is_deleted_while_no_operator_runs() -> None:
    bench = Bench(FakeApi())
    bench.submit(build_service())
    await bench.settle()
    assert not bench.api.objects[PATH]["metadata"].get("finalizers")


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_the_finalizer_of_an_earlier_release_goes_and_others_stay(*, is_deleted: bool) -> None:
    bench = Bench(FakeApi())
    service = build_service()
    service["metadata"]["finalizers"] = ["theirs", names.FINALIZER]
    if is_deleted:
        service["metadata"]["deletionTimestamp"] = "2026-11-26T12:00:00Z"
    bench.submit(service)
    await bench.settle()
    assert bench.api.objects[PATH]["metadata"]["finalizers"] == ["theirs"]
    assert bench.child_paths() == (set() if is_deleted else CHILDREN)


async def test_a_service_is_served_though_its_earlier_finalizer_may_not_be_taken_away() -> None:
    def refuse(method: str, path: str) -> Exception | None:
        return (
            ApiRefusedError(method, path, 403, "Forbidden", "no patch") if (method, path) == ("PATCH", PATH) else None
        )

    bench = Bench(FakeApi(refuse))
    service = build_service()
    service["metadata"]["finalizers"] = [names.FINALIZER]
    bench.submit(service)
    assert await bench.reconciler.reconcile(KEY)
    assert bench.child_paths() == CHILDREN


async def test_a_restart_writes_nothing() -> None:
    bench = Bench(FakeApi())
    bench.submit(build_service())
    await bench.settle()
    restarted = Bench(bench.api)
    restarted.services.put(bench.api.objects[PATH])
    for path in bench.child_paths():
        if "/secrets/" not in path:  # Secrets aren't watched
            restarted.children.put(bench.api.objects[path])
    bench.api.requests.clear()
    assert await restarted.reconciler.reconcile(KEY)
    assert bench.api.writes == []


async def test_a_longer_job_gives_a_sleeping_service_more_time_to_stop_and_a_running_one_an_advice() -> None:
    bench = Bench(FakeApi())
    bench.submit(build_service())
    await bench.settle()

    def read() -> tuple[int, Json]:
        workers = bench.api.objects["/apis/apps/v1/namespaces/studio/deployments/painter-worker"]
        seconds = workers["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        return seconds, bench.api.objects[PATH]["status"]["termination"]

    bench.shared.scrapes[KEY] = ScrapeReport(longest_job_seconds=100)
    await bench.settle()
    assert read() == (240, {"gracePeriodSeconds": 240, "longestJobSeconds": 100, "advice": ""})
    bench.children.put({"kind": "Pod", **build_pod(names.COMPONENT_WORKER)})
    bench.shared.scrapes[KEY] = ScrapeReport(longest_job_seconds=300)
    await bench.settle()
    seconds, reported = read()
    assert (seconds, reported["longestJobSeconds"]) == (240, 300)
    assert "480 s follow" in reported["advice"]


async def test_how_far_a_models_download_is_stands_in_the_status_until_its_job_is_done() -> None:
    bench = Bench(FakeApi())
    bench.submit(build_service({"model": {**HUB_MODEL, "cache": {"claimName": "models"}}, "replicas": 1}))
    await bench.settle()
    path, job = next((path, body) for path, body in bench.api.objects.items() if "/jobs/" in path)
    pod = build_pod(names.COMPONENT_MODEL_CACHE, f"{job['metadata']['name']}-x", is_ready=False)
    pod["metadata"]["ownerReferences"] = [{"kind": "Job", "name": job["metadata"]["name"]}]
    bench.children.put({"kind": "Pod", **pod})
    bench.shared.fetches[KEY] = FetchProgress(needed_bytes=200, fetched_bytes=150, verified_bytes=10)
    await bench.settle()
    expected = {"neededBytes": 200, "fetchedBytes": 150, "verifiedBytes": 10}
    assert bench.api.objects[PATH]["status"]["modelCache"] == expected
    done = {**job, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    bench.children.put(bench.api.store(path, done))
    await bench.settle()
    assert not bench.api.objects[PATH]["status"].get("modelCache")


async def test_a_service_that_is_gone_gets_no_children() -> None:
    bench = Bench(FakeApi())
    bench.services.put(build_service())  # the watch hasn't reported yet that it is gone
    assert await bench.reconciler.reconcile(KEY)
    assert bench.api.writes == []
    assert bench.services.get(KEY) is None


TAKEN = sorted(CHILDREN)


@pytest.mark.parametrize("taken", TAKEN)
async def test_a_name_that_is_taken_stops_the_service_and_is_left_alone(taken: str) -> None:
    bench = Bench(FakeApi())
    _, plural, name = taken.rsplit("/", 2)
    kind = KINDS[plural]
    theirs = bench.api.store(taken, {"kind": kind, "metadata": {"namespace": "studio", "name": name}})
    bench.submit(build_service())
    assert not await bench.reconciler.reconcile(KEY), "worth another try"
    made = bench.child_paths() - {taken}
    assert not made & POD_MAKERS, "no pod is made"
    assert not made or taken not in POD_MAKERS, "nothing at all, where the name of what makes pods is taken"
    assert bench.api.objects[taken] == theirs
    conditions = {each["type"]: each for each in bench.api.objects[PATH]["status"]["conditions"]}
    for kind_of_condition in ("Ready", "Progressing"):
        condition = conditions[kind_of_condition]
        assert (condition["reason"], condition["status"]) == ("ChildConflict", "False")
        assert f"{kind} studio/{name} exists" in condition["message"]
    bench.api.requests.clear()
    assert not await bench.reconciler.reconcile(KEY)
    assert bench.api.writes == [], "nothing is tried while it is taken"
    del bench.api.objects[taken]
    await bench.settle()
    assert bench.child_paths() == CHILDREN, "once the name is free, all is made"


async def test_our_hpa_goes_where_a_stranger_has_taken_the_name_of_the_workers() -> None:
    bench = Bench(FakeApi())
    bench.submit(build_service())
    await bench.settle()
    workers = "/apis/apps/v1/namespaces/studio/deployments/painter-worker"
    theirs = {**bench.api.objects[workers], "metadata": {"namespace": "studio", "name": "painter-worker", "uid": "x"}}
    bench.api.store(workers, theirs)
    bench.children.remove(ObjectKey("Deployment", "studio", "painter-worker"))  # our own was deleted
    await bench.reconciler.reconcile(KEY)
    assert await bench.reconciler.reconcile(KEY) is False
    assert not [path for path in bench.child_paths() if "horizontalpodautoscalers" in path]
    assert bench.api.objects[workers]["metadata"]["uid"] == "x"


async def test_status_after_an_edit_is_said_of_what_was_written() -> None:
    """Between the edit and its roll-out there is no moment in which the old pods pass for the new."""
    bench = Bench(FakeApi())
    bench.submit(build_service())
    await bench.settle()
    for role in ("gateway", "worker"):
        path = f"/apis/apps/v1/namespaces/studio/deployments/painter-{role}"
        bench.children.put(bench.api.store(path, settle(bench.api.objects[path], 2)))
        bench.children.put({"kind": "Pod", **build_pod(role)})
    await bench.settle()
    assert read_ready(bench) == ("True", 3)
    edited = build_service({"model": {**HUB_MODEL, "dtype": "Float16"}, "scaling": {"maxReplicas": 8}})
    edited["metadata"]["generation"] = 4
    bench.submit({**edited, "status": bench.api.objects[PATH]["status"]})
    await bench.reconciler.reconcile(KEY)
    assert bench.api.objects[PATH]["status"]["observedGeneration"] == 4
    assert read_ready(bench) == ("True", 3), "true of the pods of generation 3"


async def test_an_edit_that_replaces_no_pod_is_one_write_of_the_status_and_no_roll_out() -> None:
    bench = Bench(FakeApi())
    spec: Json = {"model": HUB_MODEL, "scaling": {"maxReplicas": 8}}
    bench.submit(build_service(spec))
    await bench.settle()
    for role in ("gateway", "worker"):
        path = f"/apis/apps/v1/namespaces/studio/deployments/painter-{role}"
        bench.children.put(bench.api.store(path, settle(bench.api.objects[path], 2)))
        bench.children.put({"kind": "Pod", **build_pod(role)})
    await bench.settle()
    # Gateways read maxReplicas; minReplicas is the HPA's business alone.
    edited = build_service({**spec, "scaling": {"maxReplicas": 8, "minReplicas": 2}})
    edited["metadata"]["generation"] = 4
    bench.submit({**edited, "status": bench.api.objects[PATH]["status"]})
    bench.api.requests.clear()
    await bench.settle()
    assert len([path for _, path in bench.api.writes if path.endswith("painter/status")]) == 1
    assert read_ready(bench) == ("True", 4)
    progressing = bench.api.objects[PATH]["status"]["conditions"][1]
    assert (progressing["status"], progressing["reason"]) == ("True", "Complete")


def read_ready(bench: Bench) -> tuple[str, int]:
    """Status and observedGeneration of the stored condition Ready."""
    ready = bench.api.objects[PATH]["status"]["conditions"][0]
    return ready["status"], ready["observedGeneration"]


async def test_a_secret_that_a_volume_needs_is_named_when_it_is_missing_and_when_it_goes() -> None:
    bench = Bench(FakeApi())
    keys = "/api/v1/namespaces/studio/secrets/keys"
    spec = {"model": HUB_MODEL, "replicas": 1, "gateway": {"apiKeysSecretName": "keys"}}
    bench.submit(build_service(spec))
    await bench.settle()
    ready = bench.api.objects[PATH]["status"]["conditions"][0]
    assert (ready["status"], ready["reason"]) == ("False", "ReferenceMissing")
    assert "Secret studio/keys doesn't exist" in ready["message"]
    assert "spec.gateway.apiKeysSecretName" in ready["message"]
    await bench.queue.get()
    bench.queue.done(KEY)

    bench.api.store(keys, {"kind": "Secret", "metadata": {"namespace": "studio", "name": "keys"}})
    await bench.references.run_round()
    assert await bench.queue.get() == KEY, "the service is looked at anew"
    bench.queue.done(KEY)
    await bench.settle()
    assert bench.api.objects[PATH]["status"]["conditions"][0]["reason"] == "GatewayUnavailable"

    del bench.api.objects[keys]
    await bench.references.run_round()
    await bench.settle()
    assert bench.api.objects[PATH]["status"]["conditions"][0]["reason"] == "ReferenceMissing"


async def test_what_the_api_server_refuses_is_reported_in_its_words() -> None:
    def refuse_workers(method: str, path: str) -> Exception | None:
        if method == "PATCH" and path.endswith("painter-worker"):
            return ApiRefusedError(method, path, 403, "Forbidden", "exceeded quota: gpus")
        return None

    bench = Bench(FakeApi(refuse_workers))
    bench.submit(build_service())
    assert not await bench.reconciler.reconcile(KEY)
    ready = bench.api.objects[PATH]["status"]["conditions"][0]
    assert ready["reason"] == "ApplyFailed"
    assert "exceeded quota: gpus" in ready["message"]


async def test_a_service_that_meets_a_fault_says_so_and_the_others_are_looked_after(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def break_one(_method: str, path: str) -> Exception | None:
        return ValueError("nobody thought of it") if path.endswith("/painter-config") else None

    bench = Bench(FakeApi(break_one))
    bench.submit(build_service())
    sound = build_service()
    sound["metadata"] |= {"name": "sketcher", "uid": "another"}
    path = SERVICES_OF_EASEL.path(OWNER.namespace, "sketcher")
    bench.services.put(bench.api.store(path, sound))
    running = asyncio.create_task(bench.reconciler.run(1))

    async def have_both_a_status() -> bool:
        return all("status" in bench.api.objects[each] for each in (PATH, path))

    try:
        await eventually(have_both_a_status)
        assert not running.done()
        progressing = next(
            each for each in bench.api.objects[PATH]["status"]["conditions"] if each["type"] == "Progressing"
        )
        assert (progressing["status"], progressing["reason"]) == ("False", "OperatorFault")
        assert "ValueError: nobody thought of it" in progressing["message"]
        assert any(record.exc_info for record in caplog.records), "the traceback is in the log"
        writes = [each for each in bench.api.writes if each[1] == f"{PATH}/status"]
        await eventually(lambda: asyncio.sleep(0, len(bench.queue._failures) > 0))
        bench.queue.add(KEY)
        await eventually(lambda: asyncio.sleep(0, bench.queue._failures[KEY] > 1))
        assert [each for each in bench.api.writes if each[1] == f"{PATH}/status"] == writes, "said once"
        bench.api.fault = lambda _method, _path: None
        bench.queue.add(KEY)

        async def is_mended() -> bool:
            return "OperatorFault" not in str(bench.api.objects[PATH]["status"])

        await eventually(is_mended)
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_what_an_admission_webhook_says_at_length_is_cut_to_what_condition_and_event_take() -> None:
    def refuse_workers(method: str, path: str) -> Exception | None:
        if method == "PATCH" and path.endswith("deployments/painter-worker"):
            return ApiRefusedError(method, path, 403, "Forbidden", "no: " + "é" * 33_000)
        return None

    bench = Bench(FakeApi(refuse_workers))
    bench.submit(build_service())
    assert not await bench.reconciler.reconcile(KEY)
    message = bench.api.objects[PATH]["status"]["conditions"][0]["message"]
    assert len(message.encode()) <= 4096
    assert message.startswith("Deployment studio/painter-worker can't be written")
    assert message.endswith("correct the spec, or change what refuses it"), "the advice at its end is kept"
    notes = [body["note"] for path, body in bench.api.objects.items() if "/events/" in path]
    assert notes
    assert all(len(note.encode()) <= 1024 for note in notes), "events.k8s.io counts bytes"


async def test_a_deleted_child_is_made_anew() -> None:
    bench = Bench(FakeApi())
    bench.submit(build_service())
    await bench.settle()
    del bench.api.objects["/api/v1/namespaces/studio/services/painter"]
    bench.children.remove(ObjectKey("Service", "studio", "painter"))
    await bench.settle()
    assert bench.child_paths() == CHILDREN


async def test_from_fixed_to_scaling_the_number_of_workers_is_handed_over() -> None:
    bench = Bench(FakeApi())
    bench.submit(build_service({"model": HUB_MODEL, "replicas": 3}))
    await bench.settle()
    path = "/apis/apps/v1/namespaces/studio/deployments/painter-worker"
    ours = {"manager": names.FIELD_MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    live = bench.api.objects[path]
    bench.children.put(bench.api.store(path, {**live, "metadata": {**live["metadata"], "managedFields": [ours]}}))
    bench.api.requests.clear()
    bench.submit(build_service())
    await bench.reconciler.reconcile(KEY)
    to_worker = [request for request in bench.api.writes if request[1] == path]
    assert len(to_worker) == 2, "the handover, and then the manifest without replicas"


@pytest.mark.parametrize("seed", range(20))
async def test_it_converges_whatever_breaks(seed: int) -> None:
    """Random refusals and lost answers, and a spec that changes in between: in the end all is as asked for."""
    random = Random(seed)  # noqa: S311 - seeds replay a run
    bench = Bench(FakeApi(break_randomly(random)))
    specs: list[Json] = [
        {"model": HUB_MODEL, "replicas": 2},
        {"model": HUB_MODEL, "scaling": {"maxReplicas": 3}, "gateway": {"replicas": 1}},
        {"model": HUB_MODEL, "scaling": {"minReplicas": 0, "maxReplicas": 8}},
    ]
    for generation, spec in enumerate(specs, start=1):
        service = build_service(spec)
        service["metadata"]["generation"] = generation
        bench.submit(service)
        for _ in range(random.randrange(4)):
            try:
                await bench.reconciler.reconcile(KEY)
            except KubernetesError:
                continue
    await bench.settle()
    assert bench.child_paths() == CHILDREN, f"seed {seed}"
    assert bench.api.objects[PATH]["status"]["observedGeneration"] == len(specs), f"seed {seed}"


def break_randomly(random: Random) -> Fault:
    """One request in five fails: overloaded, or unreachable."""

    def fault(method: str, path: str) -> Exception | None:
        match random.randrange(10):
            case 0:
                return ApiRefusedError(method, path, 503, "ServiceUnavailable", "overloaded")
            case 1:
                return ApiUnreachableError(method, path, TimeoutError())
            case _:
                return None

    return fault


async def test_gateways_are_annotated_after_a_new_model_is_written_and_only_once() -> None:
    bench = Bench(FakeApi())
    bench.submit(build_service())
    await bench.settle()
    config_path, pod_path = "/api/v1/namespaces/studio/configmaps/painter-config", "/api/v1/namespaces/studio/pods/g"
    pod = build_pod(names.COMPONENT_GATEWAY, "g")
    pod["metadata"]["creationTimestamp"] = "2026-11-23T11:00:00Z"
    bench.children.put(bench.api.store(pod_path, {"kind": "Pod", "apiVersion": "v1", **pod}))
    bench.api.managed_at = "2026-11-23T12:00:00Z"
    edited = {
        "model": {"source": {"huggingFace": {"repository": "stabilityai/sd-turbo"}}},
        "scaling": {"maxReplicas": 8},
    }
    service = build_service(edited)
    service["metadata"]["generation"] = 4
    bench.submit(service)
    bench.api.requests.clear()
    await bench.settle()
    written = [path for _, path in bench.api.writes]
    assert written.count(pod_path) == 1
    assert written.index(config_path) < written.index(pod_path)
    assert bench.api.objects[pod_path]["metadata"]["annotations"][names.ANNOTATION_LIVE_CONFIG]


async def test_a_gateway_that_may_not_be_annotated_holds_nothing_up() -> None:
    def refuse(method: str, path: str) -> Exception | None:
        return ApiRefusedError(method, path, 403, "Forbidden", "no") if method == "PATCH" and "/pods/" in path else None

    bench = Bench(FakeApi(refuse))
    bench.api.managed_at = "2026-11-23T12:00:00Z"
    pod = build_pod(names.COMPONENT_GATEWAY, "g")
    pod["metadata"]["creationTimestamp"] = "2026-11-23T11:00:00Z"
    path = "/api/v1/namespaces/studio/pods/g"
    bench.children.put(bench.api.store(path, {"kind": "Pod", "apiVersion": "v1", **pod}))
    bench.submit(build_service())
    assert await bench.reconciler.reconcile(KEY)
    assert ("PATCH", path) in bench.api.writes
    assert bench.api.objects[PATH]["status"]["observedGeneration"] == 3


async def test_a_service_whose_secrets_may_not_be_read_says_so_and_recovers() -> None:
    bench = Bench(FakeApi())
    bench.submit(build_service())
    await bench.settle()
    bench.api.fault = _refuse_secrets
    bench.reconciler._secrets_checked_at[KEY] = NOW - timedelta(minutes=1)
    with pytest.raises(ApiRefusedError):
        await bench.reconciler.reconcile(KEY)
    progressing = find_condition(bench.api.objects[PATH], "Progressing")
    assert progressing is not None
    assert (progressing["status"], progressing["reason"]) == ("False", "ApplyFailed")
    assert "no right to Secrets in this namespace" in progressing["message"]
    assert 'cannot get resource "secrets"' in progressing["message"]
    bench.api.fault = lambda _method, _path: None
    await bench.settle()
    progressing = find_condition(bench.api.objects[PATH], "Progressing")
    assert progressing is not None
    assert progressing["reason"] != "ApplyFailed"


def _refuse_secrets(method: str, path: str) -> Exception | None:
    if "/secrets/" not in path:
        return None
    return ApiRefusedError(method, path, 403, "Forbidden", 'User "operator" cannot get resource "secrets"')
