"""The password of the installation's Redis: made once, kept, changed without anybody being refused.

A real redis-server with its configuration as the chart mounts it, an API server in memory, and pods' own connections.
"""

import base64
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from easel_contract import names
from easel_operator.cluster.redis.password import clean_password, read_password, read_time
from easel_operator.cluster.redis.password_keeper import PasswordKeeper, RedisSource
from easel_operator.objects import Json
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.redis.connection import RedisConnection
from redis import Redis, exceptions

from tests.operator.fake_api import FakeApi
from tests.operator.objects import OWNER
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis

NAMESPACE = "easel-system"
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/easel-redis"
THEIRS = f"/api/v1/namespaces/{NAMESPACE}/secrets/team-redis"
POD = f"/api/v1/namespaces/{NAMESPACE}/pods/easel-redis-0"
SERVICES_SECRET = f"/api/v1/namespaces/{OWNER.namespace}/secrets/{names.redis_secret_name(OWNER.name)}"
START = datetime(2026, 11, 27, tzinfo=UTC)


def build_secret(name: str, **data: str) -> Json:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"metadata": {"name": name}, "data": encoded}


class ConfiguredRedis(RedisServer):
    """With the configuration that the chart mounts: what the Secret had when it (re)started."""

    def __init__(self, directory: Path) -> None:
        self.users = directory / "users.conf"
        super().__init__("--include", str(self.users))

    def command(self, *words: str) -> bytes:
        """Any answer to a PING says that it listens, if only that it wants a password."""
        reply = super().command(*words)
        return b"+PONG" if words == ("PING",) and reply else reply


class Installation:
    """An operator's keeper with a clock to set, Redis, and a pod of a service with its mounted file."""

    def __init__(self, directory: Path) -> None:
        self.api = FakeApi()
        self.redis = ConfiguredRedis(directory)
        self.now = START
        self.url_file = directory / "url"
        self.pod: RedisConnection | None = None
        self.start_operator()

    def start_operator(self, *, password_secret: str = "") -> None:
        """Anew: nothing is remembered but what the cluster has."""
        source = RedisSource(
            namespace=NAMESPACE,
            secret="easel-redis",
            servers=(f"127.0.0.1:{self.redis.port}",),
            password_secret=password_secret,
            stateful_set="easel-redis",
        )
        self.keeper = PasswordKeeper(self.api, source, find_served=self.find_served, clock=lambda: self.now)

    async def find_served(self) -> str | None:
        """What a service's Secret says."""
        secret = self.api.objects.get(SERVICES_SECRET)
        return read_password(base64.b64decode(secret["data"]["url"]).decode()) if secret else None

    def read(self, key: str) -> str:
        """A value of the installation's Secret."""
        return base64.b64decode(self.api.objects[SECRET]["data"][key]).decode()

    def edit(self, path: str, name: str, **data: str) -> None:
        """What kubectl patch does to a Secret, or creates."""
        known = self.api.objects.get(path, {"metadata": {"name": name}, "data": {}})
        self.api.store(path, {**known, "data": {**known["data"], **build_secret(name, **data)["data"]}})

    def mount(self) -> None:
        """What the kubelet of Redis' pod does when it starts, and a minute or two after a change."""
        self.redis.users.write_text(self.read("users.conf"))

    async def look(self) -> str:
        """One look of the operator; its services are told the URL."""
        url = await self.keeper.look()
        assert url is not None
        self.edit(SERVICES_SECRET, "painter-redis", url=url)
        return url

    def renew_pod(self) -> None:
        """What the kubelet of a service's pod does a minute or two after a change."""
        self.url_file.write_bytes(base64.b64decode(self.api.objects[SERVICES_SECRET]["data"]["url"]))

    async def install(self) -> str:
        """Operator, Redis, a service and its pod, in this order."""
        url = await self.look()
        self.mount()
        self.redis.start()
        await self.look()
        self.start_pod()
        await self.ask()
        return url

    def start_pod(self) -> None:
        self.renew_pod()
        self.pod = RedisConnection(self.url_file.read_text(), "easel:{ml/sd}:", url_file=self.url_file)

    async def ask(self) -> None:
        """The pod's server is served. Raises StoreUnavailableError."""
        assert self.pod is not None
        await self.pod.command("SET", self.pod.key("x"), "1")

    async def ask_anew(self) -> None:
        """On a new connection, as after one that was lost: with what the pod has mounted now."""
        assert self.pod is not None
        await self.pod.close()
        self.pod = RedisConnection(self.pod._url, "easel:{ml/sd}:", url_file=self.url_file)
        await self.ask()

    def lets_in(self, password: str) -> bool:
        with Redis(port=self.redis.port, password=password) as client:
            try:
                return bool(client.ping())
            except exceptions.AuthenticationError:
                return False


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    made = Installation(tmp_path)
    yield made
    if made.pod is not None:
        await made.pod.close()
    made.redis.close()


