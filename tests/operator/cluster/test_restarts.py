"""Two operators while the API server and etcd are killed and come back, and services change all the time.

Real processes, all of them. What is to be true afterwards: every service has the children of its last spec and says so,
nothing is left of deleted ones, no object was written more often than something happened to it, and then none at all.
The seed decides what is killed when, and what changes meanwhile.
"""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from random import Random

import pytest
from easel_contract import names
from easel_contract.crd import build_crd
from easel_operator.cluster.client import ApiRefusedError, KubernetesClient, KubernetesError
from easel_operator.objects import DEPLOYMENTS, HPAS, SERVICES_OF_EASEL, Json, Resource
from kubernetes.aio.client import Configuration

from tests.operator.cluster.operator_process import OperatorProcess
from tests.operator.objects import HUB_MODEL
from tests.support.api_server import ApiServers
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

RELEASE = "1.36"
NAMESPACE = "studio"
SEEDS = (1, 2)
ROUNDS = 5
NAMES = ("anna", "bert", "cleo")
KILLS = (("etcd",), (f"apiserver-{RELEASE}",), ("etcd", f"apiserver-{RELEASE}"))
CRDS = Resource("CustomResourceDefinition", "apiextensions.k8s.io/v1", "customresourcedefinitions")
NAMESPACES = Resource("Namespace", "v1", "namespaces")
AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete"]},
        {"level": "Metadata", "verbs": ["list"], "resources": [{"group": "easel.dev"}]},
        {"level": "None"},
    ],
}
NOT_OF_SERVICES = ("leases", "events")
SETTLE_SECONDS = 120.0
SETTLED_LOOKS = 3  # lists of all services in which nothing is written


@pytest.fixture(scope="module")
def servers() -> Iterator[ApiServers]:
    with ApiServers() as started:
        yield started


@pytest.fixture(scope="module")
def api_server(servers: ApiServers) -> Configuration:
    policy, log = servers.directory / "audit.json", servers.directory / "audit.log"
    policy.write_text(json.dumps(AUDIT))
    configuration = servers.start(RELEASE, f"--audit-policy-file={policy}", f"--audit-log-path={log}")
    servers.start_controllers(configuration, "garbage-collector-controller")
    return configuration


@pytest.fixture
async def operators(
    servers: ApiServers, client: KubernetesClient, tmp_path: Path
) -> AsyncIterator[list[OperatorProcess]]:
    for resource, body in (
        (CRDS, build_crd()),
        *((NAMESPACES, {"metadata": {"name": n}}) for n in (NAMESPACE, "easel")),
    ):
        manifest = {**body, "apiVersion": resource.api_version, "kind": resource.kind}
        await client.apply(resource, manifest)
    kubeconfig = servers.write_kubeconfig(client._configuration)
    with RedisServer() as redis:
        pods = ("operator-a", "operator-b")
        processes = [OperatorProcess(pod, kubeconfig, redis.url, tmp_path / f"{pod}.log") for pod in pods]
        for process in processes:
            await process.begin()
        yield processes
        for process in processes:
            await process.end()


class Life:
    """What a seed has become of the services, and what has happened to each."""

    def __init__(self, client: KubernetesClient, random: Random) -> None:
        self._client = client
        self._random = random
        self.specs: dict[str, Json] = {}
        self.happened: Counter[str] = Counter()

    async def change(self) -> None:
        """One service is made, changed or deleted, or its child edited or deleted by somebody."""
        name = self._random.choice(NAMES)
        if name not in self.specs:
            await self._submit(name)
        else:
            change = self._random.choice((self._submit, self._submit, self.delete, self._meddle))
            await change(name)
        self.happened[name] += 1

    async def _submit(self, name: str) -> None:
        throw = self._random.randint
        scaled = {"autoscaling": {"minReplicas": 1, "maxReplicas": throw(2, 9), "targetCpu": "500m"}}
        gateway = {"replicas": throw(1, 4)} if throw(0, 1) else scaled
        spec = {"model": HUB_MODEL, "gateway": gateway, "replicas": throw(0, 5)}
        self.specs[name] = spec
        manifest = {
            "apiVersion": SERVICES_OF_EASEL.api_version,
            "kind": SERVICES_OF_EASEL.kind,
            "metadata": {"namespace": NAMESPACE, "name": name},
            "spec": spec,
        }

        async def apply() -> None:
            await self._client.apply(SERVICES_OF_EASEL, manifest, field_manager="team")

        await insist(apply)

    async def delete(self, name: str) -> None:
        del self.specs[name]

        async def delete() -> None:
            live = await self._client.get(SERVICES_OF_EASEL, NAMESPACE, name)
            if live is not None:
                await self._client.delete(SERVICES_OF_EASEL, NAMESPACE, name, uid=live["metadata"]["uid"])

        await insist(delete)

    async def _meddle(self, name: str) -> None:
        async def edit() -> None:
            try:
                await self._client.request(
                    "PATCH",
                    DEPLOYMENTS.path(NAMESPACE, f"{name}-gateway"),
                    query={"fieldManager": "somebody"},
                    body={"spec": {"replicas": 9}},
                    content_type="application/merge-patch+json",
                )
            except ApiRefusedError as error:
                if error.status != HTTPStatus.NOT_FOUND:  # not made yet: nothing to edit
                    raise

        await insist(edit)


