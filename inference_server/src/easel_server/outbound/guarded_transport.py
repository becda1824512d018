"""An httpx2 transport that connects to the very address it has checked.

The check sits where the connection is made: a name is resolved once, each of its addresses is judged, and one of the
allowed is connected to. A name server that changes its answer in between gains nothing. Host header, SNI and the
certificate's check keep the name. Proxies from the environment are not used: they would resolve again. Certificates are
judged by the authorities that the system trusts. Which addresses are allowed: ssrf.py.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import cache
from typing import Final

import httpcore2
import httpx2

from easel_server.outbound.resolver import Resolve, Resolver
from easel_server.outbound.ssrf import Address, Network, is_allowed

MAX_CONNECTIONS: Final = 64  # as many as a Deliverer has attempts; who fetches bounds its own further down


class RefusedAddressError(Exception):
    """The host has no address that may be called. The message is for whoever runs the service: it names addresses."""

    def __init__(self, host: str, addresses: Sequence[Address]) -> None:
        self.host = host
        found = ", ".join(map(str, addresses))
        super().__init__(f"{host} resolves to {found}, which is no public address and in no allowed network")


class _GuardedBackend(httpcore2.AsyncNetworkBackend):
    def __init__(self, resolve: Resolve, allowed_networks: Sequence[Network]) -> None:
        self._resolve = resolve
        self._allowed_networks = allowed_networks
        self._backend = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore2's signature)
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError; UnicodeError: no valid name
            raise httpcore2.ConnectError(f"{host} can't be resolved: {error!r}") from error
        allowed = [address for address in addresses if is_allowed(address, self._allowed_networks)]
        if not allowed:
            raise RefusedAddressError(host, addresses)
        for address in allowed[:-1]:
            try:
                return await self._backend.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._backend.connect_tcp(str(allowed[-1]), port, timeout, local_address, socket_options)


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: httpcore2.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._response.aiter_stream():
            yield part

    async def aclose(self) -> None:
        await self._response.aclose()


@cache
def trust_the_system() -> ssl.SSLContext:
    """Certificates' authorities as the system has them; read once, which takes longer than many a call."""
    return httpx2.create_ssl_context(trust_env=False)


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Use it with ``httpx2.AsyncClient(transport=..., trust_env=False)``. Raises httpcore2's errors."""

    def __init__(
        self,
        allowed_networks: Sequence[Network] = (),
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._resolver = Resolver()
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context or trust_the_system(),
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=0,  # hosts are many and calls rare; and each connection is checked
            network_backend=_GuardedBackend(resolve or self._resolver, allowed_networks),
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it. Raises RefusedAddressError, and httpcore2's errors."""
        url = request.url
        response = await self._pool.handle_async_request(
            httpcore2.Request(
                method=request.method,
                url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx2.Response(
            status_code=response.status, headers=response.headers, stream=_Body(response), request=request
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()
        await self._resolver.aclose()
