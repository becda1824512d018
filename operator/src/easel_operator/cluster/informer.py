"""Keeps the object store equal to the API server for one kind: list, then watch, and list again when in doubt."""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus
from random import random
from typing import Final

from easel_contract import names

from easel_operator.cluster.client import ApiRefusedError, KubernetesClient, KubernetesError, sleep_with_jitter
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.objects import OPTIONAL_RESOURCES, Json, Resource

logger = logging.getLogger(__name__)

WATCH_SECONDS: Final = 300  # the server ends a watch after this long, and the next one continues it
RELIST_SECONDS: Final = 1800.0  # a list now and then heals whatever a watch may have missed
FIRST_BACKOFF_SECONDS: Final = 0.5
MAX_BACKOFF_SECONDS: Final = 30.0
UNSERVED_SECONDS: Final = 60.0  # until a kind that the cluster didn't have is looked for again
POD_ANNOTATIONS: Final = (
    names.ANNOTATION_DELETION_COST,
    names.ANNOTATION_REVISION,
    names.ANNOTATION_MODEL,
    names.ANNOTATION_LIVE_CONFIG,
)
MANAGED_KINDS: Final = frozenset({"Deployment", "ConfigMap"})  # who writes the replicas, and when we last wrote

# Of other kinds no status is read, and one that changes is no news; nor are an autoscaler's figures, each 15 s others.
STATUS_KINDS: Final = frozenset({"Deployment", "Job", "Pod", "HorizontalPodAutoscaler"})


class Informer:
    """One kind in one namespace, or in all."""

    def __init__(
        self,
        client: KubernetesClient,
        resource: Resource,
        store: ObjectStore,
        *,
        namespace: str | None,
        monotonic: Callable[[], float],
    ) -> None:
        self._client = client
        self._resource = resource
        self._store = store
        self._namespace = namespace
        self._monotonic = monotonic
        self._heard_at = monotonic()
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        self.is_synced = asyncio.Event()
        self.lists = 0

    def __str__(self) -> str:
        return f"{self._resource.plural} in {self._namespace or 'all namespaces'}"

    @property
    def namespace(self) -> str | None:
        """Where; None: everywhere."""
        return self._namespace

    def silent_seconds(self) -> float:
        """Time since the API server last said anything: a list, an event, a bookmark, the end of a watch."""
        return self._monotonic() - self._heard_at

    async def run(self) -> None:
        """List and watch for ever."""
        while True:
            try:
                await self._watch_until_relist(await self._list())
                continue
            except ApiRefusedError as error:
                if error.status == HTTPStatus.NOT_FOUND and self._resource in OPTIONAL_RESOURCES:
                    await self._wait_until_served()
                    continue
                if error.status == HTTPStatus.FORBIDDEN:
                    self._heard_at = self._monotonic()  # an answer too: the namespace is gone, or rights in it
                if error.status == HTTPStatus.GONE:
                    logger.info("Listing %s anew: the watch fell behind", self)
                else:
                    logger.warning("Watching %s failed, trying again: %s", self, error)
            except KubernetesError as error:
                logger.warning("Watching %s failed, trying again: %s", self, error)
            # After 410 too: a server that drops its watchers is one that can't bear a list from each at once.
            await sleep_with_jitter(self._backoff_seconds, random())  # noqa: S311 - spreads load, guards nothing
            self._backoff_seconds = min(self._backoff_seconds * 2, MAX_BACKOFF_SECONDS)

    async def _wait_until_served(self) -> None:
        """Of a kind that the cluster doesn't have, there is nothing to know; look again later."""
        self._heard_at = self._monotonic()
        self.is_synced.set()
        await asyncio.sleep(UNSERVED_SECONDS)

    async def _list(self) -> str:
        found, version = await self._client.list_all(
            self._resource, self._namespace, label_selector=names.LABEL_SERVICE
        )
        bodies = [self._trim(body) for body in found]
        self._store.replace_kind(self._resource.kind, self._namespace, bodies, version)
        self._heard_at = self._monotonic()
        self.lists += 1
        self.is_synced.set()
        return version

    async def _watch_until_relist(self, version: str) -> None:
        relist_at = self._monotonic() + RELIST_SECONDS
        while self._monotonic() < relist_at:
            version = await self._watch_once(version)

    async def _watch_once(self, version: str) -> str:
        query = {
            "labelSelector": names.LABEL_SERVICE,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        async for event in self._client.watch(self._resource.path(self._namespace), query):
            self._heard_at = self._monotonic()
            self._backoff_seconds = FIRST_BACKOFF_SECONDS  # a list alone proves nothing: the watch has to work
            body = event["object"]
            version = body["metadata"]["resourceVersion"]
            if event["type"] == "BOOKMARK":
                continue
            body = self._trim(body)
            if event["type"] == "DELETED":
                self._store.delete(body)
            else:
                self._store.put(body)
        self._heard_at = self._monotonic()
        self._backoff_seconds = FIRST_BACKOFF_SECONDS
        return version

    def _trim(self, body: Json) -> Json:
        return trim(body, self._resource)


def trim(body: Json, resource: Resource) -> Json:
    """The parts that decisions look at: the rest of thousands of objects would only fill memory."""
    metadata = dict(body["metadata"])
    managed = metadata.pop("managedFields", [])
    kept = {"apiVersion": resource.api_version, "kind": resource.kind, **body, "metadata": metadata}
    if resource.kind in MANAGED_KINDS:
        metadata["managedFields"] = [entry for entry in managed if entry.get("manager") == names.FIELD_MANAGER]
    if resource.kind not in STATUS_KINDS:
        kept.pop("status", None)
    if resource.kind == "HorizontalPodAutoscaler" and "status" in kept:
        kept["status"] = {"conditions": kept["status"].get("conditions") or []}
    if resource.kind == "Secret" and metadata["name"].endswith(names.links_secret_name("")):
        kept.pop("data", None)  # it is only ever asked whether it is there
    if resource.kind == "Pod":
        annotations = metadata.pop("annotations", None) or {}
        read = {name: annotations[name] for name in POD_ANNOTATIONS if name in annotations}
        if read:
            metadata["annotations"] = read
        spec = body.get("spec", {})
        ports = [{"name": each.get("name"), "ports": each.get("ports") or []} for each in spec.get("containers") or ()]
        kept["spec"] = {"nodeName": spec.get("nodeName"), "containers": ports}
    return kept