async def test_a_new_installation_gets_a_password_of_its_own_and_redis_lets_in_nobody_without_it(
    installation: Installation,
) -> None:
    await installation.install()
    password = installation.read("password")
    assert len(password) >= 32
    assert installation.lets_in(password)
    assert not installation.lets_in("guessed")
    assert password not in installation.read("users.conf"), "what is mounted into Redis tells it nobody"


async def test_while_nothing_changes_nothing_is_written(installation: Installation) -> None:
    await installation.install()
    before = len([path for _, path in installation.api.writes if path == SECRET])
    for _ in range(3):
        await installation.look()
    assert len([path for _, path in installation.api.writes if path == SECRET]) == before


async def test_a_password_that_is_changed_refuses_nobody_while_everybody_learns_of_it(
    installation: Installation,
) -> None:
    await installation.install()
    old = installation.read("password")
    installation.edit(SECRET, "easel-redis", password="another, with ü and @:/ in it")
    url = await installation.look()
    await installation.ask()  # on the connection that it had
    await installation.ask_anew()  # with the old one, which its kubelet hasn't renewed yet
    assert read_password(url) == "another, with ü and @:/ in it"
    installation.renew_pod()
    await installation.ask_anew()
    installation.now += timedelta(minutes=6)
    await installation.look()
    assert not installation.lets_in(old), "one that has leaked ends"
    await installation.ask()
    await installation.ask_anew()
    assert "previous-passwords" not in installation.api.objects[SECRET]["data"]


async def test_two_changes_in_a_row_refuse_nobody_who_has_only_heard_of_the_first_password(
    installation: Installation,
) -> None:
    await installation.install()
    for password in ("second", "third"):
        installation.edit(SECRET, "easel-redis", password=password)
        await installation.look()
    await installation.ask_anew()
    assert [installation.lets_in(password) for password in ("second", "third")] == [True, True]


async def test_redis_restarting_in_the_middle_of_a_change_refuses_nobody_for_longer_than_a_look(
    installation: Installation,
) -> None:
    """Its mounted file may be the one of before, and the pods' already the new one."""
    await installation.install()
    installation.edit(SECRET, "easel-redis", password="another")
    await installation.look()
    installation.renew_pod()
    installation.redis.restart()
    with pytest.raises(StoreUnavailableError):
        await installation.ask_anew()
    await installation.look()
    await installation.ask_anew()


async def test_redis_restarting_with_another_password_is_no_outage(installation: Installation) -> None:
    """A restored backup, or a render of the chart of before: pods have the password that they had."""
    await installation.install()
    url = f"redis://:of-the-backup@{installation.keeper._source.servers[0]}"
    users = "user default on >of-the-backup ~* &* +@all\n"
    installation.edit(SECRET, "easel-redis", password="of-the-backup", url=url, **{"users.conf": users})
    installation.mount()
    installation.redis.restart()
    with pytest.raises(StoreUnavailableError):
        await installation.ask_anew()
    installation.start_operator()  # it was down as well
    await installation.look()
    await installation.ask_anew()
    installation.renew_pod()
    await installation.ask_anew()


async def test_a_secret_that_is_lost_comes_back_with_the_same_password(installation: Installation) -> None:
    await installation.install()
    password = installation.read("password")
    del installation.api.objects[SECRET]
    await installation.look()
    assert installation.read("password") == password
    installation.api.store(SECRET, {"metadata": {"name": "easel-redis"}})  # applied anew, empty as the chart renders it
    await installation.look()
    assert installation.read("password") == password
    await installation.ask_anew()


async def test_a_secret_that_is_lost_while_the_operator_is_away_comes_back_from_what_services_have(
    installation: Installation,
) -> None:
    await installation.install()
    password = installation.read("password")
    del installation.api.objects[SECRET]
    installation.start_operator()
    await installation.look()
    assert installation.read("password") == password


async def test_what_is_left_of_a_change_ends_although_the_operator_restarted_in_it(installation: Installation) -> None:
    await installation.install()
    old = installation.read("password")
    installation.edit(SECRET, "easel-redis", password="another")
    await installation.look()
    installation.start_operator()
    await installation.look()
    assert installation.lets_in(old)
    installation.now += timedelta(minutes=6)
    await installation.look()
    assert not installation.lets_in(old)


