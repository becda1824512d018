"""/healthz, /readyz and /metrics of the operator, for the kubelet and for Prometheus."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from easel_contract import names
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

Check = Callable[[], str | None]  # what is wrong, or None
Handler = Callable[[web.Request], Awaitable[web.Response]]


class HealthServer:
    """Each path answers 200, or 503 with every failed check and what it says."""

    def __init__(self, *, alive: Mapping[str, Check], ready: Mapping[str, Check]) -> None:
        self._alive = alive
        self._ready = ready
        self._runner: web.AppRunner | None = None

    async def serve(self, port: int) -> None:
        """Start to listen on all addresses and return."""
        application = web.Application()
        application.router.add_get(names.PATH_HEALTH, self._answer(self._alive))
        application.router.add_get(names.PATH_READY, self._answer(self._ready))
        application.router.add_get(names.PATH_METRICS, _metrics)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=port).start()

    async def close(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _answer(self, checks: Mapping[str, Check]) -> Handler:
        async def answer(_: web.Request) -> web.Response:
            faults = [f"{name}: {fault}" for name, check in checks.items() if (fault := check()) is not None]
            return web.Response(text="\n".join(faults) or "ok", status=503 if faults else 200)

        return answer


async def _metrics(_: web.Request) -> web.Response:
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
