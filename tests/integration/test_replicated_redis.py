"""What the chart installs with redis.replicas=3, by its own scripts: real servers and Sentinels, a pod is an address of
loopback, and the operator's keeper makes and keeps the passwords."""

import asyncio
import base64
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from easel_operator.cluster.redis.password_keeper import PasswordKeeper, RedisSource
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import Stores, open_stores
from redis import Redis, exceptions

from tests.operator.fake_api import FakeApi
from tests.support.eventually import eventually
from tests.support.jobs import submit_once_accepted
from tests.support.redis_server import find_free_port

pytestmark = pytest.mark.redis

SCRIPTS = Path(__file__).resolve().parents[2] / "helm/easel/files/redis"
HOSTS = ("127.0.31.1", "127.0.31.2", "127.0.31.3")
NAMESPACE = "easel-system"
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/easel-redis"
TIMEOUT_SECONDS = 120


class Pods:
    """Three, whose volumes outlive them, and an operator."""

    def __init__(self, directory: Path, down_after_seconds: int) -> None:
        self._directory, self._down_after_seconds = directory, down_after_seconds
        self.port, self.sentinel_port = find_free_port(), find_free_port()
        self._processes: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.api = FakeApi()
        self.now = datetime(2026, 11, 27, tzinfo=UTC)
        self.start_operator()

    def start_operator(self) -> None:
        """Anew: nothing is remembered but what the cluster has."""
        source = RedisSource(
            namespace=NAMESPACE,
            secret="easel-redis",
            servers=tuple(f"{host}:{self.port}" for host in HOSTS),
            sentinels=tuple(f"{host}:{self.sentinel_port}" for host in HOSTS),
            stateful_set="easel-redis-replicated",
        )
        self._keeper = PasswordKeeper(self.api, source, find_served=self._find_served, clock=lambda: self.now)
        self._served: str | None = None

    async def _find_served(self) -> str | None:
        return self._served

    async def look(self) -> str:
        """One look of the operator: the URL that services get."""
        url = await self._keeper.look()
        assert url is not None
        self._served = self.read("password")
        return url

    def read(self, key: str) -> str:
        """A value of the installation's Secret."""
        return base64.b64decode(self.api.objects[SECRET]["data"][key]).decode()

    def start(self, *hosts: str) -> None:
        """With what the Secret has now, as a kubelet mounts it."""
        for host in hosts:
            volume, mounted = self._directory / host, self._directory / f"{host}-users"
            for folder in (volume, mounted):
                folder.mkdir(exist_ok=True)
            for key in ("users.conf", "replication-password"):
                (mounted / key).write_text(self.read(key))
            environment = os.environ | {
                "SELF": host,
                "BIND": host,
                "HOSTS": " ".join(HOSTS),
                "DIRECTORY": str(volume),
                "USERS_DIRECTORY": str(mounted),
                "PORT": str(self.port),
                "SENTINEL_PORT": str(self.sentinel_port),
                "MAX_MEMORY": "100mb",
                "APPEND_ONLY": "yes",
                "DOWN_AFTER_MILLISECONDS": f"{self._down_after_seconds}000",
            }
            with (volume / "log").open("ab") as log:
                self._processes[host] = [
                    subprocess.Popen(
                        ["sh", str(SCRIPTS / script)], env=environment, stdout=log, stderr=log, start_new_session=True
                    )
                    for script in ("server.sh", "sentinel.sh")
                ]

    def kill(self, *hosts: str) -> None:
        """Without warning, as when their nodes die."""
        for process in [each for host in hosts for each in self._processes.pop(host, [])]:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        self.kill(*tuple(self._processes))

    def connect(self, host: str, password: str | None = None) -> Redis:
        return Redis(
            host=host, port=self.port, password=password or self.read("password"), protocol=2, decode_responses=True
        )

    def lets_in(self, host: str, password: str) -> bool:
        with self.connect(host, password) as client:
            try:
                return bool(client.ping())
            except exceptions.AuthenticationError:
                return False

    def find_roles(self) -> dict[str, str]:
        """Of the servers that answer: master, or whose replica each is once it is up to date."""
        roles = {}
        for host in self._processes:
            try:
                with self.connect(host) as client:
                    info: dict[str, Any] = client.info("replication")
            except exceptions.RedisError:
                continue
            is_linked = info.get("master_link_status") == "up"
            roles[host] = "master" if info["role"] == "master" else info["master_host"] if is_linked else "?"
        return roles

    async def await_master(self, *hosts: str) -> str:
        """Once these servers agree on one of them."""
        found: list[str] = []

        async def do_agree() -> bool:
            roles = await asyncio.to_thread(self.find_roles)
            found[:] = [host for host, role in roles.items() if role == "master"]
            return len(found) == 1 and roles == {host: "master" if host == found[0] else found[0] for host in hosts}

        await eventually(do_agree, timeout_seconds=TIMEOUT_SECONDS)
        return found[0]

    async def have_succeeded(self, *hosts: str) -> str:
        """Have one of these servers take the master's place at once, and await that the Sentinels beside know it."""
        login: dict[str, Any] = {"username": "sentinel", "password": self.read("replication-password")}
        with Redis(host=hosts[0], port=self.sentinel_port, protocol=2, **login) as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", "easel")
        successor = await self.await_master(*hosts)

        async def do_know() -> bool:
            return {await asyncio.to_thread(self._ask_for_master, host) for host in hosts} == {successor}

        await eventually(do_know, timeout_seconds=TIMEOUT_SECONDS)
        return successor

    def _ask_for_master(self, host: str) -> str:
        with Redis(host=host, port=self.sentinel_port, protocol=2, decode_responses=True) as sentinel:
            answer: list[str] = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "easel")
        return answer[0]

    async def await_sentinels(self) -> None:
        """Until each knows the other two and both replicas: before that nobody can take a lost master's place."""

        async def do_know() -> bool:
            return all([await asyncio.to_thread(self._is_complete, host) for host in HOSTS])

        await eventually(do_know, timeout_seconds=TIMEOUT_SECONDS)

    def _is_complete(self, host: str) -> bool:
        with Redis(host=host, port=self.sentinel_port, protocol=2, decode_responses=True) as sentinel:
            try:
                state: dict[str, Any] = sentinel.sentinel_masters()["easel"]
            except exceptions.ConnectionError:  # two are enough for the servers to start
                return False
        return (state["num-slaves"], state["num-other-sentinels"]) == (2, 2)


