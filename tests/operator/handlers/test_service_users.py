"""Each service's own user in Redis: who has one service's password can do nothing to another.

A real redis-server with its configuration as the chart mounts it, an API server in memory, a reconciler, and pods' own
connections.
"""

import base64
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from easel_contract import names
from easel_contract.conditions import ConditionType
from easel_operator.cluster.redis import service_users
from easel_operator.cluster.redis.password_keeper import RedisSource
from easel_operator.cluster.redis.service_keys import CLUSTER_NAMESPACE, ServiceKeys
from easel_operator.handlers.redis_upkeep import RedisUpkeep
from easel_operator.manifests.redis_user import name_user
from easel_operator.objects import Json, find_condition
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import Stores, open_stores
from redis import Redis, exceptions

from tests.operator.cluster.test_password import ConfiguredRedis
from tests.operator.fake_api import FakeApi
from tests.operator.handlers.test_reconciler import KEY, PATH, Bench
from tests.operator.objects import NOW, OWNER, build_service
from tests.support.jobs import build_job

pytestmark = pytest.mark.redis

SECRETS = "/api/v1/namespaces/easel-system/secrets"
SERVICES = f"/api/v1/namespaces/{OWNER.namespace}/secrets/{names.redis_secret_name(OWNER.name)}"
OTHER_UID = "b-uid"
PREFIX = names.redis_prefix(OWNER.namespace, OWNER.name, OWNER.uid)
OTHERS = names.redis_prefix("other", "sd", OTHER_UID)

# What a service's user may call with any words: about itself, its connection and the server's clock, and scripts, whose
# own calls are checked. Each was looked at; a command that is new in another release of Redis fails the test.
HARMLESS = {
    *(
        "asking",
        "auth",
        "echo",
        "hello",
        "ping",
        "quit",
        "readonly",
        "readwrite",
        "reset",
        "select",
        "time",
        "wait",
        "waitaof",
    ),
    *("command", "eval", "evalsha", "unsubscribe"),
}

LEADING_WORDS = ((), ("1",), ("0", "1"), ("x", "1"), ("x", "0", "1"), ("GROUP", "g", "c", "STREAMS"))


def build_other() -> Json:
    service = build_service()
    metadata = {**service["metadata"], "namespace": "other", "name": "sd", "uid": OTHER_UID}
    return {**service, "metadata": metadata}


class Installation:
    """An operator with a clock to set, the chart's Redis or one of users' own, and service painter of studio."""

    def __init__(self, directory: Path) -> None:
        self.redis = ConfiguredRedis(directory)
        self.bench = Bench(FakeApi())
        self.now = NOW
        self.keys = ServiceKeys()
        self.opened: list[Stores] = []
        self.url_file = directory / "url"
        self.bench.submit(build_service())
        self.start_operator()

    def start_operator(self, *, is_ours: bool = True) -> None:
        """Anew: nothing is remembered but what the cluster has."""
        address = f"127.0.0.1:{self.redis.port}" if is_ours else ""
        self.upkeep = RedisUpkeep(
            client=self.bench.api,
            source=RedisSource("easel-system", "easel-redis", servers=(address,) if address else ()),
            services=self.bench.services,
            keys=self.keys,
            reconciler=self.bench.reconciler,
            queue=self.bench.queue,
            grant=self.bench.access.grant,
            clock=lambda: self.now,
        )

    def add_other(self) -> None:
        self.bench.services.put(build_other())

    async def look(self) -> None:
        """One look of the operator, and what services are told after it."""
        await self.upkeep._look()
        self.bench.reconciler._secrets_checked_at.clear()  # the clock stands still
        await self.bench.settle()

    def mount(self) -> None:
        """What the kubelet of Redis' pod does."""
        self.redis.users.write_text(self.read("easel-redis", "users.conf"))

    async def install(self) -> None:
        await self.look()
        self.mount()
        self.redis.start()
        await self.look()
        self.mount()

    def read(self, secret: str, key: str) -> str:
        return base64.b64decode(self.bench.api.objects[f"{SECRETS}/{secret}"]["data"][key]).decode()

    def read_url(self) -> str:
        """What the service was given."""
        return base64.b64decode(self.bench.api.objects[SERVICES]["data"]["url"]).decode()

    def remove(self, secret: str, key: str) -> None:
        """What kubectl patch does to a key of a Secret."""
        path = f"{SECRETS}/{secret}"
        known = self.bench.api.objects[path]
        self.bench.api.store(path, {**known, "data": {k: v for k, v in known["data"].items() if k != key}})

    def open_pod(self) -> Stores:
        """The stores of a new pod of the service, with the Secret that is mounted now."""
        self.renew_pods()
        uid = OWNER.uid
        stores = open_stores(
            self.read_url(),
            redis_url_file=self.url_file,
            namespace=OWNER.namespace,
            service=OWNER.name,
            uid=uid,
            bounds=JobBounds(),
        )
        self.opened.append(stores)
        return stores

    def renew_pods(self) -> None:
        """What the kubelet of the service's pods does a minute or two after a change."""
        self.url_file.write_text(self.read_url())

    def lets_in(self, url: str) -> bool:
        with Redis.from_url(url) as client:
            try:
                return bool(client.ping())
            except exceptions.AuthenticationError:
                return False

    def as_admin(self) -> Redis:
        return Redis(port=self.redis.port, password=self.read("easel-redis", "password"), decode_responses=True)

    def list_users(self) -> set[str]:
        with self.as_admin() as admin:
            return set(admin.acl_users())


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    made = Installation(tmp_path)
    yield made
    for stores in made.opened:
        await stores.close()
    await made.keys.close()
    made.redis.close()


