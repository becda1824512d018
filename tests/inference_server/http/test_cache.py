"""The result cache: only with a seed, and as Cache-Control asks."""

import pytest
from easel_contract.server_config import CacheConfig, GatewayConfig
from easel_server.http.cache_policy import CachePolicy

from tests.inference_server.http.serving import RunningGateway


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


def test_no_cache_draws_again_and_keeps_the_result(client):
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
