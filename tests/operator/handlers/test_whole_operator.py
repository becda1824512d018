"""Reconciler, scaling loop and cleanup together, through a life of services, with every request failing once.

However one request ends, and wherever the operator is killed, what there is in the end is what an undisturbed operator
leaves; what isn't a service's own is never written. What the API server in memory takes for granted (conflicts by uid
and version, server-side apply) real ones are asked in ``tests/operator/cluster/``.
"""

import asyncio
import copy
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from functools import partial
from itertools import count
from random import Random
from typing import Any, cast

import pytest
from easel_contract import names
from easel_operator.cluster.client import ApiRefusedError, ApiUnreachableError, KubernetesError
from easel_operator.cluster.external_metrics import ExternalMetricsServer
from easel_operator.cluster.informer import Informer
from easel_operator.cluster.redis.service_keys import ServiceKeys
from easel_operator.cluster.writer import NO_VERSION, ClusterWriter
from easel_operator.decide.deletion import WorkLeft
from easel_operator.handlers.cleanup import Cleanup
from easel_operator.handlers.scaling_loop import ScalingLoop
from easel_operator.objects import CHILD_RESOURCES, NAMESPACES, PODS, SECRETS, SERVICES_OF_EASEL, Json, to_service_key

from tests.operator.fake_api import FakeApi
from tests.operator.handlers.test_reconciler import Bench
from tests.operator.handlers.test_scaling_loop import FakeScraper
from tests.operator.objects import CAPABLE, HUB_MODEL, NOW, OWNER, build_pod, build_service

logger = logging.getLogger(__name__)

NAMESPACE = OWNER.namespace
PATH = SERVICES_OF_EASEL.path(NAMESPACE, OWNER.name)
KEY = to_service_key(build_service())
DIRECT = replace(CAPABLE, is_metrics_api_ours=False, metrics_api_note="served by keda")
MAX_ROUNDS = 60
RANDOM_LIVES = 6
CLUSTER_UID = "cluster"


class Fault(StrEnum):
    """What becomes of one request."""

    ERROR = "error 500"
    CONFLICT = "conflict"
    LOST_REQUEST = "time-out before it took effect"
    LOST_ANSWER = "time-out after it took effect"
    KILLED = "killed after it took effect"


WRITE_FAULTS = tuple(Fault)
READ_FAULTS = (Fault.LOST_REQUEST,)
Choose = Callable[[int, str, str], Fault | None]  # (number of the request, method, path)


def never(_number: int, _method: str, _path: str) -> Fault | None:
    return None


class DisturbedApi(FakeApi):
    """Knows labels and uids, lets requests fail as ``choose`` says, and doesn't answer an operator that was killed."""

    def __init__(self, foreign: set[str]) -> None:
        super().__init__()
        self.choose: Choose = never
        self.numbered = 0
        self.faults = 0
        self.is_killed = False
        self.foreign = foreign
        self.trespasses: list[tuple[str, str]] = []

    async def request(self, method: str, path: str, **options: Any) -> Json:
        if self.is_killed:
            raise ApiUnreachableError(method, path, ConnectionError("the operator is dead"))
        fault = self.choose(self.numbered, method, path)
        self.numbered += 1
        self.faults += fault is not None
        if fault is Fault.LOST_REQUEST:
            raise ApiUnreachableError(method, path, TimeoutError())
        if fault is Fault.ERROR:
            raise ApiRefusedError(method, path, 500, "InternalError", "etcdserver: leader changed")
        if fault is Fault.CONFLICT:
            raise ApiRefusedError(method, path, 409, "Conflict", "the object has been modified")
        if method != "GET" and path in self.foreign and not _makes_only(options.get("body")):
            self.trespasses.append((method, path))
        self._check_uid(method, path, options.get("body"))
        answer = await super().request(method, path, **options)
        if "items" in answer and (options.get("query") or {}).get("labelSelector"):
            label = (options["query"])["labelSelector"]
            answer["items"] = [each for each in answer["items"] if label in each["metadata"].get("labels", {})]
        if fault in (Fault.LOST_ANSWER, Fault.KILLED):
            self.is_killed = fault is Fault.KILLED
            raise ApiUnreachableError(method, path, TimeoutError())
        return copy.deepcopy(answer)

    def _apply(self, path: str, body: Json) -> Json:
        """Replicas that nobody sends stay, and are 1 at first."""
        if body["kind"] == "Deployment" and "replicas" not in body["spec"]:
            replicas = self.objects.get(path, {}).get("spec", {}).get("replicas", 1)
            body = {**body, "spec": {**body["spec"], "replicas": replicas}}
        return super()._apply(path, body)

    def _check_uid(self, method: str, path: str, body: Any) -> None:
        if method != "PATCH" or not isinstance(body, dict):
            return
        uid = body.get("metadata", {}).get("uid")
        for subresource in ("/status", "/scale"):
            path = path.removesuffix(subresource)
        live = self.objects.get(path)
        if uid is not None and (live is None or live["metadata"]["uid"] != uid):
            raise ApiRefusedError(
                method, path, 409, "Conflict", "uid mismatch: the object has another", ("metadata.uid",)
            )


