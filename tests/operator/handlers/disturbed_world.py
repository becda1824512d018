"""A cluster and Redis in memory, whose requests fail as they are told to, and the operators that work on them.

What the API server in memory takes for granted (conflicts by uid and version, server-side apply) real ones are asked in
``tests/operator/cluster/``.
"""

import asyncio
import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from itertools import count
from random import Random
from typing import Any, cast

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
from tests.operator.objects import CAPABLE, NOW, OWNER, build_service

NAMESPACE = OWNER.namespace
PATH = SERVICES_OF_EASEL.path(NAMESPACE, OWNER.name)
KEY = to_service_key(build_service())
DIRECT = replace(CAPABLE, is_metrics_api_ours=False, metrics_api_note="served by keda")
MAX_ROUNDS = 60
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
