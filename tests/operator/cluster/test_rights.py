"""What the chart lets the operator do, against what a life of services has it do, by a real API server's audit log.

The operator runs as a process, with its ServiceAccount's token. Nothing that it asks for may be refused, and what it
never asked for isn't granted, but for what is listed here with its reason.
"""

import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from easel_contract import names
from easel_operator.cluster.capabilities import METRICS_API_SERVICE
from easel_operator.cluster.client import KubernetesClient
from easel_operator.objects import (
    API_SERVICES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    EVENTS,
    HPAS,
    HTTP_ROUTES,
    JOBS,
    LEASES,
    NAMESPACES,
    POD_MONITORS,
    PODS,
    PROMETHEUS_RULES,
    ROLE_BINDINGS,
    SECRETS,
    SERVICES_OF_EASEL,
    Json,
    Resource,
    find_condition,
)
from kubernetes.aio.client import Configuration

from tests.operator.cluster.test_exposure import build_open_crd, install, read_route_crd
from tests.operator.metrics_api.support import build_authority
from tests.operator.objects import HUB_MODEL
from tests.support.api_server import ApiServers
from tests.support.eventually import eventually
from tests.support.installed_operator import Installation
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.cluster
logger = logging.getLogger(__name__)

OPERATOR_NAMESPACE = "easel-system"
SECRETS_BINDING = "easel-operator-secrets"
CONTROLLERS = (
    *("deployment-controller", "replicaset-controller", "job-controller", "garbage-collector-controller"),
    *("namespace-controller", "serviceaccount-controller", "ttl-after-finished-controller"),
)
WAIT_SECONDS = 90.0

# What this life can't have the operator do, and why it may all the same: (kind of rule, resource, verb).
UNUSED_AND_GRANTED = {
    ("pods", "delete"): "Redis' own pod, restarted where it has refused every known password for a minute",
    ("pods", "get"): "the same",
    ("stablediffusionservices/finalizers", "update"): "admission asks for it where an owner is named that blocks",
    ("clusterroles", "bind"): "the API server asks for it where a binding is made",
    ("secrets", "update"): "a certificate that is about to expire is replaced",
    ("deployments/scale", "patch"): "written where no autoscaler can, once pods report how much there is to do",
    ("namespaces", "get"): "kube-system, which this test doesn't count",
    ("serviceaccounts", "get"): "one that an overlay names, whether it exists",
    ("deployments", "patch"): "the own one's, by the Job before an uninstallation",
    ("jobs", "get"): "that Job itself",
    ("pods", "list"): "the operators that it waits for",
}


def write_front_proxy(directory: Path) -> tuple[str, ...]:
    """As every cluster has it whose API server passes requests on to others."""
    (directory / "front-proxy.pem").write_text(build_authority("front-proxy").pem)
    return (
        f"--requestheader-client-ca-file={directory / 'front-proxy.pem'}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
    )


def write_audit_policy(directory: Path) -> tuple[str, ...]:
    policy = {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}],
    }
    (directory / "audit.yaml").write_text(json.dumps(policy))
    return (
        f"--audit-policy-file={directory / 'audit.yaml'}",
        f"--audit-log-path={directory / 'audit.log'}",
        "--audit-log-mode=blocking",
    )


@dataclass
class Site:
    """A cluster without nodes, and how to see what was asked of it."""

    servers: ApiServers
    configuration: Configuration
    kubeconfig: Path

    def read_audit(self, user: str) -> list[dict[str, Any]]:
        lines = (self.servers.directory / "audit.log").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["user"]["username"] == user]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with ApiServers() as servers:
        flags = (*write_audit_policy(servers.directory), *write_front_proxy(servers.directory))
        configuration = servers.start("1.37", *flags)
        kubeconfig = servers.write_kubeconfig(configuration)
        servers.start_controllers(configuration, *CONTROLLERS)
        yield Site(servers, configuration, kubeconfig)


@pytest.fixture
async def admin(site: Site) -> AsyncIterator[KubernetesClient]:
    made = KubernetesClient(site.configuration)
    yield made
    await made.close()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.close()


