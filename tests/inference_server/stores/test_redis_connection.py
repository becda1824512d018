"""How the stores connect: over a Unix socket, and with a pool that can't make a connection."""

import asyncio
import contextlib
import os
import signal
import socket
import struct
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.jobs.redis import RedisJobs
from easel_server.stores.opening import Stores, open_stores
from easel_server.stores.redis import connection as connection_module
from easel_server.stores.redis import pipeline as pipeline_module
from easel_server.stores.redis.connection import MAX_SERVERS, RedisConnection
from easel_server.stores.redis.pipeline import Pipeline
from redis import exceptions
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.redis_server import RedisServer
from tests.support.stored_images import succeed

TIMEOUT_SECONDS = 5.0


@pytest.mark.redis
async def test_a_unix_socket_serves_scripts_blocking_calls_and_notices(tmp_path: Path) -> None:
    socket = tmp_path / "redis.sock"
    with RedisServer("--unixsocket", str(socket)):
        stores = open_stores(f"unix://{socket}", namespace="ml", service="sd", bounds=JobBounds())
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await stores.ping()
                claiming = asyncio.create_task(stores.jobs.claim("worker-1", lease_seconds=5, wait_seconds=5))
                await asyncio.sleep(0)
                reply = await stores.jobs.submit(build_job("one"))
                waiting = asyncio.create_task(stores.jobs.wait(reply.job.id, TIMEOUT_SECONDS))
                (claim,) = await claiming
                await succeed(stores.jobs, claim, (b"image",))
                ended = await waiting
            assert ended is not None
            assert ended.state.is_final
        finally:
            await stores.close()


@pytest.mark.redis
async def test_a_password_that_changes_counts_for_new_connections_and_ends_none(tmp_path: Path) -> None:
    file = tmp_path / "url"
    with RedisServer() as server:
        assert server.command("ACL", "SETUSER", "pod", "on", ">one", "~*", "+@all").startswith(b"+OK")
        url = server.url.replace("redis://", "redis://pod:one@")
        connection = RedisConnection(url, "easel:{ml/sd}:", url_file=file)
        try:
            await connection.ping()  # without a file, by the URL
            assert server.command("ACL", "SETUSER", "pod", "resetpass", ">two").startswith(b"+OK")
            await connection.ping()  # it was let in
            file.write_text(url.replace(":one@", ":two@") + "\n")
            assert server.command("CLIENT", "KILL", "USER", "pod").startswith(b":")
            await connection.ping()
            await connection.blocking_command("PING")
            file.write_text("half a li")
            assert server.command("CLIENT", "KILL", "USER", "pod").startswith(b":")
            with pytest.raises(StoreUnavailableError, match=r"AuthenticationError|WRONGPASS"):
                await connection.ping()
        finally:
            await connection.close()


async def test_callers_hear_of_a_connection_that_can_not_be_made() -> None:
    pipeline = Pipeline(ConnectionPool(no_such_option=True))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        calls = [asyncio.create_task(pipeline.execute("PING")) for _ in range(5)]
        for call in calls:
            with pytest.raises(TypeError, match="no_such_option"):
                await call
        with pytest.raises(TypeError, match="no_such_option"):  # and so does the next one
            await pipeline.execute("PING")
        await pipeline.close()


async def test_a_pipeline_can_be_closed_before_a_call_has_begun() -> None:
    pipeline = Pipeline(ConnectionPool(port=1))
    call = asyncio.create_task(pipeline.execute("PING"))
    await asyncio.sleep(0)  # as far as the creation of the task that is to send
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await pipeline.close()
    with pytest.raises(exceptions.ConnectionError, match="closed"):
        await call


