"""The floor: the same objects by a bare client, every byte of which was prepared before the clock starts."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from easel_contract import names
from easel_operator.decide.reconcile import decide
from easel_operator.decide.snapshot import Capabilities, Snapshot
from easel_operator.manifests.metadata import Release
from easel_operator.objects import RESOURCE_BY_KIND, SERVICES_OF_EASEL, Json

from benchmarks.control_plane.plane import APPLY_PATCH, JSON, MERGE_PATCH, NAMESPACE, BareClient

CONCURRENCY: Final = 16  # services in the making at the same time
GATEWAY_IMAGE: Final = "registry.example/easel-gateway:0.1.0"
WORKER_IMAGE: Final = "registry.example/easel-worker:0.1.0"
NAME_MARK: Final = "name-of-the-service"
UID_MARK: Final = "00000000-0000-4000-8000-00000000abcd"
ALL_SEEN_SECONDS: Final = 1800.0
CAPABLE: Final = Capabilities(
    is_metrics_api_ours=True, metrics_api_note="", is_scale_to_zero_supported=True, is_tolerance_supported=True
)
SPEC: Final[Json] = {
    "model": {"source": {"huggingFace": {"repository": "stabilityai/sdxl-turbo"}}},
    "scaling": {"minReplicas": 1, "maxReplicas": 8, "targetLatencySeconds": 30},
}


def build_service(name: str) -> Json:
    """A service as a team would write it: a model, and bounds for its workers."""
    return {
        "apiVersion": SERVICES_OF_EASEL.api_version,
        "kind": SERVICES_OF_EASEL.kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": SPEC,
    }


@dataclass(frozen=True)
class Request:
    """One write for one service; the marks stand for its name and uid."""

    path: str
    body: str
    content_type: str


@dataclass(frozen=True)
class Prepared:
    """All that is written for a service: its children, then its status."""

    children: tuple[Request, ...]
    status: Request
    collections: tuple[str, ...]  # of the children's kinds, one entry for each child

    @property
    def writes(self) -> int:
        return len(self.children) + 1


def prepare(redis_url: str) -> Prepared:
    """What the operator's own decision asks to be written for a new service."""
    service = build_service(NAME_MARK)
    service["metadata"] |= {"uid": UID_MARK, "generation": 1, "resourceVersion": "1"}
    release = Release(
        worker_image=WORKER_IMAGE, gateway_image=GATEWAY_IMAGE, redis_url=redis_url, operator_namespace="easel-system"
    )
    now = datetime.now(UTC).replace(microsecond=0)
    plan = decide(Snapshot(service, {}, (), CAPABLE, release, now))
    query = f"?fieldManager={names.FIELD_MANAGER}&force=true"
    resources = [RESOURCE_BY_KIND[manifest["kind"]] for manifest in plan.applies]
    return Prepared(
        children=tuple(
            Request(resource.path(NAMESPACE, manifest["metadata"]["name"]) + query, json.dumps(manifest), APPLY_PATCH)
            for resource, manifest in zip(resources, plan.applies, strict=True)
        ),
        status=Request(
            SERVICES_OF_EASEL.path(NAMESPACE, NAME_MARK, "status"), json.dumps(plan.status_patch), MERGE_PATCH
        ),
        collections=tuple(resource.path(NAMESPACE) for resource in resources),
    )


async def create_service(client: BareClient, name: str) -> str:
    """Make a service; its uid."""
    answer = await client.send("POST", SERVICES_OF_EASEL.path(NAMESPACE), build_service(name), JSON)
    return str(answer["metadata"]["uid"])


async def make_service(client: BareClient, prepared: Prepared, name: str) -> None:
    """Make a service with its children and its status, one after the other."""
    uid = await create_service(client, name)
    for request in (*prepared.children, prepared.status):
        body = request.body.replace(NAME_MARK, name).replace(UID_MARK, uid)
        await client.send("PATCH", request.path.replace(NAME_MARK, name), body, request.content_type)


async def for_each(names_of_services: list[str], make: Callable[[str], Awaitable[object]]) -> None:
    """Call for all services, CONCURRENCY at a time."""
    waiting = iter(names_of_services)

    async def work() -> None:
        for name in waiting:
            await make(name)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CONCURRENCY):
            tasks.create_task(work())


class Statuses:
    """Which services have said what became of their spec, by a watch of the measurement's own."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._wanted = 0
        self._all = asyncio.Event()

    async def follow(self, events: AsyncIterator[Json]) -> None:
        async for event in events:
            body = event["object"]
            if body.get("status", {}).get("observedGeneration") == body["metadata"]["generation"]:
                self._seen.add(body["metadata"]["name"])
                if len(self._seen) >= self._wanted:
                    self._all.set()

    async def wait_for(self, count: int) -> None:
        """Return once so many have. Raises TimeoutError."""
        self._wanted = count
        if len(self._seen) < count:
            self._all.clear()
            async with asyncio.timeout(ALL_SEEN_SECONDS):
                await self._all.wait()


@asynccontextmanager
async def following_statuses(client: BareClient) -> AsyncIterator[Statuses]:
    """The services' statuses from now on."""
    statuses = Statuses()
    following = asyncio.create_task(statuses.follow(client.watch(SERVICES_OF_EASEL.path(NAMESPACE))))
    try:
        yield statuses
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following


async def wait_for_children(client: BareClient, prepared: Prepared, services: int) -> None:
    """Return once every child of every service is there; the namespace's own objects come on top."""
    async with asyncio.timeout(ALL_SEEN_SECONDS):
        for collection in sorted(set(prepared.collections)):
            wanted = prepared.collections.count(collection) * services
            while await client.count(collection) < wanted:  # noqa: ASYNC110 - another process's
                await asyncio.sleep(0.05)
