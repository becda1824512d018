"""The client of Prometheus' API, over real sockets: what a server may answer, and what the user is reported of it.

What a real Prometheus answers is in tests/integration/test_simulate_history.py.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from easel_operator.cluster import prometheus as module
from easel_operator.cluster.prometheus import Prometheus, PrometheusError

TOKEN = "a-token"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Answer], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    runners: list[web.AppRunner] = []

    async def start(answer: Answer) -> str:
        app = web.Application()
        app.router.add_get("/prefix/api/v1/query", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/prefix"

    yield start
    for runner in runners:
        await runner.cleanup()


async def ask(url: str, token: str | None = None) -> Any:
    async with Prometheus(url, token=token) as prometheus:
        return await prometheus.query("up", 1764000000.5), prometheus.warnings


async def refuse(url: str, token: str | None = None) -> str:
    with pytest.raises(PrometheusError) as error:
        await ask(url, token)
    return str(error.value)


async def test_vectors_are_read_and_warnings_kept(serve: Serve) -> None:
    asked: list[dict[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append({**request.query, "authorization": request.headers.get("Authorization", "")})
        result = [
            {"metric": {"pod": "a"}, "values": [[1.5, "3"], [2.5, "NaN"], [3.5, "+Inf"]]},
            {"metric": {}, "value": [4, "5.25"]},
        ]
        data = {"resultType": "matrix", "result": result}
        return web.json_response({"status": "success", "data": data, "warnings": ["a store is away"]})

    (matrix, vector), warnings = await ask(await serve(answer), TOKEN)
    assert asked == [{"query": "up", "time": "1764000000.500", "authorization": f"Bearer {TOKEN}"}]
    assert matrix.labels == {"pod": "a"}
    assert matrix.samples[0] == (1.5, 3.0)
    assert math.isnan(matrix.samples[1][1])
    assert math.isinf(matrix.samples[2][1])
    assert vector.samples == ((4.0, 5.25),)
    assert warnings == ["a store is away"]


@pytest.mark.parametrize(
    ("token", "user", "sent"),
    [
        (TOKEN, "", f"Bearer {TOKEN}"),
        (None, "", "Basic bmV0cmM6cGFzc3dvcmQ="),
        (None, "url:secret@", "Basic dXJsOnNlY3JldA=="),
    ],
)
async def test_a_token_or_a_user_in_the_url_goes_before_netrc(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str | None, user: str, sent: str
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login netrc password password\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    received: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        received.append(request.headers.get("Authorization"))
        return web.json_response({"status": "success", "data": {"result": []}})

    await ask((await serve(answer)).replace("http://", f"http://{user}"), token)
    assert received == [sent]


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (401, "", "answered HTTP 401: EASEL_PROMETHEUS_TOKEN is not accepted"),
        (403, "{}", "answered HTTP 403: EASEL_PROMETHEUS_TOKEN is not accepted"),
        (302, "", "redirects to https://login.example: give the URL of Prometheus itself"),
        (
            200,
            "<html>",
            "answered HTTP 200 and not as Prometheus' API does: does the URL need a path? It began '<html>'",
        ),
        (502, "", "answered HTTP 502 and not as"),
        (200, '{"status": "success"}', "refused (HTTP 200)"),
        (
            422,
            json.dumps({"status": "error", "errorType": "execution", "error": "too many samples"}),
            "refused (execution): too many samples; it was asked up",
        ),
    ],
)
async def test_an_answer_that_is_none_says_what_to_do(serve: Serve, status: int, body: str, message: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body, headers={"Location": "https://login.example"})

    assert message in await refuse(await serve(answer), TOKEN)


async def test_without_a_token_a_refusal_names_the_variable(serve: Serve) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=401)

    assert "EASEL_PROMETHEUS_TOKEN is not set; it holds a bearer token" in await refuse(await serve(answer))


async def test_an_answer_is_bounded_in_size(serve: Serve) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=" " * (1 << 18))

    async with Prometheus(await serve(answer), max_answer_bytes=1 << 16) as prometheus:
        with pytest.raises(PrometheusError, match="answered with more than 65536 bytes"):
            await prometheus.query("up", 1764000000.5)


async def test_an_answer_is_bounded_in_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERY_TIMEOUT_SECONDS", 0.1)
    is_over = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        await is_over.wait()
        return web.Response()

    message = await refuse(await serve(answer))
    is_over.set()
    assert "gave no answer within 0.1 s" in message


@pytest.mark.parametrize(
    ("url", "token", "message"),
    [
        ("prometheus:9090", None, "--from-prometheus is prometheus:9090; http(s)://HOST[:PORT][/PATH] is expected"),
        ("localhost", None, "--from-prometheus is localhost; http(s)://HOST"),
        ("http://host/graph?g0.expr=up", None, "http(s)://HOST[:PORT][/PATH] is expected"),
        ("http://host:99999", None, "--from-prometheus: not a URL: "),
        ("http://host", "two\nlines", "EASEL_PROMETHEUS_TOKEN holds blanks or signs that no HTTP header may have"),
        ("http://user:secret@host", TOKEN, "EASEL_PROMETHEUS_TOKEN is set and the URL has a user"),
        ("ftp://user:secret@host", None, "--from-prometheus is ftp://host; http(s)://"),
    ],
)
async def test_an_address_or_token_that_can_not_be_used_is_refused(url: str, token: str | None, message: str) -> None:
    refused = await refuse(url, token)
    assert message in refused
    assert "secret" not in refused
