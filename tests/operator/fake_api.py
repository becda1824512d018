"""An API server in memory, behind the very client that the operator uses: objects, versions, conflicts, watches.

It knows what the operator relies on and nothing more: apply replaces, merge merges, PUT checks the version, DELETE the
uid. ``fault`` may refuse any request, so that tests can break the network where they like.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import count
from typing import Any

from easel_contract import names
from easel_operator.cluster.client import ApiRefusedError, KubernetesClient
from easel_operator.objects import SELF_ACCESS_REVIEWS, Json

Fault = Callable[[str, str], Exception | None]  # (method, path) → what the request raises


class FakeApi(KubernetesClient):
    """Objects by path."""

    def __init__(self, fault: Fault = lambda _method, _path: None) -> None:
        self.objects: dict[str, Json] = {}
        self.requests: list[tuple[str, str]] = []
        self.bodies: dict[str, Any] = {}  # last one that was sent, by path
        self.fault = fault
        self.managed_at = ""  # the time that applies are said to have been made at; empty: none is said
        self.watches: list[asyncio.Queue[Json | Exception | None]] = []
        self._versions = count(2)  # as etcd

    @property
    def writes(self) -> list[tuple[str, str]]:
        """All requests that change something."""
        return [(method, path) for method, path in self.requests if method != "GET"]

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> Json:
        self.requests.append((method, path))
        if body is not None:
            self.bodies[path] = body
        error = self.fault(method, path)
        if error is not None:
            raise error
        await asyncio.sleep(0)
        if path == SELF_ACCESS_REVIEWS.path(None):
            return {**body, "status": {"allowed": True}}
        if (query or {}).get("dryRun"):
            return dict(body)
        return self._answer(method, path, body, content_type)

    def _answer(self, method: str, path: str, body: Any, content_type: str) -> Json:
        if method == "POST":
            return self._create(path, body)
        if content_type == "application/apply-patch+yaml":
            return self._apply(path, body)
        if method == "PATCH":
            return self._merge(path, body)
        return self._answer_known(method, path, body)

    def _apply(self, path: str, body: Json) -> Json:
        """Replace all but the status; another spec is another generation."""
        known = self.objects.get(path, {})
        if known and (version := body["metadata"].get("resourceVersion")) is not None:
            self._refuse_unless(path, "resourceVersion", version)
        generation = known.get("metadata", {}).get("generation", 0) + (known.get("spec") != body.get("spec"))
        kept = {key: value for key, value in known.items() if key == "status"}
        metadata = {**body["metadata"], "generation": generation}
        if self.managed_at:
            entry = {"manager": names.FIELD_MANAGER, "operation": "Apply", "time": self.managed_at}
            metadata["managedFields"] = [entry]
        return self.store(path, {**body, **kept, "metadata": metadata})

    def _answer_known(self, method: str, path: str, body: Any) -> Json:
        if path not in self.objects:
            return self._list_or_refuse(method, path)
        if method == "PUT":
            self._refuse_unless(path, "resourceVersion", body["metadata"].get("resourceVersion"))
            return self.store(path, body)
        if method == "DELETE":
            self._refuse_unless(path, "uid", body["preconditions"]["uid"])
            return self.objects.pop(path)
        return self.objects[path]

    def _create(self, path: str, body: Json) -> Json:
        created = f"{path}/{body['metadata']['name']}"
        if created in self.objects:
            raise ApiRefusedError("POST", path, 409, "AlreadyExists", "already exists")
        return self.store(created, body)

    def _refuse_unless(self, path: str, field: str, seen: str | None) -> None:
        if seen != self.objects[path]["metadata"][field]:
            raise ApiRefusedError("PUT", path, 409, "Conflict", f"another {field}")

    def _list_or_refuse(self, method: str, path: str) -> Json:
        items = [body for key, body in sorted(self.objects.items()) if key.rsplit("/", 1)[0] == path]
        is_collection = len(path.split("/")) % 2 == 1 if path.startswith("/apis") else path.count("/") in (3, 5)
        if method == "GET" and (items or is_collection):
            return {"items": items, "metadata": {"resourceVersion": str(next(self._versions))}}
        raise ApiRefusedError(method, path, 404, "NotFound", f"{path} not found")

    def store(self, path: str, body: Json) -> Json:
        """Put an object, with a new version, and a uid if it has none."""
        version = str(next(self._versions))
        known = self.objects.get(path, {}).get("metadata", {})
        uid = body["metadata"].get("uid") or known.get("uid") or f"uid-{version}"
        metadata = {**body["metadata"], "resourceVersion": version, "uid": uid}
        self.objects[path] = {**body, "metadata": metadata}
        return self.objects[path]

    def _merge(self, path: str, patch: Json) -> Json:
        for subresource in ("status", "scale"):
            path = path.removesuffix(f"/{subresource}")
        if path not in self.objects:
            raise ApiRefusedError("PATCH", path, 404, "NotFound", f"{path} not found")
        return self.store(path, merge(self.objects[path], patch))

    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Json]:
        """Hands out what the test puts into the newest of ``watches``: events, an error, or None for the end."""
        events: asyncio.Queue[Json | Exception | None] = asyncio.Queue()
        self.watches.append(events)
        while (event := await events.get()) is not None:
            if isinstance(event, Exception):
                raise event
            yield event


def merge(target: Json, patch: Json) -> Json:
    """JSON merge patch (RFC 7386)."""
    result = dict(target)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            known = result.get(key)
            result[key] = merge(known if isinstance(known, dict) else {}, value)
        else:
            result[key] = value
    return result