async def insist(request: Callable[[], Awaitable[None]]) -> None:
    """Again until the API server has taken it, as people and controllers do."""

    async def try_it() -> bool:
        try:
            await request()
        except KubernetesError:
            return False
        return True

    await eventually(try_it, 120)


async def list_all(client: KubernetesClient, resource: Resource) -> dict[str, Json]:
    found, _ = await client.list_all(resource, NAMESPACE)
    return {each["metadata"]["name"]: each for each in found}


async def settle(client: KubernetesClient, specs: dict[str, Json]) -> None:
    """Wait until all is as the last specs want it, and every status is of the last spec."""
    wanted, seen = describe_wanted(specs), {}

    async def is_as_wanted() -> bool:
        nonlocal seen
        with suppress(KubernetesError):
            seen = describe(*[await list_all(client, resource) for resource in (SERVICES_OF_EASEL, DEPLOYMENTS, HPAS)])
        return seen == wanted

    try:
        await eventually(is_as_wanted, SETTLE_SECONDS)
    except AssertionError as error:
        raise AssertionError(f"seen {seen}, wanted {wanted}") from error


def describe(services: dict[str, Json], deployments: dict[str, Json], hpas: dict[str, Json]) -> Json:
    """What of the children follows from the specs."""
    sizes = {name: body["spec"]["replicas"] for name, body in deployments.items() if name not in hpas}
    return {
        "services up to date": sorted(name for name, body in services.items() if is_up_to_date(body)),
        "Deployments": sorted(deployments),
        "sizes": sizes | {name: f"up to {body['spec']['maxReplicas']}" for name, body in hpas.items()},
    }


def describe_wanted(specs: dict[str, Json]) -> Json:
    """The same of the specs."""
    sizes: dict[str, int | str] = {}
    for name, spec in specs.items():
        bounds = spec["gateway"].get("autoscaling")
        sizes[f"{name}-worker"] = spec["replicas"]
        sizes[f"{name}-gateway"] = f"up to {bounds['maxReplicas']}" if bounds else spec["gateway"]["replicas"]
    return {"services up to date": sorted(specs), "Deployments": sorted(sizes), "sizes": sizes}


def is_up_to_date(service: Json) -> bool:
    """Whether what the operator says is of its last spec. (Of pods it says what they are of: here there are none.)"""
    seen = {each["type"]: each.get("observedGeneration") for each in service.get("status", {}).get("conditions", ())}
    return {seen.get("Ready"), seen.get("Progressing")} == {service["metadata"]["generation"]}


class Audit:
    """What the API server says that the operators asked of it, from some moment on."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._since = log.stat().st_size

    def _read(self) -> list[Json]:
        lines = self._log.read_bytes()[self._since :].splitlines()
        entries = [json.loads(line) for line in lines if line.endswith(b"}")]  # the last may be half written
        return [each for each in entries if each.get("userAgent") == names.FIELD_MANAGER]

    def count_looks(self) -> int:
        """Lists of all services."""
        return sum(each["verb"] == "list" for each in self._read())

    def count_writes(self) -> Counter[str]:
        """By object: those of services and their children that took effect."""
        return Counter(
            each["requestURI"].partition("?")[0]
            for each in self._read()
            if each["verb"] != "list"
            and "dryRun" not in each["requestURI"]
            and each["objectRef"]["resource"] not in NOT_OF_SERVICES
            and each.get("responseStatus", {}).get("code", 500) < HTTPStatus.MULTIPLE_CHOICES
        )


@pytest.mark.parametrize("seed", SEEDS)
async def test_after_restarts_of_the_api_server_and_of_etcd_all_is_as_the_last_specs_want_it(
    seed: int, servers: ApiServers, client: KubernetesClient, operators: list[OperatorProcess]
) -> None:
    logger.info("seed %d", seed)
    random = Random(seed)  # noqa: S311 - guards nothing
    life, audit = Life(client, random), Audit(servers.directory / "audit.log")
    for _ in range(ROUNDS):
        for _ in range(random.randint(1, 3)):
            await life.change()
        killed = random.choice(KILLS)
        for title in killed:
            servers.kill(title)
        changing = asyncio.create_task(life.change())  # which is taken once they are back
        await asyncio.sleep(random.uniform(0, 3))
        for title in killed:
            servers.resume(title)
        await changing

    await settle(client, life.specs)
    writes = audit.count_writes()
    logger.info("%s; exits %s; writes %s", life.happened, [each.exits for each in operators], writes.most_common(12))
    for path, number in writes.items():
        name = next((name for name in NAMES if f"/{name}" in path), "")
        # Each happening is answered once; each restart may lose an answer, which costs one more write.
        bound = life.happened[name] + ROUNDS
        assert number <= (3 * bound if path.endswith("/status") else bound), path

    settled = Audit(servers.directory / "audit.log")
    await eventually(lambda: asyncio.sleep(0, settled.count_looks() >= SETTLED_LOOKS * len(operators)), SETTLE_SECONDS)
    assert settled.count_writes() == {}
    await settle(client, life.specs)
    for process in operators:
        assert set(process.exits) <= {1}, "leadership may be lost, and then an operator begins anew"
        assert " fault " not in process.read_log(), "nothing that nobody foresaw"
    for name in list(life.specs):
        await life.delete(name)
    await settle(client, {})