def _makes_only(body: Any) -> bool:
    """Whether a write is refused by what is there; see tests/operator/cluster/test_takeover.py."""
    return isinstance(body, dict) and body.get("metadata", {}).get("resourceVersion") == NO_VERSION


class KeysInMemory(ServiceKeys):
    """Redis as far as the cleanup knows it."""

    def __init__(self) -> None:
        super().__init__()
        self.registry: dict[str, str] = {}
        self.keys: set[str] = set()  # prefixes of which there are keys

    async def mark_closing(self, prefix: str, reason: str) -> None:
        pass

    async def count_work(self, prefix: str) -> WorkLeft:
        return WorkLeft(0, 0, 0)

    async def delete_keys(self, prefix: str) -> int:
        deleted = int(prefix in self.keys)
        self.keys.discard(prefix)
        return deleted

    async def forget(self, cluster_uid: str, prefix: str) -> None:
        self.registry.pop(prefix, None)

    async def register(self, cluster_uid: str, services: Mapping[str, str]) -> None:
        self.registry.update(services)
        self.keys.update(services)  # their pods write

    async def read_registry(self, cluster_uid: str) -> dict[str, str]:
        return dict(self.registry)


class Operator(Bench):
    """One process, from its start to the moment when it is killed."""

    def __init__(self, api: FakeApi, redis: KeysInMemory, *, is_direct: bool) -> None:
        super().__init__(api)
        self.now = NOW
        self.shared.capabilities = DIRECT if is_direct else CAPABLE
        ticks = count()
        self.informers = [
            Informer(api, resource, self.children, namespace=NAMESPACE, monotonic=lambda: 0.0)
            for resource in (*CHILD_RESOURCES, PODS)
            if resource is not SECRETS
        ]
        writer = ClusterWriter(api, self.children, pod_name="operator-a", clock=lambda: NOW)
        self.cleanup = Cleanup(
            client=api,
            writer=writer,
            services=self.services,
            children=self.children,
            keys=redis,
            monotonic=lambda: float(next(ticks)),
            look_seconds=0,
        )
        scraper = FakeScraper()
        scraper.depth = 7
        self.scaling = ScalingLoop(
            scraper=scraper,
            metrics_server=ExternalMetricsServer(stale_after=timedelta(seconds=30), clock=lambda: NOW),
            writer=writer,
            services=self.services,
            children=self.children,
            shared=self.shared,
            on_news=self.queue.add,
            is_leader=lambda: True,
            clock=lambda: NOW,
        )

    async def list_all(self, *, but: Informer | None = None) -> None:
        """As after each start, and now and then. ``but``: one kind whose list comes later."""
        self.services.replace_all(*await self.api.list_all(SERVICES_OF_EASEL, NAMESPACE))
        for informer in self.informers:
            if informer is not but:
                await informer._list()

    async def work(self) -> bool:
        """Look at every service, scale, clean up; whether all went well."""
        is_well = True
        keys = {key for key, _ in self.services} | {KEY}
        for key in sorted(keys):
            self.reconciler._secrets_checked_at.pop(key, None)  # time passes
            try:
                await self.reconciler.reconcile(key)  # False of a service whose names are taken, for ever
            except KubernetesError:
                is_well = False
        await self.scaling.tick()
        try:
            await self._clean_up()
        except KubernetesError:
            is_well = False
        return is_well

    async def _clean_up(self) -> None:
        """A few looks of both loops of the cleanup."""
        await self.cleanup.sweep(CLUSTER_UID)
        await self.cleanup._register(CLUSTER_UID)
        looking = asyncio.create_task(self.cleanup._end_services())
        for _ in range(40):
            await asyncio.sleep(0)
        looking.cancel()
        await asyncio.gather(looking, *self.cleanup._endings.values(), return_exceptions=True)


