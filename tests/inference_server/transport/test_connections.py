"""Heads, slow bodies and the ends of connections, over raw sockets."""

import json
import logging
import socket
from contextlib import suppress

import pytest
from easel_contract.gateway_config import GatewayConfig, LimitsConfig
from easel_server.transport import protocol as bounded_protocol
from starlette.routing import Route

from tests.inference_server.api.serving import RunningGateway, wait_for
from tests.support.raw_http import build_head, connected, open_socket, read_all, status_of

IMAGES = "/v1/images/generations"


def post(path: str, body: bytes, *headers: str) -> bytes:
    return build_head("POST", path, f"Content-Length: {len(body)}", *headers) + body


def as_json(**fields: object) -> bytes:
    return json.dumps(fields).encode()


# Heads.


@pytest.mark.parametrize(
    "lines",
    [
        b"a:\r\n" * 9000,  # few bytes, all in one write
        b"".join(b"x-%d: %s\r\n" % (number, b"v" * 2000) for number in range(50)),  # few lines
        b"x: " + b"v" * 100_000 + b"\r\n",
    ],
)
@pytest.mark.parametrize("end", [b"\r\n", b""])
def test_a_head_is_bounded_in_lines_and_bytes_however_it_is_cut(gateway, lines, end):
    head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + lines + end
    for size_bytes in (len(head), 50_000):
        with connected(gateway.url) as connection:
            with suppress(ConnectionError):  # it was closed while we were still sending
                for start in range(0, len(head), size_bytes):
                    connection.sendall(head[start : start + size_bytes])
            assert status_of(read_all(connection)) == 431


def test_a_long_path_in_one_write_is_refused(gateway):
    with connected(gateway.url) as connection:
        connection.sendall(build_head("GET", "/" + "x" * 100_000))
        assert status_of(read_all(connection)) == 431


def test_as_many_headers_as_browsers_and_proxies_send_are_served(gateway):
    with connected(gateway.url) as connection:
        connection.sendall(build_head("GET", "/v1/models", *(f"x-{n}: {n}" for n in range(100)), "Connection: close"))
        assert status_of(read_all(connection)) == 200


