"""Where the servers are that a URL of Redis leads to, as Sentinels say; what those refuse, servers may yet do."""

import asyncio

import pytest
from easel_operator.cluster.redis.servers import find_servers
from easel_operator.cluster.redis.service_users import ServiceUsers
from redis import exceptions

from tests.operator.fake_api import FakeApi
from tests.operator.objects import NOW


async def listen(reply: bytes) -> tuple[asyncio.Server, str]:
    """A stand-in for a Sentinel: one reply to everything; and a URL of it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(reply)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    return server, f"redis+sentinel://{host}:{port}/m"


@pytest.mark.parametrize("reply", [b"-NOPERM no right to sentinel|masters\r\n", b":5\r\n", b"*1\r\n*1\r\n$1\r\na\r\n"])
async def test_a_sentinel_that_refuses_is_no_redis_that_does(reply: bytes) -> None:
    server, url = await listen(reply)
    async with server:
        with pytest.raises(exceptions.ConnectionError, match=r"Sentinels don't say where the master m of"):
            await find_servers(url)


async def test_services_keep_users_of_their_own_while_a_sentinel_refuses() -> None:
    server, url = await listen(b"-NOPERM no right to sentinel|masters\r\n")
    async with server:
        users = ServiceUsers(FakeApi(), namespace="easel", secret="users", is_ours=True, clock=lambda: NOW)
        await users.read_key()
        await users.admit(url, {"easel:{a}:"}, "registry")
        assert users.refusal == ""
        assert users.key