@dataclass
class World:
    """The cluster, Redis, and whoever operates at the moment."""

    api: DisturbedApi
    redis: KeysInMemory = field(default_factory=KeysInMemory)
    is_direct: bool = False
    lives: int = 0
    stale: Random | None = None  # by whose throws lists of one kind are late

    @classmethod
    def build(cls) -> "World":
        strangers: dict[str, Json] = {
            f"/api/v1/namespaces/{NAMESPACE}/configmaps/taken-config": {"data": {"theirs": "1"}},
            f"/api/v1/namespaces/{NAMESPACE}/secrets/team-keys": {"data": {"team": "a2V5"}},
            f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/other": {"spec": {"replicas": 5}},
            f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/other": {"spec": {"maxReplicas": 5}},
        }
        api = DisturbedApi(set(strangers))
        labels = {names.LABEL_SERVICE: OWNER.name}  # though they aren't its own
        kinds = {resource.plural: resource for resource in CHILD_RESOURCES}
        for path, body in strangers.items():
            resource, name = kinds[path.split("/")[-2]], path.rpartition("/")[2]
            metadata = {"namespace": NAMESPACE, "name": name, "labels": labels}
            api.store(path, {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, **body})
        api.store(NAMESPACES.path(None, "kube-system"), {"metadata": {"uid": CLUSTER_UID}})
        return cls(api)

    def fork(self) -> "World":
        """The same cluster once more, for another course of things."""
        api = DisturbedApi(self.api.foreign)
        api.objects, api._versions = copy.deepcopy(self.api.objects), count(100_000)
        redis = KeysInMemory()
        redis.registry, redis.keys = dict(self.redis.registry), set(self.redis.keys)
        return World(api, redis, self.is_direct)

    async def settle(self) -> None:
        """Operators work, one after the other where one is killed, until a look of a new one writes nothing."""
        operator = await self._start()
        for _ in range(MAX_ROUNDS):
            self._collect_garbage()
            before = self._describe_progress(operator)
            is_well = await self._look(operator)
            if self.api.is_killed:
                operator = await self._start()
            elif is_well and self._describe_progress(operator) == before:
                return
        raise AssertionError(f"not settled after {MAX_ROUNDS} looks")

    async def _start(self) -> Operator:
        while True:
            self.api.is_killed = False
            self.lives += 1
            operator = Operator(self.api, self.redis, is_direct=self.is_direct)
            try:
                await operator.list_all()
            except KubernetesError:
                continue
            return operator

    async def _look(self, operator: Operator) -> bool:
        is_late = self.stale is not None and self.stale.random() < 0.5
        late = self.stale.choice(operator.informers) if self.stale is not None and is_late else None
        try:
            await operator.list_all(but=late)
        except KubernetesError:
            return False
        return await operator.work() and late is None

    def _collect_garbage(self) -> None:
        """As Kubernetes' own collector: what belongs to nobody that lives goes."""
        living = {body["metadata"]["uid"] for body in self.api.objects.values()}
        for path, body in list(self.api.objects.items()):
            owners = [owner["uid"] for owner in body["metadata"].get("ownerReferences", []) if "uid" in owner]
            if owners and not living & set(owners):
                del self.api.objects[path]

    def _describe_progress(self, operator: Operator) -> tuple[object, ...]:
        """What changes with each look, until there is nothing to do any more."""
        ended = operator.cleanup._ended
        return len(self.api.writes), self.api.faults, dict(self.redis.registry), set(self.redis.keys), set(ended)

    def describe(self) -> dict[str, Any]:
        """What there is, without what differs between any two runs."""
        uids = {body["metadata"]["uid"]: path for path, body in self.api.objects.items()}
        found = {path: body for path, body in self.api.objects.items() if "/events/" not in path}
        text = json.dumps({path: _strip(body) for path, body in sorted(found.items())}, sort_keys=True)
        for uid, path in uids.items():
            text = text.replace(f'"{uid}"', f'"uid of {path}"')
        return cast(
            "dict[str, Any]",
            {"objects": json.loads(text), "redis": [sorted(self.redis.registry), sorted(self.redis.keys)]},
        )


def _strip(body: Json) -> Json:
    metadata = {
        name: value for name, value in body["metadata"].items() if name not in ("resourceVersion", "generation")
    }
    stripped = {**body, "metadata": metadata}
    if metadata.get("name", "").endswith(names.links_secret_name("")):
        stripped["data"] = sorted(body.get("data", {}))  # random, once
    if body.get("kind") == names.KIND:  # how the number of workers came about, as far as this operator saw it
        stripped["status"] = {part: said for part, said in body.get("status", {}).items() if part != "scaling"}
    return stripped


def submit(world: World, spec: Json, *, name: str = OWNER.name, uid: str = OWNER.uid) -> None:
    """As ``kubectl apply`` does."""
    path = SERVICES_OF_EASEL.path(NAMESPACE, name)
    known = world.api.objects.get(path, {})
    service = build_service(spec)
    generation = known.get("metadata", {}).get("generation", 0) + 1
    service["metadata"] |= {"name": name, "uid": known.get("metadata", {}).get("uid", uid), "generation": generation}
    world.api.store(path, {**service, **{part: known[part] for part in ("status",) if part in known}})


SCALING = {"minReplicas": 0, "maxReplicas": 8, "targetQueueDepth": 2}
REACHED = {
    "model": HUB_MODEL,
    "scaling": SCALING,
    "gateway": {"apiKeysSecretName": "team-keys", "ingress": {"hosts": ["images.example.com"]}},
    "networkPolicy": {},
}