@asynccontextmanager
async def running_pods(directory: Path, down_after_seconds: int = 1) -> AsyncIterator[Pods]:
    started = Pods(directory, down_after_seconds)
    try:
        await started.look()  # makes the Secret, for which the pods wait
        started.start(*HOSTS)
        assert await started.await_master(*HOSTS) == HOSTS[0]
        await started.await_sentinels()
        yield started
    finally:
        started.close()


@pytest.fixture
async def pods(tmp_path: Path) -> AsyncIterator[Pods]:
    async with running_pods(tmp_path) as started:
        yield started


@asynccontextmanager
async def opened(pods: Pods) -> AsyncIterator[Stores]:
    stores = open_stores(await pods.look(), namespace="studio", service="painter", uid="uid", bounds=JobBounds())
    try:
        yield stores
    finally:
        await stores.close()


async def test_a_lost_master_has_a_successor_and_comes_back_as_its_replica(pods: Pods) -> None:
    async with opened(pods) as service:
        await submit_once_accepted(service, "before", TIMEOUT_SECONDS)
        with pods.connect(HOSTS[0]) as client:
            assert client.wait(2, 5000) == 2
        pods.kill(HOSTS[0])
        successor = await pods.await_master(*HOSTS[1:])
        await submit_once_accepted(service, "between", TIMEOUT_SECONDS)
        pods.start(HOSTS[0])
        assert await pods.await_master(*HOSTS) == successor
        await submit_once_accepted(service, "after", TIMEOUT_SECONDS)
        assert (await service.jobs.depth()).waiting == 3


async def test_after_all_were_lost_at_once_the_one_that_was_the_master_is_it_again(tmp_path: Path) -> None:
    """What the first master missed would be lost if it were. It takes the Sentinels long to think that a server is
    down, as long as no machine takes to start one: else they might choose another meanwhile, which is their right."""
    async with running_pods(tmp_path, down_after_seconds=600) as pods, opened(pods) as service:
        await submit_once_accepted(service, "before", TIMEOUT_SECONDS)
        pods.kill(HOSTS[0])
        successor = await pods.have_succeeded(*HOSTS[1:])
        await submit_once_accepted(service, "missed by the first master", TIMEOUT_SECONDS)
        with pods.connect(successor) as client:
            assert client.wait(1, 5000) == 1
        pods.kill(*HOSTS[1:])
        pods.start(*HOSTS)
        assert await pods.await_master(*HOSTS) == successor
        await submit_once_accepted(service, "after", TIMEOUT_SECONDS)
        assert (await service.jobs.depth()).waiting == 3


def test_whoever_reaches_a_sentinel_may_ask_for_the_master_and_change_nothing(pods: Pods) -> None:
    with Redis(host=HOSTS[1], port=pods.sentinel_port, protocol=2, decode_responses=True) as anyone:
        answer = anyone.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "easel")
        assert answer == [HOSTS[0], str(pods.port)]
        for words in (["SENTINEL", "FAILOVER", "easel"], ["SENTINEL", "RESET", "*"], ["SHUTDOWN"], ["ACL", "LIST"]):
            with pytest.raises(exceptions.NoPermissionError):
                anyone.execute_command(*words)


async def test_a_password_that_is_changed_is_every_servers_and_refuses_nobody_meanwhile(pods: Pods) -> None:
    old = pods.read("password")
    async with opened(pods) as service:
        data = pods.api.objects[SECRET]["data"]
        data["password"] = base64.b64encode(b"another").decode()
        url = await pods.look()
        assert [pods.lets_in(host, word) for host in HOSTS for word in ("another", old)] == [True] * 6
        await submit_once_accepted(service, "with the one before", TIMEOUT_SECONDS)
        assert "another@" in url
        pods.now += timedelta(minutes=6)
        await pods.look()
        assert [pods.lets_in(host, old) for host in HOSTS] == [False] * 3
        await pods.await_master(*HOSTS)  # replication goes on: it has a password of its own


async def test_a_secret_that_is_lost_comes_back_with_the_password_that_servers_have_among_themselves(
    pods: Pods,
) -> None:
    before = {key: pods.read(key) for key in ("password", "replication-password")}
    served = pods.read("password")
    del pods.api.objects[SECRET]
    pods.start_operator()
    pods._served = served
    await pods.look()
    assert {key: pods.read(key) for key in before} == before
    pods.kill(HOSTS[2])
    pods.start(HOSTS[2])
    assert await pods.await_master(*HOSTS) == HOSTS[0]