class WanderingCluster:
    """A fake of a cluster whose keys move at each command, to a server that wasn't there before."""

    SERVERS = 30

    def __init__(self) -> None:
        self.asked = 0
        self.open = 0
        self._servers: list[asyncio.Server] = []

    async def start(self) -> int:
        """Listen on 127.0.0.1 to 127.0.0.30, at one port, which is returned."""
        self._servers.append(await asyncio.start_server(self._serve, "127.0.0.1", 0))
        port: int = self._servers[0].sockets[0].getsockname()[1]
        for number in range(2, self.SERVERS + 1):
            self._servers.append(await asyncio.start_server(self._serve, f"127.0.0.{number}", port))
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while words := await self._read_command(reader):
                if words[0] != b"PING":
                    writer.write(b"+OK\r\n")
                    continue
                self.asked += 1
                port = writer.get_extra_info("sockname")[1]
                next_one = min(self.asked + 1, self.SERVERS)
                is_settled = self.asked >= self.SERVERS
                writer.write(b"+PONG\r\n" if is_settled else f"-MOVED 1 127.0.0.{next_one}:{port}\r\n".encode())
        finally:
            self.open -= 1
            writer.close()

    async def _read_command(self, reader: asyncio.StreamReader) -> list[bytes]:
        count = (await reader.readline()).strip()[1:]
        words = []
        for _ in range(int(count or 0)):
            size = int((await reader.readline())[1:])
            words.append((await reader.readexactly(size + 2))[:-2])
        return words

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
            await server.wait_closed()


async def test_servers_that_a_cluster_has_replaced_leave_no_connections_behind() -> None:
    cluster = WanderingCluster()
    connection = RedisConnection(f"redis://127.0.0.1:{await cluster.start()}", "{easel:ml:sd}:")
    try:
        while cluster.asked < WanderingCluster.SERVERS:
            with contextlib.suppress(
                StoreUnavailableError
            ):  # after MAX_REDIRECTS it gives up, and the next call goes on
                assert await connection.command("PING") == b"PONG"
        await eventually(lambda: asyncio.sleep(0, cluster.open <= MAX_SERVERS))
        assert await connection.command("PING") == b"PONG"
    finally:
        await connection.close()
        await eventually(lambda: asyncio.sleep(0, cluster.open == 0))
        await cluster.stop()


async def fail_for_silence(stores: Stores) -> None:
    with pytest.raises(StoreUnavailableError, match="no answer to a PING"):
        await stores.jobs.get("a")


@pytest.mark.redis
async def test_a_server_that_is_silent_costs_a_caller_a_second_at_most_and_the_next_ones_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert pipeline_module.DOUBT_SECONDS + pipeline_module.PING_SECONDS < 1
    for name in ("CONNECT_TIMEOUT_SECONDS", "REPLY_TIMEOUT_SECONDS"):  # it isn't they that end the wait
        monkeypatch.setattr(connection_module, name, 600.0)
    monkeypatch.setattr(pipeline_module, "PAUSE_SECONDS", 600.0)
    with RedisServer() as server:
        stores = open_stores(server.url, namespace="ml", service="sd", bounds=JobBounds())
        assert isinstance(stores.jobs, RedisJobs)
        pipeline = stores.jobs._connection._server.pipeline
        connect, made = pipeline._make_connection, Counter[str]()

        def count() -> AbstractConnection:
            made["connections"] += 1
            return connect()

        monkeypatch.setattr(pipeline, "_make_connection", count)
        try:
            await stores.jobs.submit(build_job("a"))
            os.kill(server.pid, signal.SIGSTOP)
            async with asyncio.timeout(60):
                await asyncio.gather(*(fail_for_silence(stores) for _ in range(100)))
                before = made.copy()
                await asyncio.gather(*(fail_for_silence(stores) for _ in range(100)))
            assert made == before, "who comes later is told what is known"
            os.kill(server.pid, signal.SIGCONT)
            monkeypatch.setattr(pipeline, "_ask_again_at", 0.0)  # the pause is over

            async def is_back() -> bool:
                try:
                    return await stores.jobs.get("a") is not None
                except StoreUnavailableError:
                    return False

            await eventually(is_back)
        finally:
            await stores.close()


