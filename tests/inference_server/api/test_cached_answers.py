"""Repeated requests for cached images are answered ahead of everything but keys and limits."""

import asyncio

import pytest
from easel_contract.gateway_config import CacheConfig, GatewayConfig, RateLimitConfig
from easel_server.gateway.api_keys import KeyRing
from easel_server.gateway.inputs.fetching import has_fetched
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import open_memory_stores
from easel_server.transport import cached_answers

from tests.inference_server.api.serving import CountingMetrics, RunningGateway, wait_for

PATH = "/v1/images/generations"
BODY = {"prompt": "a cat", "seed": 7}


@pytest.fixture
def routed(monkeypatch):
    """How many requests went the long way."""
    count = []
    passed_on = cached_answers.CachedAnswersMiddleware._keep_answer_to

    def keep_answer_to(self, body, send):
        count.append(body)
        return passed_on(self, body, send)

    monkeypatch.setattr(cached_answers.CachedAnswersMiddleware, "_keep_answer_to", keep_answer_to)
    return count


@pytest.fixture
def keyed(tmp_path):
    (tmp_path / "alice").write_text("alices-key")
    (tmp_path / "bob").write_text("bobs-key")
    rate = RateLimitConfig(requests_per_minute=1, burst=4)
    with RunningGateway(GatewayConfig(rate_limit=rate), keys=tmp_path) as gateway:
        yield gateway


def warm_up(client):
    answers = [client.post(PATH, json=BODY) for _ in range(2)]
    assert [answer.headers["X-Cache"] for answer in answers] == ["miss", "hit"]
    return answers[1]


def test_the_third_answer_is_the_second_without_routing(routed):
    with RunningGateway() as gateway, gateway.client() as client:
        second = warm_up(client)
        third = client.post(PATH, json=BODY)
        assert len(routed) == 2
        assert third.content == second.content
        for name in second.headers.keys() - {"date", "x-request-id"}:
            assert third.headers[name] == second.headers[name]
        assert second.headers["X-Request-Id"] != third.headers["X-Request-Id"]
        assert gateway.metrics.counts["cache", "hit"] == 2
        wait_for(lambda: gateway.metrics.counts["request", PATH, "200"] == 3)  # counted once the answer is out


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({**BODY, "seed": 8}, {}),
        ({**BODY, "n": 2}, {}),
        (BODY, {"Cache-Control": "no-cache"}),
        (BODY, {"Cache-Control": "max-age=60"}),
        (BODY, {"Idempotency-Key": "some-key"}),
    ],
)
def test_what_may_mean_something_else_goes_the_long_way(routed, body, headers):
    with RunningGateway() as gateway, gateway.client() as client:
        warm_up(client)
        before = len(routed)
        answer = client.post(PATH, json=body, headers=headers)
        assert answer.status_code == 200
        is_special = bool(headers)
        assert len(routed) == before + (0 if is_special else 1)  # special headers pass the look-up by altogether
        assert ("X-Prediction-Id" in answer.headers) == (headers != {"Cache-Control": "max-age=60"})


def test_keys_are_checked_and_requests_charged_all_the_same(keyed):
    with keyed.client(Authorization="Bearer alices-key") as alice:
        warm_up(alice)
        with keyed.client(Authorization="Bearer nobodys-key") as nobody:
            assert nobody.post(PATH, json=BODY).status_code == 401
        with keyed.client(Authorization="Bearer bobs-key") as bob:
            assert bob.post(PATH, json=BODY).headers["RateLimit-Remaining"] == "3"
        answers = [alice.post(PATH, json=BODY) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["1", "0", "0"]


def test_without_room_of_its_own_a_gateway_asks_the_shared_cache(routed):
    config = GatewayConfig(cache=CacheConfig(gateway_bytes=0))
    with RunningGateway(config) as gateway, gateway.client() as client:
        warm_up(client)
        assert client.post(PATH, json=BODY).headers["X-Cache"] == "hit"
        assert len(routed) == 3


def test_long_bodies_and_bodies_in_pieces_are_served(routed):
    with RunningGateway() as gateway, gateway.client() as client:
        assert client.post(PATH, json={**BODY, "prompt": "x" * 40_000}).status_code == 400

        def pieces():
            yield b'{"prompt": "a cat",'
            yield b' "seed": 9}'

        answers = [client.post(PATH, content=pieces()) for _ in range(3)]
        assert [answer.headers["X-Cache"] for answer in answers] == ["miss", "hit", "hit"]
        assert len(routed) == 2


async def test_what_was_made_of_an_image_at_an_address_is_not_repeated_by_its_body_alone():
    """Another image may be there the next time; the digest of what is fetched then decides."""
    served = 0

    async def app(scope, receive, send):
        nonlocal served
        served += 1
        await receive()
        has_fetched.set(scope["is_fetched"])
        headers = [(b"x-cache", b"hit"), (b"content-length", b"2"), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    config = GatewayConfig()
    stores = open_memory_stores(JobBounds())
    guarded = cached_answers.CachedAnswersMiddleware(
        app, path=PATH, keys=KeyRing(None), limiter=stores.limits, config=config, metrics=CountingMetrics()
    )

    async def post(*, is_fetched):
        async def receive():
            return {"type": "http.request", "body": b"%d" % is_fetched, "more_body": False}

        async def send(_):
            pass

        scope = {"type": "http", "path": PATH, "method": "POST", "headers": [], "is_fetched": is_fetched}
        await asyncio.create_task(guarded(scope, receive, send))  # in a context of its own, as the server's are

    await post(is_fetched=True)
    await post(is_fetched=True)
    assert served == 2
    await post(is_fetched=False)
    await post(is_fetched=False)
    assert served == 3