def test_trailers_behind_a_body_are_bounded_too(gateway):
    chunked = build_head("POST", IMAGES, "Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n"
    for trailers in (b"a:\r\n" * 9000, b"x: " + b"v" * 500_000):
        with connected(gateway.url) as connection:
            with suppress(ConnectionError):
                connection.sendall(chunked + trailers)
            assert status_of(read_all(connection)) == 431


# Bodies.


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(bounded_protocol, "BODY_WINDOW_SECONDS", 0.3)


def test_bodies_that_trickle_are_refused_and_others_are_served_meanwhile(gateway, impatient):
    head = build_head("POST", IMAGES, "Content-Length: 1000")
    connections = [open_socket(gateway.url) for _ in range(400)]
    try:
        for connection in connections:
            connection.sendall(head + b"{")
        for connection in connections:
            connection.sendall(b" ")
        with gateway.client() as client:
            assert client.post(IMAGES, json={"prompt": "a cat"}).status_code == 200
        for connection in connections:
            answer = read_all(connection)
            assert status_of(answer) == 408, answer
            assert b"connection: close" in answer.lower()
            assert b'"code":"body_too_slow"' in answer
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("path", [IMAGES, "/v1/images/edits", "/v1/predictions", "/sdapi/v1/txt2img"])
def test_every_api_says_in_its_own_shape_that_a_body_was_too_slow(gateway, impatient, path):
    with connected(gateway.url) as connection:
        connection.sendall(build_head("POST", path, "Content-Length: 100000") + b"{")
        answer = read_all(connection)
    assert status_of(answer) == 408
    body = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert "too slowly" in json.dumps(body)


def test_a_body_may_take_long_in_all_only_so_long(gateway, impatient, monkeypatch):
    monkeypatch.setattr(bounded_protocol, "MIN_BODY_BYTES_PER_SECOND", 1)
    monkeypatch.setattr(bounded_protocol, "BODY_SECONDS", 0.9)
    with connected(gateway.url) as connection:
        connection.sendall(build_head("POST", IMAGES, "Content-Length: 100000"))
        connection.settimeout(0.02)
        answer, sent = b"", 0
        while not answer and sent < 1000:
            connection.sendall(b" ")
            sent += 1
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                continue
    assert status_of(answer) == 408


def test_a_slow_body_that_keeps_coming_is_served(gateway, monkeypatch):
    """At each look as much has come as must, which this client is given the time for however busy the machine is."""
    monkeypatch.setattr(bounded_protocol, "BODY_WINDOW_SECONDS", 0.02)
    monkeypatch.setattr(bounded_protocol, "MIN_BODY_BYTES_PER_SECOND", 150)  # three in a window
    judge, looks = bounded_protocol.BoundedHttpProtocol._judge_body, []

    def judge_once_enough_has_come(self, cycle):
        if self._body_bytes < 3 and not cycle.response_complete:
            self.loop.call_later(0.001, judge_once_enough_has_come, self, cycle)
            return
        looks.append(self._body_bytes)
        judge(self, cycle)

    monkeypatch.setattr(bounded_protocol.BoundedHttpProtocol, "_judge_body", judge_once_enough_has_come)
    body = as_json(prompt="a cat")
    with connected(gateway.url) as connection:
        connection.sendall(build_head("POST", IMAGES, f"Content-Length: {len(body)}", "Connection: close"))
        for sent in range(0, len(body) - 3, 3):
            connection.sendall(body[sent : sent + 3])
            wait_for(lambda: len(looks) > sent // 3)  # noqa: B023
        assert set(looks) == {3}
        connection.sendall(body[sent + 3 :])
        assert status_of(read_all(connection)) == 200


def test_a_long_wait_for_the_answer_is_no_slow_body(gateway, impatient):
    gateway.call(gateway.worker.hold())
    with connected(gateway.url) as connection:
        connection.sendall(post(IMAGES, as_json(prompt="a cat"), "Connection: close"))
        connection.settimeout(1.0)  # some windows
        with pytest.raises(TimeoutError):
            connection.recv(1)
        gateway.do(gateway.worker.go_on)
        connection.settimeout(20)
        assert status_of(read_all(connection)) == 200


def test_no_route_asks_for_a_body_before_it_has_checked_the_key(tmp_path):
    (tmp_path / "ada").write_text("ada-key-of-sixteen\n")
    with RunningGateway(keys=tmp_path) as gateway:
        routes = [route for route in gateway.app.routes if isinstance(route, Route)]
        methods = {"POST", "PUT"}
        reading = [(method, route.path) for route in routes for method in methods & (route.methods or set())]
        assert len(reading) >= 8
        for method, path in reading:
            filled = path.replace("{name:path}", "tiny/sd15").replace("{prediction_id}", "an-id-of-mine")
            head = build_head(method, filled, "Content-Length: 1000", "Expect: 100-continue")
            with connected(gateway.url) as connection:
                connection.sendall(head)
                assert status_of(read_all(connection)) == 401, (method, path)


def test_a_body_that_is_declared_too_large_is_refused_before_it_is_asked_for():
    head = build_head("POST", IMAGES, f"Content-Length: {(1 << 20) + 1}", "Expect: 100-continue")
    config = GatewayConfig(limits=LimitsConfig(max_body_bytes=1 << 20))
    with RunningGateway(config) as gateway, connected(gateway.url) as connection:
        connection.sendall(head)
        assert status_of(read_all(connection)) == 413


def test_a_client_that_is_still_sending_can_read_its_refusal(gateway):
    """Closing at once would reset the connection, and the client would see an error of the network instead."""
    body = b"x" * (32 << 20)
    with connected(gateway.url) as connection:
        connection.sendall(post(IMAGES, body))
        answer = read_all(connection)
    assert status_of(answer) == 413
    assert b"<reset>" not in answer


# Ends.


@pytest.mark.parametrize("prompt", ["a cat", "slow"])
def test_a_client_that_has_closed_its_sending_side_gets_its_answer(gateway, prompt):
    before = len(gateway.worker.seen)
    with connected(gateway.url) as connection:
        connection.sendall(post(IMAGES, as_json(prompt=prompt)))
        connection.shutdown(socket.SHUT_WR)
        if prompt == "slow":
            wait_for(lambda: len(gateway.worker.seen) > before)
            gateway.call(gateway.stores.jobs.cancel(gateway.worker.seen[-1]))
        answer = read_all(connection)
    final = answer.removeprefix(bounded_protocol.CONTINUE)  # which every client of HTTP/1.1 leaves out
    assert status_of(final) == (422 if prompt == "slow" else 200), answer


def test_a_client_that_has_closed_its_sending_side_gets_its_stream(gateway):
    gateway.call(gateway.worker.hold())
    with connected(gateway.url) as connection:
        connection.sendall(post(IMAGES, as_json(prompt="a cat", stream=True)))
        head = connection.recv(1 << 16)
        assert status_of(head) == 200
        connection.shutdown(socket.SHUT_WR)
        gateway.do(gateway.worker.go_on)
        assert b"image_generation.completed" in read_all(connection)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("is_half_closed_first", [False, True])
def test_the_job_of_a_client_that_left_is_cancelled_at_once(gateway, is_stream, is_half_closed_first, monkeypatch):
    monkeypatch.setattr(bounded_protocol, "PROBE_SECONDS", (0.0, 0.5))
    before = len(gateway.worker.seen)
    with connected(gateway.url) as connection:
        connection.sendall(post(IMAGES, as_json(prompt="slow", stream=is_stream)))
        wait_for(lambda: len(gateway.worker.seen) > before)
        if is_half_closed_first:
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
    job_id = gateway.worker.seen[-1]
    wait_for(lambda: gateway.call(gateway.stores.jobs.get(job_id)).state == "Canceled", timeout_seconds=5)


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        (IMAGES, post(IMAGES, as_json(prompt="slow"))),
        (IMAGES, post(IMAGES, b"{" + b" " * 2000)[:-1000]),  # in the middle of its body
        ("/v1/images/edits", post("/v1/images/edits", b"{" + b" " * 2000)[:-1000]),
        ("/v1/predictions", post("/v1/predictions", as_json(input={"prompt": "slow"}), "Prefer: wait=60")),
        ("/sdapi/v1/txt2img", post("/sdapi/v1/txt2img", as_json(prompt="slow"))),
    ],
)
def test_a_client_that_leaves_is_no_bad_request(gateway, caplog, path, sent):
    counts = gateway.metrics.counts.copy()
    seen = len(gateway.worker.seen)
    with caplog.at_level(logging.INFO, logger="easel_server"):
        with connected(gateway.url) as connection:
            connection.sendall(sent)
            if b"slow" in sent:
                wait_for(lambda: len(gateway.worker.seen) > seen)
        if path == "/v1/predictions":  # which goes on without its client
            gateway.call(gateway.stores.jobs.cancel(gateway.worker.seen[-1]))
        wait_for(lambda: [record for record in caplog.records if record.msg == "request"])
    change = gateway.metrics.counts - counts
    assert change["request", path, "499"] == 1
    assert [key for key in change if key[0] == "request" and key[2] in {"400", "422", "500"}] == []
    assert [record.code for record in caplog.records if record.msg == "request"] == [499]