class Team:
    """A namespace, and what a team does there, as the administrator that it isn't limited to."""

    def __init__(self, admin: KubernetesClient, namespace: str) -> None:
        self._admin = admin
        self.namespace = namespace

    async def come(self) -> None:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        await self._admin.apply(NAMESPACES, body)

    async def submit(self, name: str, spec: Json) -> None:
        body = {
            "apiVersion": SERVICES_OF_EASEL.api_version,
            "kind": SERVICES_OF_EASEL.kind,
            "metadata": {"namespace": self.namespace, "name": name},
            "spec": spec,
        }
        await self._admin.apply(SERVICES_OF_EASEL, body, field_manager="team")

    async def get(self, resource: Resource, name: str) -> Json | None:
        return await self._admin.get(resource, self.namespace, name)

    async def remove(self, resource: Resource, name: str) -> None:
        live = await self.get(resource, name)
        assert live is not None, f"{resource.kind} {name} isn't there"
        await self._admin.delete(resource, self.namespace, name, uid=live["metadata"]["uid"])

    async def wait_for(self, resource: Resource, name: str) -> Json:
        async def look() -> Json | None:
            return await self.get(resource, name)

        found = await eventually(look, WAIT_SECONDS)
        assert found is not None
        return found

    async def wait_until_gone(self, resource: Resource, name: str) -> None:
        async def look() -> bool:
            return await self.get(resource, name) is None

        await eventually(look, WAIT_SECONDS)

    async def wait_until_carried_out(self, name: str) -> Json:
        """The status is of the newest spec."""

        async def look() -> Json | None:
            live = await self.get(SERVICES_OF_EASEL, name)
            assert live is not None
            is_new = live.get("status", {}).get("observedGeneration") == live["metadata"]["generation"]
            return live if is_new else None

        found = await eventually(look, WAIT_SECONDS)
        assert found is not None
        return found


MODEL = {**HUB_MODEL, "cache": {"size": "1Gi"}}
REACHED: Json = {
    "model": MODEL,
    "scaling": {"minReplicas": 1, "maxReplicas": 4, "targetQueueDepth": 2},
    "gateway": {
        "replicas": 2,
        "apiKeysSecretName": "team-keys",
        "ingress": {"hosts": ["images.example.com"]},
        "httpRoute": {"parentRefs": [{"name": "public"}], "hosts": ["images.example.com"]},
    },
    "networkPolicy": {},
    "monitoring": {},
}
ALONE: Json = {"model": HUB_MODEL, "replicas": 1}


@dataclass(frozen=True)
class Right:
    """One verb on one kind; ``where``: of the cluster, of namespaces with services, or of the operator's own."""

    where: str
    resource: str
    verb: str


def read_granted(objects: list[Json], own_namespace: str) -> set[Right]:
    """What the chart's roles of the operator allow, by the namespace that they are about."""
    found = set()
    for role in objects:
        name = role["metadata"]["name"]
        if role["kind"] not in ("Role", "ClusterRole") or not name.startswith("easel-operator"):
            continue
        is_of_services = name.endswith(("-services", "-secrets"))
        where = "own" if role["kind"] == "Role" else "services" if is_of_services else "cluster"
        found |= {
            Right(where, resource, verb)
            for rule in role["rules"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
    assert {right.where for right in found} == {"own", "services", "cluster"}, own_namespace
    return found


def read_used(events: list[dict[str, Any]], own_namespace: str) -> set[Right]:
    """An apply that made an object asks for the right to create it, too."""
    found = set()
    for event in events:
        target = event.get("objectRef") or {}
        if not target.get("resource") or target.get("namespace") == "kube-system":
            continue
        resource = "/".join(part for part in (target["resource"], target.get("subresource")) if part)
        where = {None: "cluster", own_namespace: "own"}.get(target.get("namespace"), "services")
        verbs = {event["verb"]} | ({"create"} if event["responseStatus"]["code"] == 201 else set())
        found |= {Right(where, resource, verb) for verb in verbs}
    return found


def find_refused(events: list[dict[str, Any]]) -> list[str]:
    return [f"{event['verb']} {event['requestURI']}" for event in events if event["responseStatus"]["code"] == 403]


async def put_pods_to_work(admin: KubernetesClient, team: Team, service: str) -> None:
    """In place of a kubelet: every pod of the service runs and is ready, at an address where nobody answers."""
    selector = f"{names.LABEL_SERVICE}={service}"
    pods, _ = await admin.list_all(PODS, team.namespace, label_selector=selector)
    for pod in pods:
        status = {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "conditions": [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Ready", "ContainersReady")],
        }
        await admin.merge(PODS, team.namespace, pod["metadata"]["name"], {"status": status}, subresource="status")


async def fetch_the_model(admin: KubernetesClient, team: Team, service: str) -> None:
    """In place of a kubelet: the pod of the Job that fills the model's cache has ended well."""
    selector = f"{names.LABEL_SERVICE}={service},{names.LABEL_COMPONENT}={names.COMPONENT_MODEL_CACHE}"

    async def look() -> list[Json]:
        return (await admin.list_all(PODS, team.namespace, label_selector=selector))[0]

    for pod in await eventually(look, WAIT_SECONDS):
        name = pod["metadata"]["name"]
        await admin.merge(PODS, team.namespace, name, {"status": {"phase": "Succeeded"}}, subresource="status")


async def live_a_life(admin: KubernetesClient, team: Team, installation: Installation) -> None:
    """Made, reached, cached, meddled with, changed, rolled back; the operator restarts, and scales by itself."""
    await team.come()
    keys = {"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": team.namespace, "name": "team-keys"}}
    await admin.apply(SECRETS, keys, field_manager="team")
    await team.submit("painter", REACHED)
    await fetch_the_model(admin, team, "painter")
    for resource, name in ((HPAS, "painter-worker"), (HTTP_ROUTES, "painter"), (SECRETS, "painter-links")):
        await team.wait_for(resource, name)
    await team.wait_until_carried_out("painter")
    jobs, _ = await admin.list_all(JOBS, team.namespace)
    assert len(jobs) == 1

    # Another service finds a name taken, and so looks at all of them.
    stranger = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"namespace": team.namespace, "name": "taken-config"},
    }
    await admin.apply(CONFIG_MAPS, stranger, field_manager="team")
    await team.submit("taken", REACHED)

    # Somebody makes immutable what the operator writes, with other contents, while pods run.
    await put_pods_to_work(admin, team, "painter")
    await admin.merge(CONFIG_MAPS, team.namespace, "painter-config", {"immutable": True})
    await admin.merge(SECRETS, team.namespace, "painter-redis", {"immutable": True, "data": {"url": "bm9uZQ=="}})

    # A finalizer of an earlier release, other limits. Then less of everything.
    patch = {"metadata": {"finalizers": [names.FINALIZER]}}
    await admin.merge(SERVICES_OF_EASEL, team.namespace, "painter", patch)
    await team.submit("painter", {**REACHED, "gateway": {**REACHED["gateway"], "limits": {"maxImages": 2}}})
    await team.wait_until_carried_out("painter")
    await team.submit("painter", ALONE)
    for resource, name in ((HPAS, "painter-worker"), (HTTP_ROUTES, "painter")):
        await team.wait_until_gone(resource, name)
    await team.wait_until_carried_out("painter")

    # Back to the first revision, whose ReplicaSet is asked for.
    await team.submit("painter", {**ALONE, "rollout": {"toRevision": 1}})
    await team.wait_until_carried_out("painter")

    # Where the metrics API is another's, the operator writes the scale, after a restart.
    assert installation.stop() == 0
    installation.start(EASEL_EXTERNAL_METRICS="Disabled")
    await team.submit("painter", {"model": HUB_MODEL, "scaling": {"minReplicas": 2, "maxReplicas": 4}})
    await team.wait_until_carried_out("painter")


