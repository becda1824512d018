"""A pod's ports and programs, through the API server: nothing else of the cluster has to be reachable.

The client's websockets are opened by its own functions, one level below its generated methods: those take a second to
import.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from socket import SHUT_RDWR, socket
from typing import TYPE_CHECKING, Any

import httpcore2
import httpx2

from easel_cli.cluster import paths
from easel_cli.cluster.access import Cluster, Json
from easel_cli.errors import CliError

if TYPE_CHECKING:
    from kubernetes.stream.ws_client import PortForward, WSClient


def proxy(cluster: Cluster, pod: Json, port: int, path: str, asked: str, **query: str) -> bytes:
    """What a pod's HTTP server answers to a GET, by the API server's proxy. It takes no header that authorizes along.

    Raises RefusedError, with the pod's own status and words where it refuses, or UnreachableError.
    """
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    return cluster.request("GET", f"{paths.core(namespace, 'pods', f'{name}:{port}')}/proxy{path}", asked, query=query)


def execute(cluster: Cluster, pod: Json, container: str, command: list[str], timeout_seconds: float) -> str:
    """What a command in a container says on both outputs. Raises CliError where it can't be run."""
    from kubernetes.client.exceptions import ApiException  # noqa: PLC0415 - takes long, and few commands need it
    from kubernetes.stream import ws_client  # noqa: PLC0415 - the same

    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    query = [("container", container), ("command", command), ("stdout", "true"), ("stderr", "true")]
    try:
        running: WSClient = ws_client.websocket_call(  # type: ignore[no-untyped-call] # not annotated
            cluster.configuration,
            "GET",
            f"{cluster.configuration.host}{paths.core(namespace, 'pods', name)}/exec",
            query_params=query,
            headers=cluster.authorization,
            _preload_content=False,
        )
    except ApiException as error:
        raise CliError(f"no command can be run in pod {name}: {_explain(error.reason, 'pods/exec')}") from None
    running.run_forever(timeout=timeout_seconds)  # type: ignore[no-untyped-call] # not annotated
    said = str(running.read_all())  # type: ignore[no-untyped-call] # not annotated
    running.close()  # type: ignore[no-untyped-call] # not annotated
    return said


def forward(cluster: Cluster, pod: Json, port: int) -> httpx2.BaseTransport:
    """A transport whose connections lead to a port of a pod, whatever host a URL names."""
    return _ForwardedTransport(_ForwardingBackend(cluster, pod, port))


class _ForwardedStream(httpcore2.NetworkStream):
    """One connection, over a websocket of its own."""

    def __init__(self, forwarded: "PortForward", port: int) -> None:
        self._forwarded, self._port = forwarded, port
        self._socket: socket = forwarded.socket(port)  # type: ignore[no-untyped-call] # not annotated

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self._socket.settimeout(timeout)
        try:
            received = self._socket.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(str(error)) from None
        except OSError as error:
            raise httpcore2.ReadError(str(error)) from None
        if not received and (fault := self._forwarded.error(self._port)):  # type: ignore[no-untyped-call] # the same
            raise httpcore2.ReadError(_first_line(fault))
        return received

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._socket.settimeout(timeout)
        try:
            self._socket.sendall(buffer)
        except TimeoutError as error:
            raise httpcore2.WriteTimeout(str(error)) from None
        except OSError as error:
            raise httpcore2.WriteError(str(error)) from None

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(SHUT_RDWR)
        self._socket.close()

    def get_extra_info(self, info: str) -> Any:
        del info


class _ForwardingBackend(httpcore2.NetworkBackend):
    def __init__(self, cluster: Cluster, pod: Json, port: int) -> None:
        self._cluster, self._pod, self._port = cluster, pod, port

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        from kubernetes.client.exceptions import ApiException  # noqa: PLC0415 - takes long, and few commands need it
        from kubernetes.stream import ws_client  # noqa: PLC0415 - the same

        del host, port, timeout, local_address, socket_options
        metadata, configuration = self._pod["metadata"], self._cluster.configuration
        path = f"{paths.core(metadata['namespace'], 'pods', metadata['name'])}/portforward"
        try:
            forwarded: PortForward = ws_client.portforward_call(  # type: ignore[no-untyped-call] # not annotated
                configuration,
                "GET",
                f"{configuration.host}{path}",
                query_params=[("ports", str(self._port))],
                headers=self._cluster.authorization,
            )
        except ApiException as error:
            said = _explain(error.reason, "pods/portforward")
            raise httpcore2.ConnectError(f"no way to pod {metadata['name']}: {said}") from None
        return _ForwardedStream(forwarded, self._port)


class _Body(httpx2.SyncByteStream):
    def __init__(self, response: httpcore2.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


class _ForwardedTransport(httpx2.BaseTransport):
    def __init__(self, backend: httpcore2.NetworkBackend) -> None:
        self._pool = httpcore2.ConnectionPool(network_backend=backend)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        asked = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        answer = self._pool.handle_request(asked)
        return httpx2.Response(status_code=answer.status, headers=answer.headers, stream=_Body(answer))

    def close(self) -> None:
        self._pool.close()


def _explain(reason: object, right: str) -> str:
    """What the client says of a websocket that wasn't opened; of a missing right, which."""
    said = _first_line(reason)
    return f"you may not ({right}): {said}" if "403" in said or "401" in said else said


def _first_line(text: object) -> str:
    return str(text).strip().partition("\n")[0]
