"""Hosts that gateways fetch input images from, and the configuration that lets them."""

import asyncio
from contextlib import AsyncExitStack
from ipaddress import ip_network

from easel_contract.gateway_config import GatewayConfig, InputsConfig, LimitsConfig

from tests.inference_server.api.serving import RunningGateway
from tests.support.web_hosts import Serve, answer, serving

LOOPBACK = ip_network("127.0.0.0/8")
INPUTS = InputsConfig(allowed_hosts=("127.0.0.1",), allowed_networks=(LOOPBACK,), max_seconds=2)
CONFIG = GatewayConfig(inputs=INPUTS, limits=LimitsConfig(max_body_bytes=1 << 20))


class Host:
    """A host of images beside a gateway, on its loop: what it serves by path, and what it was asked for."""

    def __init__(self, gateway: RunningGateway) -> None:
        self._gateway = gateway
        self._stack = AsyncExitStack()
        self.served: dict[str, Serve] = {}

        async def serve(head: str, writer: asyncio.StreamWriter) -> None:
            await self.served.get(head.split(" ")[1], answer(b"", status="404 Not Found"))(head, writer)

        port, self._heads = gateway.call(self._stack.enter_async_context(serving(serve)))
        self.url = f"http://127.0.0.1:{port}"

    @property
    def asked(self) -> list[str]:
        return [head.split(" ")[1] for head in self._heads]

    def put(self, path: str, content: bytes) -> str:
        """The address of an image."""
        self.served[path] = answer(content)
        return self.url + path

    def close(self) -> None:
        self._gateway.call(self._stack.aclose())