@asynccontextmanager
async def logged_in(site: Site, installation: Installation) -> AsyncIterator[KubernetesClient]:
    """With the rights of the operator."""
    configuration = copy(site.configuration)
    configuration.api_key = {"BearerToken": f"Bearer {installation.make_token()}"}
    client = KubernetesClient(configuration)
    yield client
    await client.close()


async def test_a_life_uses_what_is_granted_and_is_refused_nothing(
    site: Site, admin: KubernetesClient, redis: RedisServer
) -> None:
    await install(admin, HTTP_ROUTES, read_route_crd())
    for resource in (POD_MONITORS, PROMETHEUS_RULES):
        await install(admin, resource, build_open_crd(resource))
    team = Team(admin, "team-a")
    with Installation(
        site.servers,
        site.kubeconfig,
        release="easel",
        namespace=OPERATOR_NAMESPACE,
        redis_address=f"127.0.0.1:{redis.port}",
    ) as installation:
        installation.install()
        installation.start()
        await live_a_life(admin, team, installation)
        async with logged_in(site, installation) as operator:
            assert await operator.may("get", SECRETS, team.namespace)
            assert not await operator.may("list", SECRETS, team.namespace)
            assert not await operator.may("get", SECRETS, "default"), "no service lives there"
            for name in ("painter", "taken"):
                await team.remove(SERVICES_OF_EASEL, name)
            await team.wait_until_gone(ROLE_BINDINGS, SECRETS_BINDING)
            await eventually(partial(may_not, operator, team.namespace))
        assert installation.stop() == 0
        events = site.read_audit(installation.user)
        assert find_refused(events) == []
        granted = read_granted(installation.objects, OPERATOR_NAMESPACE)
    used = read_used(events, OPERATOR_NAMESPACE)
    unused = {right for right in granted if not is_used(right, used)}
    logger.info("granted and not used: %s", sorted(map(str, unused)))
    assert {(right.resource, right.verb) for right in unused} == set(UNUSED_AND_GRANTED), sorted(map(str, unused))


async def may_not(operator: KubernetesClient, namespace: str) -> bool:
    return not await operator.may("get", SECRETS, namespace)


