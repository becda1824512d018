"""Nothing that a request may hold gives a 500, and no body is read beyond its bound."""

import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import urlsplit

import pytest
from easel_contract.gateway_config import GatewayConfig, LimitsConfig
from easel_server.transport import protocol as bounded_protocol
from easel_server.transport.middleware import RequestMiddleware

from tests.inference_server.api.serving import RunningGateway, wait_for

HOSTILE_BODIES = {
    "nothing": b"",
    "no JSON": b"prompt=cat",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "half a document": b'{"prompt": "a cat"',
    "not UTF-8": b'{"prompt": "\xff\xfe"}',
    "a lone surrogate": b'{"prompt": "\\ud800"}',
    "deep nesting": b"[" * 100_000,
    "deep nesting in a field": b'{"prompt": ' + b'{"a":' * 50_000,
    "a number of thousands of digits": b'{"prompt": "a", "seed": ' + b"9" * 4301 + b"}",
    "a number of hundreds of digits": b'{"prompt": "a", "seed": ' + b"9" * 400 + b"}",
    "a number beyond floats": b'{"prompt": "a", "guidance_scale": 1e999}',
    "NaN": b'{"prompt": "a", "guidance_scale": NaN}',
    "infinity": b'{"prompt": "a", "guidance_scale": -Infinity}',
    "a fraction of an image": b'{"prompt": "a", "n": 1.5}',
    "objects for strings": b'{"prompt": {"$ne": null}}',
    "a huge size": b'{"prompt": "a", "size": "99999999999999999999x1"}',
    "a huge word": b'{"prompt": "a", "output_format": "' + b"x" * 100_000 + b'"}',
    "digits of another script": '{"prompt": "a", "size": "६४x६४"}'.encode(),
}


AUTOMATIC1111_NAMES = {
    b'"guidance_scale"': b'"cfg_scale"',
    b'"n"': b'"n_iter"',
    b'"size"': b'"width"',
    b'"output_format"': b'"sampler_name"',
}


@pytest.mark.parametrize("case", HOSTILE_BODIES)
@pytest.mark.parametrize(
    "path",
    ["/v1/images/generations", "/v1/images/edits", "/v1/predictions", "/sdapi/v1/txt2img", "/sdapi/v1/img2img"],
)
def test_a_hostile_body_is_the_clients_fault(client, path, case):
    body = HOSTILE_BODIES[case]
    if path == "/v1/predictions" and body.startswith(b'{"prompt'):
        body = b'{"input": ' + body + b"}"
    if path.startswith("/sdapi"):  # which accepts fields that it doesn't know
        for name, theirs in AUTOMATIC1111_NAMES.items():
            body = body.replace(name, theirs)
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 422}, answer.text
    assert len(answer.text) < 2000, "a refusal doesn't echo the whole request"


def test_prompts_of_any_text_are_generated_from(client):
    for prompt in ("\x00", "日本語 🐈‍⬛", "\u202e right to left", "'; DROP TABLE jobs; --", "{{7*7}}", "<script>"):
        assert client.post("/v1/images/generations", json={"prompt": prompt}).status_code == 200


def test_random_values_in_every_field_never_give_a_500(client):
    chance = random.Random(20261123)  # noqa: S311  # the seed replays a failure
    values = [None, True, False, 0, -1, 1, 7, 2**62, 2**64, 0.5, "", "auto", "64x64", "x" * 5000, [], [1], {}, {"a": 1}]
    images = ["prompt", "n", "size", "response_format", "output_format", "quality", "seed", "num_inference_steps"]
    images += ["guidance_scale", "negative_prompt", "stream", "background", "model", "user"]
    inputs = ["prompt", "width", "height", "num_outputs", "seed", "num_inference_steps", "guidance_scale"]
    outer = ["webhook", "webhook_events_filter", "version", "stream"]

    def some(names: list[str]) -> dict[str, object]:
        return {name: chance.choice(values) for name in chance.sample(names, chance.randint(0, 3))}

    for _ in range(300):
        one = {"prompt": "a", "num_inference_steps": 1, **some(images)}
        two = {"input": {"prompt": "a", **some(inputs)}, **some(outer)}
        for path, body in (("/v1/images/generations", one), ("/v1/predictions", two)):
            answer = client.post(path, json=body)
            assert answer.status_code in {200, 201, 400, 404, 422}, (path, json.dumps(body), answer.text)


