"""What the client adds to a request: nothing that has to be looked up each time."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from easel_operator.cluster.client import KubernetesClient, find_proxy
from kubernetes.aio.client import Configuration


async def _answer(_request: web.Request) -> web.Response:
    return web.json_response({"kind": "Status"})


async def test_a_request_waits_for_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    app = web.Application()
    app.router.add_get("/version", _answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    client = KubernetesClient(Configuration(host="http://127.0.0.1:" + str(runner.addresses[0][1])))
    used: list[str] = []
    loop = asyncio.get_running_loop()
    submit = loop.run_in_executor

    def note(executor: Any, work: Callable[..., Any], *arguments: Any) -> Any:
        used.append(str(work))
        return submit(executor, work, *arguments)

    monkeypatch.setattr(loop, "run_in_executor", note)
    try:
        assert await client.request("GET", "/version") == {"kind": "Status"}
    finally:
        await client.close()
        await runner.cleanup()

    assert used == []


@pytest.mark.parametrize(
    ("no_proxy", "proxy"),
    [("", "http://proxy.example:3128"), ("10.96.0.1", None), (".example", "http://proxy.example:3128")],
)
def test_the_api_server_is_reached_through_the_proxy_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, proxy: str | None
) -> None:
    for name in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)

    assert find_proxy("https://10.96.0.1:443") == proxy
