"""Where the servers are that a URL of Redis leads to, as Sentinels say; what those refuse, servers may yet do."""

import pytest
from easel_operator.cluster.redis.servers import find_servers
from easel_operator.cluster.redis.service_users import ServiceUsers
from redis import exceptions

from tests.operator.fake_api import FakeApi
from tests.operator.objects import NOW
from tests.support.redis_sentinels import listen
from tests.support.redis_server import find_free_port


@pytest.mark.parametrize("reply", [b"-NOPERM no right to sentinel|masters\r\n", b":5\r\n", b"*1\r\n*1\r\n$1\r\na\r\n"])
async def test_a_sentinel_that_refuses_is_no_redis_that_does(reply: bytes) -> None:
    server, place = await listen(reply)
    url = f"redis+sentinel://{place}/m"
    async with server:
        with pytest.raises(exceptions.ConnectionError, match=r"Sentinels don't say where the master m of"):
            await find_servers(url)


async def test_services_keep_users_of_their_own_while_a_sentinel_refuses() -> None:
    server, place = await listen(b"-NOPERM no right to sentinel|masters\r\n")
    async with server:
        users = ServiceUsers(FakeApi(), namespace="easel", secret="users", is_ours=True, clock=lambda: NOW)
        await users.read_key()
        await users.admit(f"redis+sentinel://{place}/m", {"easel:{a}:"}, "registry")
        assert users.refusal == ""
        assert users.key


async def test_sentinels_that_are_away_are_named_in_one_line_without_the_password() -> None:
    url = f"redis+sentinel://:secret@127.0.0.1:{find_free_port()}/m"
    with pytest.raises(exceptions.ConnectionError, match=r"No Sentinel that answers knows the master m of") as raised:
        await find_servers(url)
    assert len(str(raised.value)) < 200
    assert "secret" not in str(raised.value)