def is_used(right: Right, used: set[Right]) -> bool:
    """What is granted by name in the whole cluster is used wherever the object is."""
    places = {"cluster": ("cluster", "services", "own"), "services": ("services", "cluster"), "own": ("own",)}
    return any(Right(place, right.resource, right.verb) in used for place in places[right.where])


SOON = {"EASEL_RESYNC_INTERVAL_SECONDS": "2"}
SCALED: Json = {"model": HUB_MODEL, "scaling": {"minReplicas": 1, "maxReplicas": 2}}


def find_event(events: list[Json], reason: str) -> Json | None:
    return next((event for event in events if event["reason"] == reason), None)


async def test_two_releases_share_a_cluster_each_in_its_own_namespaces(
    site: Site, admin: KubernetesClient, redis: RedisServer
) -> None:
    """The one has a namespace that goes and comes back. Nobody looks after a service outside of both."""
    other_redis = RedisServer()
    other_redis.start()
    teams = {name: Team(admin, name) for name in ("team-b", "team-c", "team-d", "elsewhere")}
    for team in teams.values():
        await team.come()
    where = (site.servers, site.kubeconfig)
    address, other_address = (f"127.0.0.1:{each.port}" for each in (redis, other_redis))
    with (
        Installation(*where, release="easel", namespace=OPERATOR_NAMESPACE, redis_address=address) as first,
        Installation(*where, release="easel-c", namespace="easel-c", redis_address=other_address) as second,
    ):
        first_values = ("operator.watchNamespaces={team-b,team-d}",)
        first.install(*first_values)
        second.install("operator.watchNamespaces={team-c}", "crd.install=false")
        namespace = await admin.get(NAMESPACES, None, "team-d")
        assert namespace is not None
        await admin.delete(NAMESPACES, None, "team-d", uid=namespace["metadata"]["uid"])

        async def is_gone() -> bool:
            return await admin.get(NAMESPACES, None, "team-d") is None

        await eventually(is_gone, WAIT_SECONDS)
        first.start(**SOON)

        async def is_registered() -> bool:
            return await admin.get(API_SERVICES, None, METRICS_API_SERVICE) is not None

        await eventually(is_registered, WAIT_SECONDS)
        second.start(**SOON)
        for name in ("team-b", "team-c", "elsewhere"):
            await teams[name].submit("painter", SCALED)

        # One has the external metrics API, the other scales by itself and says so.
        ones = await teams["team-b"].wait_until_carried_out("painter")
        others = await teams["team-c"].wait_until_carried_out("painter")
        assert await teams["team-b"].wait_for(HPAS, "painter-worker")
        assert find_condition(ones, "ScalingActive") is not None
        scaling = find_condition(others, "ScalingActive")
        assert scaling is not None
        assert scaling["reason"] == "DirectScaling"
        assert f"{METRICS_API_SERVICE} is served by {OPERATOR_NAMESPACE}/easel-metrics" in scaling["message"]
        for each in (first, second):
            assert await admin.get(LEASES, each.namespace, "easel-operator") is not None

        # A service outside of both: its team reads why nothing happens.
        async def is_warned() -> Json | None:
            events, _ = await admin.list_all(EVENTS, "elsewhere")
            return find_event(events, "NotWatched")

        warned = await eventually(is_warned, WAIT_SECONDS)
        assert warned is not None
        assert "add it to the chart's operator.watchNamespaces" in warned["note"]
        lost = await teams["elsewhere"].get(SERVICES_OF_EASEL, "painter")
        assert lost is not None
        assert "status" not in lost

        # A namespace that is missing is said, and watched when it is back and has been bound.
        assert "Namespace team-d of operator.watchNamespaces doesn't exist" in first.log
        await teams["team-d"].come()
        first.install(*first_values)
        await teams["team-d"].submit("late", SCALED)
        await teams["team-d"].wait_until_carried_out("late")

        async with logged_in(site, first) as operator:
            assert await operator.may("get", SECRETS, "team-b")
            for place in ("team-c", "elsewhere", "kube-system"):
                for verb, resource in (("get", SECRETS), ("list", PODS), ("patch", DEPLOYMENTS)):
                    assert not await operator.may(verb, resource, place), (verb, resource, place)
        assert (first.stop(), second.stop()) == (0, 0)
        for each, own in ((first, "team-b"), (second, "team-c")):
            assert find_refused(site.read_audit(each.user)) == [], own
        written = {
            (event.get("objectRef") or {}).get("namespace")
            for event in site.read_audit(second.user)
            if event["verb"] not in ("get", "list", "watch") and event["objectRef"]["resource"] != "events"
        }
        assert written <= {None, "easel-c", "team-c"}
    other_redis.close()
