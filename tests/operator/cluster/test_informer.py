"""List, watch, and list again when the watch can't be continued."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from easel_contract import names
from easel_operator.cluster.client import ApiRefusedError, KubernetesClient
from easel_operator.cluster.informer import Informer, trim
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.objects import CONFIG_MAPS, DEPLOYMENTS, HPAS, HTTP_ROUTES, PODS, SECRETS, Json, ObjectKey, Resource
from kubernetes.aio.client import Configuration

from tests.operator.fake_api import FakeApi
from tests.support.eventually import eventually

PATH = "/api/v1/namespaces/ns/pods"


def pod(name: str, version: int = 0) -> Json:
    metadata = {"namespace": "ns", "name": name, "labels": {names.LABEL_SERVICE: "painter"}}
    return {"metadata": {**metadata, "uid": name, "resourceVersion": str(version)}, "spec": {}, "status": {}}


@asynccontextmanager
async def run_informer(api: KubernetesClient, resource: Resource = PODS) -> AsyncIterator[tuple[Informer, ObjectStore]]:
    store = ObjectStore(on_change=lambda _: None)
    informer = Informer(api, resource, store, namespace="ns", monotonic=lambda: 0.0)
    task = asyncio.create_task(informer.run())
    try:
        yield informer, store
    finally:
        task.cancel()
        await asyncio.wait([task])


async def has(store: ObjectStore, name: str) -> bool:
    return store.get(ObjectKey("Pod", "ns", name)) is not None


async def test_it_lists_and_then_follows_the_watch() -> None:
    api = FakeApi()
    api.store(f"{PATH}/listed", pod("listed"))
    async with run_informer(api) as (informer, store):
        await eventually(lambda: asyncio.sleep(0, bool(api.watches)))
        assert informer.is_synced.is_set()
        assert await has(store, "listed")
        api.watches[-1].put_nowait({"type": "ADDED", "object": pod("added", 50)})
        await eventually(lambda: has(store, "added"))
        api.watches[-1].put_nowait({"type": "DELETED", "object": pod("added", 51)})
        await eventually(lambda: lacks(store, "added"))


async def lacks(store: ObjectStore, name: str) -> bool:
    return not await has(store, name)


@pytest.mark.parametrize(("resource", "is_synced"), [(HTTP_ROUTES, True), (PODS, False)])
async def test_a_kind_that_not_every_cluster_has_keeps_nothing_waiting(resource: Resource, is_synced: bool) -> None:
    api = FakeApi(fault=lambda method, path: ApiRefusedError(method, path, 404, "NotFound", "page not found"))
    async with run_informer(api, resource) as (informer, _):
        await eventually(lambda: asyncio.sleep(0, bool(api.requests)))
        await asyncio.sleep(0)
        assert informer.is_synced.is_set() is is_synced


async def test_a_watch_that_ends_is_continued_without_a_list() -> None:
    api = FakeApi()
    async with run_informer(api) as (informer, _):
        await eventually(lambda: asyncio.sleep(0, bool(api.watches)))
        api.watches[-1].put_nowait(None)
        await eventually(lambda: asyncio.sleep(0, len(api.watches) == 2))
        assert informer.lists == 1


@pytest.fixture
async def quiet_server() -> AsyncIterator[tuple[str, list[str]]]:
    """An API server of a kind that never changes: a watch is accepted, and nothing ever comes."""
    asked: list[str] = []
    may_end = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.query.get("resourceVersion", "list"))
        if "watch" not in request.query:
            return web.json_response({"items": [], "metadata": {"resourceVersion": "7"}})
        response = web.StreamResponse()
        await response.prepare(request)
        await may_end.wait()
        return response

    application = web.Application()
    application.router.add_get(PATH, answer)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    may_end.set()
    await runner.cleanup()


async def test_a_kind_that_never_changes_is_watched_on_without_a_word_and_without_a_list(
    quiet_server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("easel_operator.cluster.client.WATCH_SILENCE_SECONDS", 0.1)
    url, asked = quiet_server
    client = KubernetesClient(Configuration(host=url))
    async with run_informer(client):
        await eventually(lambda: asyncio.sleep(0, len(asked) >= 4))
    await client.close()
    assert asked[:4] == ["list", "7", "7", "7"]
    assert [record for record in caplog.records if record.name.startswith("easel_operator")] == []


async def test_after_410_gone_it_lists_anew_and_drops_what_went_meanwhile() -> None:
    api = FakeApi()
    api.store(f"{PATH}/gone", pod("gone"))
    async with run_informer(api) as (informer, store):
        await eventually(lambda: asyncio.sleep(0, bool(api.watches)))
        del api.objects[f"{PATH}/gone"]
        api.store(f"{PATH}/new", pod("new"))
        api.watches[-1].put_nowait(ApiRefusedError("WATCH", PATH, 410, "Expired", "too old resource version"))
        await eventually(lambda: has(store, "new"))
        assert not await has(store, "gone")
        assert informer.lists == 2


class ExpiredApi(FakeApi):
    """Every watch is refused: too old."""

    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Json]:
        if "watch" not in query:
            raise ApiRefusedError("WATCH", path, 410, "Expired", "too old resource version")
        yield {}


async def test_a_server_that_always_answers_410_is_asked_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def pause(seconds: float, _fraction: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr("easel_operator.cluster.informer.sleep_with_jitter", pause)
    async with run_informer(ExpiredApi()):
        await eventually(lambda: asyncio.sleep(0, len(pauses) >= 8))
    assert pauses[:8] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


async def test_a_refused_list_is_tried_again() -> None:
    api = FakeApi()
    api.fault = lambda method, path: ApiRefusedError(method, path, 503, "ServiceUnavailable", "starting")
    async with run_informer(api) as (informer, _):
        await eventually(lambda: asyncio.sleep(0, bool(api.requests)))
        assert not informer.is_synced.is_set()
        api.fault = lambda _method, _path: None
        await eventually(lambda: asyncio.sleep(0, informer.is_synced.is_set()))


def test_only_what_decisions_look_at_is_kept() -> None:
    managed = [{"manager": names.FIELD_MANAGER}, {"manager": "kube-controller-manager"}]
    ports = [{"name": "metrics", "containerPort": 9090}]
    spec = {"x": 1, "containers": [{"name": "server", "image": "i", "ports": ports}, {"name": "mesh"}]}
    body: Json = {"metadata": {"name": "p", "managedFields": managed, "annotations": {"a": "b"}}, "spec": spec}
    assert trim(body, PODS)["metadata"] == {"name": "p"}
    containers = [{"name": "server", "ports": ports}, {"name": "mesh", "ports": []}]
    assert trim(body, PODS)["spec"] == {"nodeName": None, "containers": containers}
    assert trim(body, DEPLOYMENTS)["metadata"]["managedFields"] == managed[:1]
    assert trim(body, CONFIG_MAPS)["metadata"]["managedFields"] == managed[:1]
    assert "managedFields" not in trim(body, SECRETS)["metadata"]
    body["status"] = {"currentReplicas": 2, "conditions": [{"type": "AbleToScale"}]}
    assert "status" not in trim(body, CONFIG_MAPS)
    assert trim(body, DEPLOYMENTS)["status"] == body["status"]
    assert trim(body, HPAS)["status"] == {"conditions": [{"type": "AbleToScale"}]}, "figures change every 15 s"