def speak(url: str, request: bytes) -> bytes:
    """The first bytes of the answer to raw bytes."""
    parts = urlsplit(url)
    with closing(socket.create_connection((parts.hostname, parts.port), timeout=10)) as connection:
        connection.sendall(request)
        return connection.recv(65536)


@pytest.mark.parametrize("host", ["[half", "a b", "x" * 5000, "", "evil.example:port", "\xff"])
def test_a_strange_host_header_is_no_fault_of_ours(gateway, host):
    body = b'{"input": {"prompt": "a"}}'
    head = f"POST /v1/predictions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = speak(gateway.url, head.encode("latin-1") + body)
    assert answer.split(b" ")[1] in {b"201", b"400", b"403"}, answer


@pytest.mark.parametrize("header", ["Authorization", "Prefer", "Idempotency-Key", "Cache-Control", "X-Request-Id"])
@pytest.mark.parametrize("value", ["\xff\xfe", "x" * 8000, ",,,===;;", "wait=99999999999999999999"])
def test_strange_headers_are_no_fault_of_ours(gateway, header, value):
    body = b'{"input": {"prompt": "a"}}'
    head = (
        f"POST /v1/predictions HTTP/1.1\r\nHost: localhost\r\n{header}: {value}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    answer = speak(gateway.url, head.encode("latin-1") + body)
    assert answer.split(b" ")[1] in {b"201", b"200", b"422"}, answer


@pytest.fixture(scope="module")
def bounded():
    with RunningGateway(GatewayConfig(limits=LimitsConfig(max_body_bytes=1 << 20))) as gateway:
        yield gateway


def test_a_body_beyond_the_bound_is_refused(bounded):
    with bounded.client() as client:
        answer = client.post("/v1/images/generations", json={"prompt": "x" * (1 << 20)})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"
    assert "longer than 1048576 bytes" in answer.json()["error"]["message"]


def test_a_body_without_an_end_is_refused_while_it_is_read(bounded):
    head = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    # 17 chunks of 64 KiB are one more than the bound, and the last chunk never comes.
    assert b"413" in speak(bounded.url, head + chunk * 17)


def test_a_head_without_an_end_is_refused_while_it_is_read(bounded):
    head = b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n"
    assert b" 431 " in speak(bounded.url, head + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(70)))
    assert b" 431 " in speak(bounded.url, head + b"X-Long: " + b"x" * (70 << 10))
    assert b" 431 " in speak(bounded.url, b"GET /" + b"x" * (70 << 10))


def test_a_head_that_takes_too_long_is_refused(bounded, monkeypatch):
    monkeypatch.setattr(bounded_protocol, "HEAD_SECONDS", 0.05)
    assert b" 408 " in speak(bounded.url, b"POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n")
    assert b" 408 " in speak(bounded.url, b"")
    with bounded.client() as client:  # and a head that is complete is not, however long its request takes
        assert client.post("/v1/images/generations", json={"prompt": "a cat"}).status_code == 200


def test_requests_beyond_the_bound_are_refused_and_probes_are_not(monkeypatch):
    monkeypatch.setattr(RequestMiddleware.__init__, "__defaults__", (1,))
    with RunningGateway() as gateway, gateway.client() as client, ThreadPoolExecutor() as others:
        slow = others.submit(client.post, "/v1/images/generations", json={"prompt": "slow"})
        wait_for(lambda: gateway.worker.seen)
        for path, code in (("/v1/images/generations", ("error", "code")), ("/v1/predictions", ("code",))):
            refused = client.post(path, json={})
            code_of = refused.json()
            for name in code:
                code_of = code_of[name]
            assert (refused.status_code, code_of) == (503, "too_many_requests")
            assert int(refused.headers["Retry-After"]) > 0
        assert client.get("/readyz").status_code == 200
        gateway.call(gateway.stores.jobs.cancel(gateway.worker.seen[0]))
        assert slow.result().status_code == 422
        assert client.get("/v1/models").status_code == 200