def create(world: World) -> None:
    submit(world, REACHED)
    submit(world, {"model": HUB_MODEL, "replicas": 1}, name="taken", uid="uid-taken")
    for role in (names.COMPONENT_GATEWAY, names.COMPONENT_WORKER):
        pod = build_pod(role)
        world.api.store(PODS.path(NAMESPACE, pod["metadata"]["name"]), {"kind": "Pod", **pod})


def fix_the_number(world: World) -> None:
    submit(world, {"model": HUB_MODEL, "replicas": 3})


def scale_again(world: World) -> None:
    submit(world, REACHED)


def lose_the_metrics_api(world: World) -> None:
    world.is_direct = True


def meddle(world: World) -> None:
    """Somebody deletes one child and edits another."""
    del world.api.objects[f"/api/v1/namespaces/{NAMESPACE}/configmaps/painter-config"]
    path = f"/api/v1/namespaces/{NAMESPACE}/services/painter"
    live = copy.deepcopy(world.api.objects[path])
    live["spec"]["ports"] = []
    world.api.store(path, live)


def replace_the_service(world: World) -> None:
    """Deleted, and made again under its name, before anybody has looked."""
    del world.api.objects[PATH]
    submit(world, REACHED, uid="8f3b4c52-0000-4000-8000-00000000000f")


def delete(world: World) -> None:
    del world.api.objects[PATH]


STEPS = (create, fix_the_number, scale_again, lose_the_metrics_api, meddle, replace_the_service, delete)


async def live(*, until: str) -> tuple[World, World]:
    """An undisturbed life: the world before a step, and after it."""
    world = World.build()
    for step in STEPS:
        before = world.fork()
        before.is_direct = world.is_direct
        step(world)
        await world.settle()
        if step.__name__ == until:
            return before, world
    raise AssertionError(until)


def choose_one(number: int, fault: Fault, each: int, _method: str, _path: str) -> Fault | None:
    return fault if each == number else None


def list_faults(requests: list[tuple[str, str]]) -> Iterator[tuple[int, Fault]]:
    for number, (method, _) in enumerate(requests):
        for fault in READ_FAULTS if method == "GET" else WRITE_FAULTS:
            yield number, fault


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
async def test_whichever_request_fails_and_wherever_the_operator_is_killed_the_end_is_the_same(
    step: Callable[[World], None],
) -> None:
    before, undisturbed = await live(until=step.__name__)
    wanted = undisturbed.describe()
    course = before.fork()
    step(course)
    await course.settle()
    assert course.describe() == wanted, "the same course comes to the same end"
    # The last looks, which wrote nothing, are like each other: their first requests stand for all.
    last_write = max(number for number, (method, _) in enumerate(course.api.requests) if method != "GET")
    for number, fault in list_faults(course.api.requests[: last_write + 1]):
        world = before.fork()
        step(world)
        world.api.choose = partial(choose_one, number, fault)
        await world.settle()
        said = f"{fault} at request {number}, {course.api.requests[number]}"
        assert world.describe() == wanted, said
        assert world.api.trespasses == [], said


@pytest.mark.parametrize("seed", range(RANDOM_LIVES))
async def test_a_life_full_of_faults_and_late_lists_comes_to_the_same_end(seed: int) -> None:
    logger.info("seed %d", seed)
    random = Random(seed)  # noqa: S311 - guards nothing
    _, undisturbed = await live(until="replace_the_service")
    world = World.build()
    for step in STEPS[:-1]:
        step(world)
        faults = random.randint(3, 12)

        def choose(_number: int, method: str, _path: str) -> Fault | None:
            nonlocal faults
            if faults == 0 or random.random() > 0.15:
                return None
            faults -= 1
            return random.choice(READ_FAULTS if method == "GET" else WRITE_FAULTS)

        world.api.choose, world.stale = choose, random
        await world.settle()
    assert world.describe() == undisturbed.describe()
    assert world.api.trespasses == []


async def test_the_life_goes_through_what_an_operator_writes() -> None:
    """Else what is said above would be said of less."""
    world = World.build()
    for step in STEPS:
        step(world)
        await world.settle()
    written = {(method, path.removeprefix("/").split("/")[-2]) for method, path in world.api.writes}
    subresources = {path.rpartition("/")[2] for _, path in world.api.writes}
    made = {kind for method, kind in written if method == "PATCH"}
    # Of a Gateway API, and of models that are cached, there is none in this life.
    assert {each.plural for each in CHILD_RESOURCES} - made <= {"httproutes", "jobs", "persistentvolumeclaims"}
    assert ("DELETE", "horizontalpodautoscalers") in written
    assert {"status", "scale"} <= subresources
    assert world.redis.keys == {"easel:{studio/taken/uid-taken}:"}
