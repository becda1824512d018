"""A fleet under an operator of a newer release, against an API server in memory: how many services move at once, also
after the operator was restarted in the midst of it."""

import pytest
from easel_operator.decide.snapshot import Stage, Standing
from easel_operator.handlers.shared_state import RolloutTurns
from easel_operator.objects import SERVICES_OF_EASEL, ServiceKey, to_service_key

from tests.operator.decide.test_waves import NEWER, image_of
from tests.operator.fake_api import FakeApi
from tests.operator.handlers.test_reconciler import Bench
from tests.operator.objects import HUB_MODEL, RELEASE, build_service, settle

NAMES = [f"painter-{number:02}" for number in range(12)]
MOST = 5  # as the bench allows
UNWATCHED = ("/secrets/", "/events/", "/replicasets/", "/persistentvolumeclaims/")


def deployment_path(name: str, role: str) -> str:
    """Where a service's Deployment is."""
    return f"/apis/apps/v1/namespaces/studio/deployments/{name}-{role}"


def store_fleet(api: FakeApi) -> None:
    """Services with a fixed number of workers."""
    for name in NAMES:
        service = build_service({"model": HUB_MODEL, "replicas": 2})
        service["metadata"] |= {"name": name, "uid": f"uid-of-{name}"}
        api.store(SERVICES_OF_EASEL.path("studio", name), service)


def start(api: FakeApi, **changes: object) -> Bench:
    """An operator that has read the cluster."""
    bench = Bench(api, **changes)  # type: ignore[arg-type] # a release, if any
    for path, body in sorted(api.objects.items()):
        if path in {SERVICES_OF_EASEL.path("studio", name) for name in NAMES}:
            bench.services.put(body)
        elif not any(each in path for each in UNWATCHED):
            bench.children.put(body)
    return bench


async def work_off(bench: Bench) -> None:
    """Reconcile until nobody waits to be looked at."""
    while len(bench.queue):
        key = await bench.queue.get()
        await bench.reconciler.reconcile(key)
        bench.queue.done(key)


def finish(bench: Bench, name: str) -> None:
    """The Deployment controller reports that all pods of a service are there."""
    for role in ("gateway", "worker"):
        path = deployment_path(name, role)
        settled = settle(bench.api.objects[path], 2)
        generation = bench.api.objects[path]["metadata"]["generation"]
        settled["metadata"]["generation"] = settled["status"]["observedGeneration"] = generation
        bench.children.put(bench.api.store(path, settled))


def of_the_newer_release(api: FakeApi) -> list[str]:
    """Services whose workers have it."""
    return [name for name in NAMES if image_of(api.objects[deployment_path(name, "worker")]) == NEWER.worker_image]


async def run_old_release() -> FakeApi:
    """A fleet whose pods are all there."""
    api = FakeApi()
    store_fleet(api)
    bench = start(api)
    await work_off(bench)
    for name in NAMES:
        finish(bench, name)
    await work_off(bench)
    return api


async def test_a_newer_release_reaches_a_fleet_a_few_services_at_a_time_until_all_have_it() -> None:
    api = await run_old_release()
    bench = start(api, release=NEWER)
    await work_off(bench)
    finished: list[str] = []
    while len(finished) < len(NAMES):
        moved = of_the_newer_release(api)
        assert len(moved) == min(len(NAMES), len(finished) + MOST)
        name = next(each for each in moved if each not in finished)
        finish(bench, name)
        finished.append(name)
        await work_off(bench)
    assert all("rollout" not in api.objects[SERVICES_OF_EASEL.path("studio", name)]["status"] for name in NAMES)


async def test_an_operator_that_is_restarted_in_the_midst_of_a_wave_starts_no_second_one() -> None:
    api = await run_old_release()
    await work_off(start(api, release=NEWER))
    moved = of_the_newer_release(api)
    for _ in range(3):
        await work_off(start(api, release=NEWER))
    assert of_the_newer_release(api) == moved


async def test_a_restarted_operator_of_the_same_release_writes_nothing_to_a_fleet() -> None:
    api = await run_old_release()
    api.requests.clear()
    await work_off(start(api))
    assert api.writes == []


async def test_a_service_that_is_deleted_while_it_moves_leaves_its_turn_to_the_next() -> None:
    api = await run_old_release()
    bench = start(api, release=NEWER)
    await work_off(bench)
    gone = of_the_newer_release(api)[0]
    path = SERVICES_OF_EASEL.path("studio", gone)
    bench.services.forget(to_service_key(api.objects.pop(path)))
    await work_off(bench)
    assert len(of_the_newer_release(api)) == MOST + 1, "the deleted one's Deployment is still there in this test"


def test_nobody_has_a_turn_before_every_service_was_looked_at() -> None:
    called: list[ServiceKey] = []
    turns = RolloutTurns(max_services=1, count_services=lambda: 2, on_turn=called.append)
    first, second = ServiceKey("studio", "a"), ServiceKey("studio", "b")
    turns.report(first, Standing(Stage.WAITING))
    assert called == []
    turns.report(second, Standing(Stage.MOVING))
    assert called == [], "the other one moves already"
    turns.report(second, Standing(Stage.CURRENT))
    assert (called, turns.has_turn(first), turns.has_turn(second)) == ([first], True, False)


async def test_a_service_that_names_a_revision_is_brought_back_to_it_from_its_replica_set() -> None:
    api = await run_old_release()
    name = NAMES[0]
    path, workers = SERVICES_OF_EASEL.path("studio", name), deployment_path(name, "worker")
    old = api.objects[workers]
    bench = start(api, release=NEWER)
    await work_off(bench)
    assert image_of(api.objects[workers]) == NEWER.worker_image
    owner = {"uid": old["metadata"]["uid"], "controller": True}
    kept = {"annotations": old["metadata"]["annotations"], "ownerReferences": [owner], "name": "old"}
    collection = workers.replace(f"deployments/{name}-worker", "replicasets")
    api.store(f"{collection}/old", {"metadata": kept, "spec": {"template": old["spec"]["template"]}})
    service = api.objects[path]
    bench.services.put(api.store(path, {**service, "spec": {**service["spec"], "rollout": {"toRevision": 1}}}))
    await work_off(bench)
    assert image_of(api.objects[workers]) == RELEASE.worker_image
    api.requests.clear()
    bench = start(api, release=NEWER)
    await work_off(bench)
    assert image_of(api.objects[workers]) == RELEASE.worker_image, "a restarted operator keeps it there"
    assert not [path for _, path in api.requests if "replicasets" in path], "and needn't look for it again"


@pytest.mark.parametrize(("modes", "surge"), [(["ReadWriteOnce"], 0), (["ReadOnlyMany"], 1)])
async def test_workers_of_a_mounted_model_surge_where_the_claim_is_for_many_nodes(modes: list[str], surge: int) -> None:
    api = FakeApi()
    store_fleet(api)
    path = SERVICES_OF_EASEL.path("studio", NAMES[0])
    mounted = {"source": {"persistentVolumeClaim": {"claimName": "weights"}}}
    api.store(path, {**api.objects[path], "spec": {"model": mounted, "replicas": 2}})
    claim = {"metadata": {"namespace": "studio", "name": "weights"}, "spec": {"accessModes": modes}}
    api.store("/api/v1/namespaces/studio/persistentvolumeclaims/weights", claim)
    await work_off(start(api))
    strategy = api.objects[deployment_path(NAMES[0], "worker")]["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": surge, "maxUnavailable": 1 - surge}
