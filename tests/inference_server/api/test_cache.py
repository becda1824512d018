"""The result cache: only with a seed, and as Cache-Control asks."""

from dataclasses import replace

import pytest
from easel_contract.gateway_config import CacheConfig, GatewayConfig
from easel_server.generation.job import JobState
from easel_server.generation.request import CachePolicy
from easel_server.stores.cache.memcached import MemcachedCache
from easel_server.stores.errors import StoreUnavailableError

from tests.inference_server.api.serving import IDENTITY, RunningGateway, wait_for
from tests.inference_server.api.submitting import Submitting
from tests.support.jobs import build_identity
from tests.support.memcached_server import MemcachedServer


def ask(client, **changes):
    headers = changes.pop("headers", {})
    answer = client.post("/v1/images/generations", json={"prompt": "a cat", **changes}, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def test_the_second_identical_request_is_answered_from_the_cache(client, gateway):
    first = ask(client, seed=101)
    worked = len(gateway.worker.seen)
    second = ask(client, seed=101)
    assert [first.headers["X-Cache"], second.headers["X-Cache"]] == ["miss", "hit"]
    assert first.json()["data"] == second.json()["data"]
    assert len(gateway.worker.seen) == worked, "no worker was asked"


@pytest.mark.parametrize("change", [{"seed": 103}, {"prompt": "a dog"}, {"n": 2}, {"num_inference_steps": 5}])
def test_any_other_request_is_not(client, change):
    ask(client, seed=102)
    assert ask(client, **{"seed": 102, **change}).headers["X-Cache"] == "miss"


def test_without_a_seed_nothing_is_cached(client):
    assert [ask(client).headers["X-Cache"] for _ in range(2)] == ["bypass", "bypass"]


def test_no_cache_generates_again_and_keeps_the_result(client):
    fresh = ask(client, seed=104, headers={"Cache-Control": "no-cache"})
    assert [fresh.headers["X-Cache"], ask(client, seed=104).headers["X-Cache"]] == ["bypass", "hit"]


def test_no_store_keeps_nothing(client):
    fresh = ask(client, seed=105, headers={"Cache-Control": "no-store"})
    assert [fresh.headers["X-Cache"], ask(client, seed=105).headers["X-Cache"]] == ["bypass", "miss"]


def test_a_hit_is_a_prediction_like_any_other(client):
    body = {"input": {"prompt": "a cat", "seed": 106}}
    client.post("/v1/predictions", json=body, headers={"Prefer": "wait"})
    answer = client.post("/v1/predictions", json=body)
    prediction = answer.json()
    assert (answer.headers["X-Cache"], prediction["status"]) == ("hit", "succeeded")
    assert client.get(prediction["output"][0]).content == b"a cat 106"


def test_a_ttl_of_zero_switches_the_cache_off():
    with RunningGateway(GatewayConfig(cache=CacheConfig(ttl_seconds=0))) as gateway, gateway.client() as client:
        assert [ask(client, seed=1).headers["X-Cache"] for _ in range(2)] == ["bypass", "bypass"]


def test_a_result_above_the_bound_is_not_kept():
    config = GatewayConfig(cache=CacheConfig(max_entry_bytes=1024))
    with RunningGateway(config) as gateway, gateway.client() as client:
        assert [ask(client, seed=1, prompt="x" * 1100).headers["X-Cache"] for _ in range(2)] == ["miss", "miss"]


@pytest.mark.parametrize(
    ("header", "policy"),
    [
        ("", CachePolicy(read=True, write=True)),
        ("max-age=0", CachePolicy(max_age_seconds=0)),
        ("max-stale, max-age = nonsense", CachePolicy()),
        ("only-if-cached, max-age=60", CachePolicy(max_age_seconds=60, only_if_cached=True)),
        ("no-cache", CachePolicy(read=False, write=True)),
        ("No-Store", CachePolicy(read=False, write=False)),
        ("private, no-cache, max-age=0", CachePolicy(read=False, max_age_seconds=0)),
    ],
)
def test_cache_control_is_read_as_clients_mean_it(header, policy):
    assert CachePolicy.from_header(header) == policy


async def test_requests_without_a_seed_share_images_where_the_service_says_so():
    submitting = Submitting(GatewayConfig(cache=CacheConfig(unseeded=True)))
    first = await submitting.submit(prompt="a lighthouse")
    shared = await submitting.submit(prompt="a lighthouse")
    other = await submitting.submit(prompt="a cat")
    fresh = await submitting.submit(prompt="a lighthouse", cache=CachePolicy.from_header("no-cache"))
    await submitting.work(count=3)
    await submitting.context.results.wait(first.job, 10)
    again = await submitting.submit(prompt="a lighthouse")
    results = [submitted.headers["X-Cache"] for submitted in (first, shared, other, fresh, again)]
    assert results == ["miss", "shared", "miss", "bypass", "hit"]
    assert first.job.parameters.seed == shared.job.parameters.seed == again.job.parameters.seed
    assert fresh.job.parameters.seed != first.job.parameters.seed  # who asks for a new image gets one


def test_an_answer_tells_its_age_and_is_as_young_as_the_client_wants(client):
    ask(client, seed=107)
    hit = ask(client, seed=107, headers={"Cache-Control": "max-age=60"})
    assert (hit.headers["X-Cache"], hit.headers["Age"]) == ("hit", "0")
    assert hit.headers["Cache-Control"] == "private, max-age=3600"


async def test_older_answers_than_the_client_wants_are_generated_again():
    submitting = Submitting(GatewayConfig())
    submitted = await submitting.submit(seed=1)
    await submitting.work()
    await submitting.context.results.wait(submitted.job, 10)
    submitting.advance(100)
    # The copy in the gateway's own memory lives by another clock; what counts is the shared one's.
    other = Submitting(GatewayConfig(), result_cache=submitting.stores.cache)
    assert (await other.submit(seed=1, cache=CachePolicy(max_age_seconds=99))).headers["X-Cache"] == "miss"
    hit = await other.submit(seed=1, cache=CachePolicy(max_age_seconds=101), job_id="another")
    assert (hit.headers["X-Cache"], hit.headers["Age"]) == ("hit", "100")


def test_only_if_cached_gets_an_answer_from_the_cache_or_none(client, gateway):
    worked = len(gateway.worker.seen)
    only = {"Cache-Control": "only-if-cached"}
    refused = client.post("/v1/images/generations", json={"prompt": "a cat", "seed": 108}, headers=only)
    assert (refused.status_code, refused.json()["error"]["code"]) == (504, "not_cached")
    assert len(gateway.worker.seen) == worked
    ask(client, seed=108)
    assert ask(client, seed=108, headers=only).headers["X-Cache"] == "hit"


def test_a_prediction_that_nobody_waited_for_is_cached_when_its_output_is_fetched(client, gateway):
    body = {"input": {"prompt": "a cat", "seed": 109}}
    prediction = client.post("/v1/predictions", json=body).json()

    def output():
        return client.get(prediction["urls"]["get"]).json()["output"]

    assert client.get(wait_for(output)[0]).content == b"a cat 109"
    assert ask(client, seed=109).headers["X-Cache"] == "hit"


def test_a_cached_answer_that_nobody_asks_for_by_id_has_no_job_behind_it(client):
    assert "X-Prediction-Id" in ask(client, seed=110).headers
    assert "X-Prediction-Id" not in ask(client, seed=110).headers
    linked = ask(client, seed=110, response_format="url")
    assert linked.headers["X-Cache"] == "hit"
    assert client.get(linked.json()["data"][0]["url"]).content == b"a cat 110"


async def test_images_are_cached_for_what_the_worker_held_and_not_for_what_it_was_believed_to_hold():
    other = build_identity(weights="commit-2").model_copy(update={"key": IDENTITY.key})
    submitting = Submitting(GatewayConfig())
    submitted = await submitting.submit(seed=1)
    await submitting.work(generated_by=other)
    await submitting.context.results.wait(submitted.job, 10)
    assert (await submitting.submit(seed=1)).headers["X-Cache"] == "miss"
    submitting.facts = replace(submitting.facts, identity=other)  # once that is what workers report
    found = await submitting.submit(seed=1)
    assert found.headers["X-Cache"] == "hit"
    assert found.job.generated_by == other


async def test_without_a_worker_that_ever_reported_nothing_is_found_but_work_is_shared():
    submitting = Submitting(GatewayConfig())
    submitting.facts = replace(submitting.facts, identity=None)
    results = [(await submitting.submit(seed=1)).headers["X-Cache"] for _ in range(2)]
    assert results == ["miss", "shared"]


async def test_a_job_is_reported_as_done_even_if_its_images_cannot_be_cached_now(monkeypatch):
    submitting = Submitting(GatewayConfig())
    submitted = await submitting.submit(seed=1)
    await submitting.work()

    async def be_away(references):
        raise StoreUnavailableError("redis:6379", "images", "ConnectionError", "wait")

    monkeypatch.setattr(submitting.stores.images, "get", be_away)
    assert (await submitting.context.results.wait(submitted.job, 10)).state is JobState.SUCCEEDED


async def test_gateways_share_images_over_memcached_and_go_on_without_it():
    with MemcachedServer() as server:
        caches = [MemcachedCache(server.address, "easel:{ns/sd}:") for _ in range(2)]
        one, other = (Submitting(GatewayConfig(), result_cache=cache) for cache in caches)
        generated = await one.submit(seed=1)
        await one.work()
        await one.context.results.wait(generated.job, 10)
        found = await other.submit(seed=1, needs_job=False)
        assert (found.headers["X-Cache"], found.images) == ("hit", (b"image",))
        server.kill()
        assert (await other.submit(seed=2)).headers["X-Cache"] == "miss"
        for cache in caches:
            await cache.close()