async def test_pods_log_in_as_their_service_and_never_hold_the_operators_password(installation: Installation) -> None:
    await installation.install()
    password = installation.read("easel-redis", "password")
    assert password not in installation.read_url()
    with Redis.from_url(installation.read_url()) as pod, pytest.raises(exceptions.NoPermissionError):
        pod.get("anybody's")
    stores = installation.open_pod()
    await stores.ping()
    await stores.jobs.submit(build_job("a"))
    (claimed,) = await stores.jobs.claim("w", lease_seconds=60, wait_seconds=0)
    assert claimed.job.id == "a"
    assert name_user(PREFIX) in installation.list_users()


async def test_no_command_of_redis_lets_a_service_read_list_or_disturb_another(installation: Installation) -> None:
    """Every one that the server knows, with another's keys and channels in every place of its words."""
    installation.add_other()
    await installation.install()
    with installation.as_admin() as admin, Redis.from_url(installation.read_url(), decode_responses=True) as pod:
        admin.set(OTHERS + "s", "v")
        admin.hset(OTHERS + "h", "f", "v")
        admin.zadd(OTHERS + "z", {"m": 1})
        before = read_all(admin)
        listening = admin.pubsub()
        listening.subscribe(f"{OTHERS}changes")
        assert listening.get_message(timeout=5) is not None
        commands = admin.execute_command("COMMAND LIST")
        assert len(commands) > 300
        others = (*(key for key in before if key.startswith(OTHERS)), f"{OTHERS}changes", "anything")
        verdicts = {command: judge(admin, command, others) for command in commands}
        groups = {command.partition("|")[0] for command in commands if "|" in command}
        assert sorted({command for command, verdict in verdicts.items() if not verdict} - groups) == [], "never asked"
        allowed = {command.partition("|")[0] for command, verdict in verdicts.items() if "OK" in verdict}
        assert sorted(allowed - HARMLESS) == []
        assert len(allowed) > 5
        for command in sorted(set(commands) - {"quit", "reset"}):  # which end the connection, and nothing else
            for count in range(4):
                with contextlib.suppress(exceptions.RedisError, ValueError, TypeError):  # the client's own, of replies
                    pod.execute_command(command.replace("|", " "), *([OTHERS + "s"] * count))
        assert read_all(admin) == before
        assert listening.get_message(timeout=0.1) is None, "nor do they hear of it"
        listening.close()


def read_all(admin: Redis) -> dict[str, object]:
    keys = [str(key) for key in admin.keys("*")]
    values = (admin.get(OTHERS + "s"), admin.hgetall(OTHERS + "h"), admin.zrange(OTHERS + "z", 0, -1))
    return {**dict.fromkeys(sorted(keys)), "values": values}


def judge(admin: Redis, command: str, keys: tuple[str, ...]) -> set[str]:
    """What the service's user would hear, with one of these keys once or more, after the words that some want."""
    verdicts = set()
    for key, count, numbers in itertools.product(keys, (0, 1, 2, 3, 4, 5, 9), LEADING_WORDS):
        words = [*command.split("|"), *numbers, *([key] * count)]
        try:
            if count or numbers:
                admin.execute_command("COMMAND GETKEYS", *words)
        except exceptions.ResponseError as error:
            if "no key arguments" not in str(error):
                continue  # words that Redis would refuse from anybody
        with contextlib.suppress(exceptions.ResponseError):  # another number of words
            verdicts.add(str(admin.execute_command("ACL DRYRUN", name_user(PREFIX), *words)))
    return verdicts