@pytest.mark.redis
async def test_a_server_that_is_busy_with_another_call_of_ours_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers a PING meanwhile: what takes long is no outage."""
    monkeypatch.setattr(pipeline_module, "DOUBT_SECONDS", 0.05)
    with RedisServer() as server:
        stores = open_stores(server.url, namespace="ml", service="sd", bounds=JobBounds())
        assert isinstance(stores.jobs, RedisJobs)
        pipeline = stores.jobs._connection._server.pipeline
        try:
            # A command that blocks its own connection stands in for a long answer on a slow network.
            assert await pipeline.execute("BLPOP", "nothing", 0.5) is None
        finally:
            await stores.close()


class ResettingServer:
    """A fake that answers OK to everything, and ends its connections as the kernel ends a killed server's: by RST."""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []

    async def start(self) -> int:
        """Listen; the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError):
            while head := (await reader.readline()).strip():
                words = [(await reader.readline(), await reader.readline())[1] for _ in range(int(head[1:]))]
                writer.write(b"$0\r\n\r\n" if words[0] == b"INFO\r\n" else b"+OK\r\n")

    def reset(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._writers.clear()

    async def stop(self) -> None:
        self.reset()
        self._server.close()
        await self._server.wait_closed()


async def use_reset_connections() -> list[bytes]:
    server = ResettingServer()
    connection = RedisConnection(f"redis://127.0.0.1:{await server.start()}", "{easel:ml:sd}:")
    try:
        answers = []
        for _ in range(3):
            answers += [await connection.command("SET", "a", "b"), await connection.blocking_command("ECHO", "a")]
            idle = [*connection._server.pipeline._idle, *connection.client.connection_pool._available_connections]
            writers = [each._writer for each in idle if each._writer is not None]
            assert len(writers) == 2
            server.reset()
            await eventually(lambda: asyncio.sleep(0, all(each.is_closing() for each in writers)))  # noqa: B023
        return answers
    finally:
        await connection.close()
        await server.stop()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_connections_that_the_server_has_reset_while_idle_cost_a_caller_nothing(
    run: Callable[[Coroutine[Any, Any, list[bytes]]], list[bytes]],
) -> None:
    """In the server's own event loop too, whose error of them is another one."""
    assert run(use_reset_connections()) == [b"OK"] * 6


class LateConnection:
    """A fake that is made when nobody waits for it any more, and loses the cancellation that comes meanwhile."""

    def __init__(self, made: asyncio.Event) -> None:
        self._made = made
        self.is_open = False
        self.is_connected = False

    async def send_packed_command(self, _: object) -> None:
        """Never reached."""

    async def connect(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await self._made.wait()
        self.is_open = True

    async def read_response(self) -> bytes:
        return b"PONG"

    async def disconnect(self, **_: object) -> None:
        self.is_open = False


async def test_a_connection_that_is_made_too_late_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline_module, "DOUBT_SECONDS", 0.0)
    pipeline = Pipeline(ConnectionPool(port=1))  # where nobody listens
    refused, made = pipeline._make_connection, asyncio.Event()
    late = LateConnection(made)
    connections = iter([late])
    monkeypatch.setattr(pipeline, "_make_connection", lambda: next(connections, None) or refused())
    with pytest.raises(exceptions.ConnectionError):
        await pipeline.execute("PING")
    (sender,) = pipeline._left
    made.set()
    await asyncio.wait([sender])
    assert not late.is_open
    await pipeline.close()


async def test_a_blocking_call_that_loses_its_cancellation_is_over_before_the_connections_are_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = RedisConnection("redis://127.0.0.1:1", "{easel:ml:sd}:")
    server, began, order = connection._server, asyncio.Event(), []

    async def execute(*_: object) -> None:
        began.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        try:
            await asyncio.Event().wait()
        finally:
            order.append("the call is over")

    async def disconnect(**_: object) -> None:
        order.append("connections are closed")

    monkeypatch.setattr(server, "_execute", execute)
    monkeypatch.setattr(server.client.connection_pool, "disconnect", disconnect)
    monkeypatch.setattr(server, "check_policy", lambda: asyncio.sleep(0))
    call = asyncio.create_task(connection.blocking_command("BLPOP", "nothing", 1))
    await began.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await connection.close()
    assert order[:2] == ["the call is over", "connections are closed"]
