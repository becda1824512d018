"""The scripts of examples/redis/replicated.yaml with real servers and Sentinels: a pod is an address of loopback."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from easel_server.stores.errors import StoreUnavailableError
from easel_server.stores.jobs.interface import JobBounds
from easel_server.stores.opening import Stores, open_stores
from redis import Redis, exceptions

from tests.support.eventually import eventually
from tests.support.jobs import build_job
from tests.support.redis_server import find_free_port

pytestmark = pytest.mark.redis

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/redis/replicated.yaml"
HOSTS = ("127.0.31.1", "127.0.31.2", "127.0.31.3")
PASSWORD = "of-the-servers"
SENTINEL_PASSWORD = "of-sentinels"
TIMEOUT_SECONDS = 60


def read_example(kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all(EXAMPLE.read_text())
    found: dict[str, Any] = next(each for each in documents if each["kind"] == kind)
    return found


class Pods:
    """Three, whose volumes outlive them."""

    def __init__(self, directory: Path, down_after_seconds: int = 1) -> None:
        self._directory, self._down_after_seconds = directory, down_after_seconds
        self.port, self.sentinel_port = find_free_port(), find_free_port()
        self._processes: dict[str, list[subprocess.Popen[bytes]]] = {}

    @property
    def url(self) -> str:
        places = ",".join(f"{host}:{self.sentinel_port}" for host in HOSTS)
        return f"redis+sentinel://:{PASSWORD}@{places}/easel/0"

    def start(self, *hosts: str) -> None:
        scripts = read_example("ConfigMap")["data"]
        for host in hosts:
            volume = self._directory / host
            volume.mkdir(exist_ok=True)
            environment = os.environ | {
                "SELF": host,
                "BIND": host,
                "HOSTS": " ".join(HOSTS),
                "DIRECTORY": str(volume),
                "PORT": str(self.port),
                "SENTINEL_PORT": str(self.sentinel_port),
                "MAX_MEMORY": "100mb",
                "PASSWORD": PASSWORD,
                "SENTINEL_PASSWORD": SENTINEL_PASSWORD,
                "DOWN_AFTER_MILLISECONDS": f"{self._down_after_seconds}000",
            }
            with (volume / "log").open("ab") as log:
                self._processes[host] = [
                    subprocess.Popen(
                        ["sh", "-c", scripts[script]],
                        env=environment,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
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

    def connect(self, host: str) -> Redis:
        return Redis(host=host, port=self.port, password=PASSWORD, protocol=2, decode_responses=True)

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
        administrator = {"username": "sentinel", "password": SENTINEL_PASSWORD}
        with Redis(host=hosts[0], port=self.sentinel_port, protocol=2, **administrator) as sentinel:  # type: ignore[arg-type]
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
    with ExitStack() as stack:
        started = Pods(directory, down_after_seconds)
        stack.callback(started.close)
        started.start(*HOSTS)
        assert await started.await_master(*HOSTS) == HOSTS[0]
        await started.await_sentinels()
        yield started


@pytest.fixture
async def pods(tmp_path: Path) -> AsyncIterator[Pods]:
    async with running_pods(tmp_path) as started:
        yield started


@asynccontextmanager
async def opened(pods: Pods) -> AsyncIterator[Stores]:
    service = open_stores(pods.url, namespace="studio", service="painter", uid="uid", bounds=JobBounds())
    try:
        yield service
    finally:
        await service.close()


async def submit(stores: Stores, job_id: str) -> None:
    async def is_accepted() -> bool:
        try:
            await stores.jobs.submit(build_job(job_id))
        except StoreUnavailableError:
            return False
        return True

    await eventually(is_accepted, timeout_seconds=TIMEOUT_SECONDS)


async def test_a_lost_master_has_a_successor_and_comes_back_as_its_replica(pods: Pods) -> None:
    async with opened(pods) as service:
        await submit(service, "before")
        with pods.connect(HOSTS[0]) as client:
            assert client.wait(2, 5000) == 2
        pods.kill(HOSTS[0])
        successor = await pods.await_master(*HOSTS[1:])
        await submit(service, "between")
        pods.start(HOSTS[0])
        assert await pods.await_master(*HOSTS) == successor
        await submit(service, "after")
        assert (await service.jobs.depth()).waiting == 3


async def test_after_all_were_lost_at_once_the_one_that_was_the_master_is_it_again(tmp_path: Path) -> None:
    """What the first master missed would be lost if it were. It takes the Sentinels long to think that a server is
    down, as long as no machine takes to start one: else they might choose another meanwhile, which is their right."""
    async with running_pods(tmp_path, down_after_seconds=600) as pods, opened(pods) as service:
        await submit(service, "before")
        pods.kill(HOSTS[0])
        successor = await pods.have_succeeded(*HOSTS[1:])
        await submit(service, "missed by the first master")
        with pods.connect(successor) as client:
            assert client.wait(1, 5000) == 1
        pods.kill(*HOSTS[1:])
        pods.start(*HOSTS)
        assert await pods.await_master(*HOSTS) == successor
        await submit(service, "after")
        assert (await service.jobs.depth()).waiting == 3


def test_whoever_reaches_a_sentinel_may_ask_for_the_master_and_change_nothing(pods: Pods) -> None:
    with Redis(host=HOSTS[1], port=pods.sentinel_port, protocol=2, decode_responses=True) as anyone:
        answer = anyone.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "easel")
        assert answer == [HOSTS[0], str(pods.port)]
        for words in (["SENTINEL", "FAILOVER", "easel"], ["SENTINEL", "RESET", "*"], ["SHUTDOWN"], ["ACL", "LIST"]):
            with pytest.raises(exceptions.NoPermissionError):
                anyone.execute_command(*words)


def test_the_url_of_the_example_names_what_its_pods_are_called() -> None:
    stateful_set, secret = read_example("StatefulSet"), read_example("Secret")["stringData"]
    name, spec = stateful_set["metadata"]["name"], stateful_set["spec"]
    environment = {each["name"]: each.get("value") for each in spec["template"]["spec"]["containers"][0]["env"]}
    hosts = environment["HOSTS"].split()
    assert hosts == [f"{name}-{number}.{spec['serviceName']}.easel-system.svc" for number in range(spec["replicas"])]
    assert environment["SELF"] == f"$(POD_NAME).{spec['serviceName']}.easel-system.svc"
    places = ",".join(f"{host}:{environment['SENTINEL_PORT']}" for host in hosts)
    assert secret["url"] == f"redis+sentinel://:{secret['password']}@{places}/easel/0"