@pytest.mark.parametrize(
    "words",
    [
        ("EVAL", "return redis.call('GET', KEYS[1])", "1", OTHERS + "s"),
        ("EVAL", f"return redis.call('GET', '{OTHERS}s')", "0"),
        ("EVAL", "return redis.call('KEYS', '*')", "0"),
        ("EVAL", "return redis.call('SCAN', '0')", "0"),
        ("EVAL", "return redis.call('RANDOMKEY')", "0"),
        ("EVAL", f"return redis.call('PUBLISH', '{OTHERS}changes', 'x')", "0"),
        ("EVAL", "return redis.call('CONFIG', 'GET', '*')", "0"),
        ("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", OTHERS),
        ("CLIENT", "UNBLOCK", "3", "ERROR"),
        ("CLIENT", "LIST"),
        ("CLIENT", "KILL", "TYPE", "normal"),
        ("SUBSCRIBE", f"{OTHERS}changes"),
        ("PSUBSCRIBE", "*"),
        ("PUBSUB", "CHANNELS"),
        ("SCRIPT", "FLUSH"),
        ("SCRIPT", "KILL"),
        ("FUNCTION", "FLUSH"),
        ("FLUSHALL",),
        ("SWAPDB", "0", "1"),
        ("INFO",),
        ("INFO", "keyspace"),
        ("DBSIZE",),
        ("ACL", "LIST"),
        ("ACL", "SETUSER", "me", "on", "nopass", "+@all", "~*"),
        ("SORT", OTHERS + "s"),
        ("LMPOP", "1", OTHERS + "s", "LEFT"),
        ("BLPOP", OTHERS + "s", "1"),
        ("ZUNIONSTORE", PREFIX + "mine", "1", OTHERS + "z"),
        ("LMOVE", OTHERS + "s", PREFIX + "mine", "LEFT", "RIGHT"),
    ],
    ids=lambda words: " ".join(words)[:60],
)
async def test_what_an_intruder_would_try_is_refused(installation: Installation, words: tuple[str, ...]) -> None:
    installation.add_other()
    await installation.install()
    refused = pytest.raises(exceptions.ResponseError, match=r"permission|user executing|not allowed")
    with Redis.from_url(installation.read_url()) as pod, refused:
        pod.execute_command(*words)


async def test_one_services_password_says_nothing_of_anothers(installation: Installation) -> None:
    installation.add_other()
    await installation.install()
    url = installation.read_url()
    assert installation.lets_in(url)
    stolen = url.replace(f"%7B{OWNER.namespace}%2F{OWNER.name}%2F{OWNER.uid}%7D", f"%7Bother%2Fsd%2F{OTHER_UID}%7D")
    assert stolen != url
    assert not installation.lets_in(stolen)


async def test_redis_restarting_while_the_operator_is_away_lets_services_in(installation: Installation) -> None:
    await installation.install()
    stores = installation.open_pod()
    await stores.jobs.submit(build_job("a"))
    installation.redis.restart()
    await installation.open_pod().ping()
    assert (await stores.jobs.depth()).waiting == 1


async def test_a_redis_that_has_forgotten_its_users_has_them_again_after_a_look(installation: Installation) -> None:
    await installation.install()
    lines = installation.redis.users.read_text().splitlines(keepends=True)
    installation.redis.users.write_text("".join(line for line in lines if line.startswith("user default")))
    installation.redis.restart()
    assert not installation.lets_in(installation.read_url())
    await installation.look()
    assert installation.lets_in(installation.read_url())


async def test_a_user_whose_rights_somebody_widened_is_put_right_when_the_operator_starts(
    installation: Installation,
) -> None:
    await installation.install()
    with installation.as_admin() as admin:
        admin.execute_command("ACL SETUSER", name_user(PREFIX), "~*", "+@all")
    installation.start_operator()
    await installation.look()
    with Redis.from_url(installation.read_url()) as pod, pytest.raises(exceptions.NoPermissionError):
        pod.get(OTHERS + "s")