async def test_the_password_of_the_chart_before_is_kept_and_its_running_redis_with_it(
    installation: Installation,
) -> None:
    """As Helm has made it, with `requirepass` in a configuration that was mounted from the Secret."""
    password, url = "kEpTpAsSwOrD", f"redis://:kEpTpAsSwOrD@{installation.keeper._source.servers[0]}/0"
    conf = f"dir /data\nrequirepass {password}\n"
    installation.edit(SECRET, "easel-redis", password=password, url=url, **{"valkey.conf": conf})
    installation.edit(SERVICES_SECRET, "painter-redis", url=url)
    installation.redis.users.write_text(f"requirepass {password}\n")
    installation.redis.start()
    installation.start_pod()
    given = await installation.look()
    assert given == url, "nothing changes for services"
    assert installation.read("password") == password
    assert "previous-passwords" not in installation.api.objects[SECRET]["data"]
    installation.mount()
    installation.redis.restart()  # as the chart of now runs it
    assert installation.lets_in(password)


async def test_a_password_of_users_own_is_followed(installation: Installation) -> None:
    installation.start_operator(password_secret="team-redis")
    installation.edit(THEIRS, "team-redis", password="theirs\n")
    await installation.install()
    assert installation.lets_in("theirs"), "without the line end that an editor left"
    installation.edit(THEIRS, "team-redis", password="rotated")
    await installation.look()
    await installation.ask_anew()
    assert installation.lets_in("rotated")
    del installation.api.objects[THEIRS]
    await installation.look()
    assert installation.lets_in("rotated"), "one that is missing for a while changes nothing"


async def test_without_the_password_that_users_promised_none_is_made(
    installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    installation.start_operator(password_secret="team-redis")
    with caplog.at_level(logging.WARNING):
        assert await installation.keeper.look() is None
    assert SECRET not in installation.api.objects
    assert "Secret easel-system/team-redis has no usable password under password" in caplog.text


async def test_a_redis_that_was_left_without_a_password_gets_its_own_again(installation: Installation) -> None:
    await installation.install()
    with Redis(port=installation.redis.port, password=installation.read("password")) as client:
        client.execute_command("ACL", "SETUSER", "default", "nopass")
    assert installation.lets_in("guessed")
    await installation.look()
    assert not installation.lets_in("guessed")
    await installation.ask_anew()


async def test_a_redis_that_lets_nobody_in_is_restarted_once_that_has_lasted(installation: Installation) -> None:
    await installation.install()
    installation.api.store(POD, {"metadata": {"name": "easel-redis-0"}})
    with Redis(port=installation.redis.port, password=installation.read("password")) as client:
        client.execute_command("ACL", "SETUSER", "default", "resetpass", ">of nobody")
    for _ in range(13):  # 60 s
        assert POD in installation.api.objects
        await installation.look()
        installation.now += timedelta(seconds=5)
    assert POD not in installation.api.objects
    installation.mount()
    installation.redis.restart()
    await installation.look()
    await installation.ask_anew()


async def test_a_redis_that_goes_on_refusing_is_not_restarted_again_and_again(installation: Installation) -> None:
    await installation.install()
    installation.redis.users.write_text("user default on >of-nobody ~* &* +@all\n")
    installation.redis.restart()
    restarts = 0
    for _ in range(200):
        if POD not in installation.api.objects:
            installation.api.store(POD, {"metadata": {"name": "easel-redis-0"}})
        await installation.look()
        restarts += POD not in installation.api.objects
        installation.now += timedelta(seconds=5)
    assert restarts == 2, "in 17 minutes"


async def test_a_redis_that_is_away_is_never_restarted(installation: Installation) -> None:
    await installation.install()
    installation.api.store(POD, {"metadata": {"name": "easel-redis-0"}})
    installation.redis.kill()
    for _ in range(30):
        await installation.look()
        installation.now += timedelta(seconds=30)
    assert POD in installation.api.objects


async def test_another_password_of_users_own_redis_is_taken_over_at_run_time(
    installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    source = RedisSource(namespace=NAMESPACE, secret="my-redis")
    keeper = PasswordKeeper(installation.api, source, find_served=installation.find_served, clock=lambda: START)
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets/my-redis"
    assert await keeper.look() is None
    assert "has no address of a Redis under url" in caplog.text
    for url in ("rediss://u:one@cache.example:6380/0", "rediss://u:two@cache.example:6380/0"):
        installation.edit(path, "my-redis", url=url)
        assert await keeper.look() == url
    assert [path for _, path in installation.api.writes] == [], "it is theirs"


@pytest.mark.parametrize("text", ["", "  ", "a\x00b", "x" * 513, None])
def test_a_password_that_redis_could_not_have_is_none(text: str | None) -> None:
    assert clean_password(text) is None


def test_a_time_that_somebody_wrote_without_a_zone_is_none() -> None:
    assert read_time("2026-11-27T12:00:00+01:00") is not None
    assert [read_time(text) for text in ("2026-11-27T12:00:00", "2026-11-27", "soon", None)] == [None] * 4
