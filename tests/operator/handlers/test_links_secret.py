"""The Secret that a service's links are signed with: made once, with a random key, and its users' from then on."""

import base64

import pytest
from easel_contract import names
from easel_operator.cluster.client import ApiRefusedError
from easel_operator.objects import Json, ObjectKey

from tests.operator.fake_api import FakeApi
from tests.operator.handlers.test_reconciler import KEY, PATH, Bench
from tests.operator.objects import HUB_MODEL, build_service

SECRET = "/api/v1/namespaces/studio/secrets/painter-links"
WITH_KEYS = {"model": HUB_MODEL, "replicas": 1, "gateway": {"apiKeysSecretName": "keys"}}


def read_key(bench: Bench) -> str:
    return base64.b64decode(bench.api.objects[SECRET]["data"][names.SECRET_KEY_LINKS]).decode()


async def start(service: Json | None = None, api: FakeApi | None = None) -> Bench:
    bench = Bench(api or FakeApi())
    bench.submit(service or build_service(WITH_KEYS))
    await bench.settle()
    return bench


async def test_each_service_with_keys_gets_a_random_key_of_its_own() -> None:
    first, second = [read_key(await start()) for _ in range(2)]
    assert len(first) == len(second) == 64
    assert first != second


async def test_it_is_there_before_the_pods_that_mount_it() -> None:
    bench = await start()
    written = [path for _, path in bench.api.writes]
    assert written.index("/api/v1/namespaces/studio/secrets") < written.index(
        "/apis/apps/v1/namespaces/studio/deployments/painter-gateway"
    )


async def test_a_key_that_was_rotated_by_hand_is_never_taken_back() -> None:
    bench = await start()
    rotated = {names.SECRET_KEY_LINKS: base64.b64encode(b"mine").decode()}
    bench.api.objects[SECRET] = {**bench.api.objects[SECRET], "data": rotated}
    restarted = Bench(bench.api)
    restarted.submit(build_service(WITH_KEYS | {"replicas": 2}))
    await restarted.settle()
    assert read_key(restarted) == "mine"


async def test_it_is_made_anew_where_it_was_deleted_and_a_second_look_writes_nothing() -> None:
    bench = await start()
    before = len(bench.api.writes)
    await bench.settle()
    assert len(bench.api.writes) == before
    del bench.api.objects[SECRET]
    restarted = Bench(bench.api)
    restarted.submit(build_service(WITH_KEYS))
    await restarted.settle()
    assert len(read_key(restarted)) == 64


async def test_a_service_without_keys_has_none_and_one_that_drops_them_keeps_it() -> None:
    without = await start(build_service({"model": HUB_MODEL, "replicas": 1}))
    assert SECRET not in without.api.objects
    bench = await start()
    bench.submit(build_service({"model": HUB_MODEL, "replicas": 1}))
    await bench.settle()
    assert SECRET in bench.api.objects


async def test_a_strangers_secret_of_that_name_is_left_alone_and_named() -> None:
    api = FakeApi()
    api.store(
        SECRET, {"kind": "Secret", "apiVersion": "v1", "metadata": {"namespace": "studio", "name": "painter-links"}}
    )
    bench = Bench(api)
    bench.submit(build_service(WITH_KEYS))
    assert not await bench.reconciler.reconcile(KEY)
    assert "data" not in api.objects[SECRET]
    ready = next(each for each in api.objects[PATH]["status"]["conditions"] if each["type"] == "Ready")
    assert (ready["reason"], "painter-links" in ready["message"]) == ("ChildConflict", True)


async def test_the_operator_does_not_keep_what_it_need_not_know() -> None:
    bench = await start()
    await bench.reconciler.reconcile(KEY)
    kept = bench.children.get(ObjectKey("Secret", "studio", "painter-links"))
    assert kept is not None
    assert "data" not in kept


@pytest.mark.parametrize("status", [409, 500])
async def test_a_refusal_that_passes_is_tried_again(status: int) -> None:
    refused = [ApiRefusedError("POST", SECRET, status, "", "")]
    bench = Bench(
        FakeApi(
            lambda method, path: (
                refused.pop() if refused and (method, path) == ("POST", SECRET.rpartition("/")[0]) else None
            )
        )
    )
    bench.submit(build_service(WITH_KEYS))
    await bench.settle()
    assert len(read_key(bench)) == 64