async def test_other_passwords_for_all_services_end_no_connection_and_roll_no_pod(installation: Installation) -> None:
    await installation.install()
    stores, old = installation.open_pod(), installation.read_url()
    await stores.jobs.submit(build_job("a"))
    templates = read_templates(installation)
    with installation.as_admin() as admin:
        connections = {each["id"] for each in admin.client_list() if each["user"] == name_user(PREFIX)}
    installation.remove("easel-redis-service-users", "key")
    await installation.look()
    assert installation.read_url() != old
    assert installation.lets_in(old), "a pod whose kubelet hasn't renewed its file yet"
    assert installation.lets_in(installation.read_url())
    await stores.jobs.depth()
    with installation.as_admin() as admin:
        assert connections <= {each["id"] for each in admin.client_list()}
    installation.renew_pods()
    installation.now += timedelta(minutes=6)
    await installation.look()
    assert not installation.lets_in(old), "one that has leaked ends"
    await stores.jobs.depth()
    assert read_templates(installation) == templates


def read_templates(installation: Installation) -> list[Json]:
    path = f"/apis/apps/v1/namespaces/{OWNER.namespace}/deployments/{OWNER.name}"
    return [installation.bench.api.objects[f"{path}-{role}"]["spec"]["template"] for role in ("gateway", "worker")]


async def test_while_nothing_changes_nothing_is_written_though_the_operator_restarts(
    installation: Installation,
) -> None:
    await installation.install()
    before, url = len(installation.bench.api.writes), installation.read_url()
    for _ in range(2):
        installation.start_operator()
        await installation.look()
        await installation.look()
    assert len(installation.bench.api.writes) == before
    assert installation.read_url() == url


async def test_a_key_that_is_lost_comes_back_and_no_password_changes(installation: Installation) -> None:
    await installation.install()
    url = installation.read_url()
    del installation.bench.api.objects[f"{SECRETS}/easel-redis-service-users"]
    await installation.look()
    assert installation.read_url() == url
    assert installation.lets_in(url)


async def test_a_user_goes_with_its_service_and_its_connections_with_it(installation: Installation) -> None:
    await installation.install()
    url = installation.read_url()
    with Redis.from_url(url) as pod:
        pod.ping()
        installation.add_other()
        installation.bench.services.forget(KEY)
        await installation.upkeep._look()
        with pytest.raises((exceptions.ConnectionError, exceptions.AuthenticationError)):
            pod.ping()
    assert installation.list_users() == {"default", name_user(OTHERS)}
    assert name_user(PREFIX) not in installation.read("easel-redis", "users.conf")


async def test_a_user_goes_although_its_service_was_deleted_while_the_operator_was_away(
    installation: Installation,
) -> None:
    installation.add_other()
    await installation.install()
    installation.bench.services.forget(KEY)
    installation.start_operator()
    await installation.upkeep._look()
    assert installation.list_users() == {"default", name_user(OTHERS)}


async def test_the_pods_of_a_deleted_service_are_let_in_until_nothing_is_left_of_it(installation: Installation) -> None:
    """Else clients that wait would never hear how their jobs ended."""
    store_charts_policy(installation)
    await installation.install()
    before = list_sources(installation)
    assert before
    await installation.keys.register(CLUSTER_NAMESPACE, {PREFIX: "studio/painter"})
    installation.bench.services.forget(KEY)
    for _ in range(2):
        installation.start_operator()
        await installation.upkeep._look()
        assert name_user(PREFIX) in installation.list_users()
        assert list_sources(installation) == before, "by the NetworkPolicy too"
    await installation.keys.forget(CLUSTER_NAMESPACE, PREFIX)
    assert installation.list_users() == {"default"}
    await installation.upkeep._look()
    assert list_sources(installation) == []


POLICIES = "/apis/networking.k8s.io/v1/namespaces/easel-system/networkpolicies"


def store_charts_policy(installation: Installation) -> None:
    charts = {"namespace": "easel-system", "name": "easel-redis", "uid": "policy-uid"}
    spec = {"podSelector": {}, "ingress": [{"ports": [{"port": "redis"}]}]}
    installation.bench.api.store(f"{POLICIES}/easel-redis", {"metadata": charts, "spec": spec})


def list_sources(installation: Installation) -> list[Json]:
    """Whom the operator's policy lets in."""
    rules = installation.bench.api.objects[f"{POLICIES}/easel-redis-services"]["spec"]["ingress"]
    return [source for rule in rules for source in rule["from"]]


async def test_a_service_that_is_new_is_let_in_before_the_next_look(installation: Installation) -> None:
    store_charts_policy(installation)
    await installation.install()
    installation.upkeep._look_seconds = 0.01
    installation.add_other()
    await installation.upkeep._await_next_look()
    assert name_user(OTHERS) in installation.list_users()
    assert len(list_sources(installation)) == 2, "by the NetworkPolicy too"


async def test_services_that_have_no_room_in_the_secret_are_let_in_too_and_the_log_says_so_once(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service_users, "MAX_LINES_BYTES", 600)
    installation.add_other()
    with caplog.at_level(logging.WARNING):
        await installation.install()
        await installation.look()
    assert installation.read("easel-redis", "users.conf").count("user easel:") == 1
    assert installation.lets_in(installation.read_url())
    assert caplog.text.count("1 of 2 services have no room") == 1
    installation.redis.restart()
    await installation.look()
    assert installation.list_users() == {"default", name_user(PREFIX), name_user(OTHERS)}


async def test_services_of_the_version_before_go_on_with_the_shared_password_meanwhile(
    installation: Installation,
) -> None:
    """Pods that haven't read their renewed file, and those whose server reads none."""
    await installation.install()
    shared = f"redis://:{installation.read('easel-redis', 'password')}@127.0.0.1:{installation.redis.port}/0"
    assert installation.lets_in(shared)


def describe(installation: Installation) -> Json | None:
    return find_condition(installation.bench.api.objects[PATH], ConditionType.REDIS_USER)


async def start_users_own(installation: Installation, user: str, *rules: str) -> str:
    """A Redis of users' own, whose Secret has a URL with this user."""
    installation.redis.users.write_text(f"user default on nopass ~* &* +@all\nuser {user} on >word {' '.join(rules)}\n")
    installation.redis.start()
    url = f"redis://{user}:word@127.0.0.1:{installation.redis.port}/0"
    encoded = base64.b64encode(url.encode()).decode()
    secret = {"metadata": {"name": "easel-redis"}, "data": {"url": encoded}}
    installation.bench.api.store(f"{SECRETS}/easel-redis", secret)
    installation.start_operator(is_ours=False)
    return url


async def test_in_a_redis_of_users_own_services_have_their_users_and_other_users_stay(
    installation: Installation,
) -> None:
    await start_users_own(installation, "easel", "~*", "&*", "+@all")
    installation.redis.command("ACL", "SETUSER", "easel:{somebody/elses/u}", "on")
    await installation.look()
    assert installation.lets_in(installation.read_url())
    with Redis.from_url(installation.read_url()) as pod, pytest.raises(exceptions.NoPermissionError):
        pod.get(OTHERS + "s")
    assert describe(installation) is None
    installation.bench.services.forget(KEY)
    await installation.upkeep._look()
    users = installation.redis.command("ACL", "USERS")
    assert name_user(PREFIX).encode() not in users
    assert b"easel:{somebody/elses/u}" in users, "another cluster's, that shares this Redis"


async def test_a_redis_of_users_own_that_takes_no_users_serves_with_the_shared_one_and_says_so(
    installation: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    rules = ("~easel:*", "&easel:*", *names.REDIS_ACL_COMMANDS, *names.REDIS_ACL_OPERATOR_COMMANDS)
    url = await start_users_own(installation, "easel", *rules)
    with caplog.at_level(logging.WARNING):
        await installation.look()
        await installation.look()
    assert installation.read_url() == url
    condition = describe(installation)
    assert condition is not None
    assert (condition["status"], condition["reason"]) == ("False", "SharedUser")
    assert "+acl" in condition["message"]
    assert "word" not in condition["message"].replace("password", "")
    assert caplog.text.count("share one user") == 1
    templates = read_templates(installation)
    installation.redis.command("ACL", "SETUSER", "easel", "+acl", "+info", "allkeys", "allchannels", "+@all")
    await installation.look()
    await installation.look()
    assert installation.read_url() != url, "once it may, each service gets its own"
    assert installation.lets_in(installation.read_url())
    assert describe(installation) is None
    assert read_templates(installation) == templates


async def test_a_restart_of_the_operator_while_users_own_redis_is_away_takes_no_user_back(
    installation: Installation,
) -> None:
    await start_users_own(installation, "easel", "~*", "&*", "+@all")
    await installation.look()
    await installation.look()
    url = installation.read_url()
    installation.redis.kill()
    installation.start_operator(is_ours=False)
    await installation.look()
    assert installation.read_url() == url
