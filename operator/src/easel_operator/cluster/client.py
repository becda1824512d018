"""The Kubernetes API in raw JSON over the official client's connection. The only place that talks HTTP to it."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from easel_contract import names
from easel_contract.conditions import MAX_MESSAGE_BYTES, shorten
from kubernetes.aio import client, config

from easel_operator.objects import SELF_ACCESS_REVIEWS, Json, Resource
from easel_operator.operator_metrics import API_REQUESTS

REQUEST_TIMEOUT_SECONDS: Final = 30
CONNECTIONS: Final = 64
LIST_PAGE_SIZE: Final = 500
# The API server sends a bookmark about every minute, so a stream that is silent for longer may be dead (kopf#957); or
# its kind has seen no change since the server started, and such a kind gets no bookmarks. Either way the watch is begun
# anew where it was, and nothing is missed.
WATCH_SILENCE_SECONDS: Final = 90

JSON: Final = "application/json"
# An object without its contents: of a Secret, that it exists is all that is looked at.
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
APPLY_PATCH: Final = "application/apply-patch+yaml"
MERGE_PATCH: Final = "application/merge-patch+json"


class KubernetesError(Exception):
    """A request to the Kubernetes API didn't succeed."""


class ApiRefusedError(KubernetesError):
    """The API server answered with an error status."""

    def __init__(
        self, method: str, path: str, status: int, reason: str, message: str, fields: tuple[str, ...] = ()
    ) -> None:
        super().__init__(f"{method} {path}: {status} {reason}: {message}")
        self.status = status
        self.fields = fields  # that are at fault, such as spec.template.spec.containers[0].env[0].valueFrom
        self.reason = reason
        self.message = message

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later without anyone acting."""
        if self.is_of_another_type:
            return False
        return self.status == HTTPStatus.TOO_MANY_REQUESTS or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR

    @property
    def is_of_another_type(self) -> bool:
        """Whether a manifest has fields that its kind doesn't, or of other types: server-side apply answers 500 then,
        though it is no error of the server's."""
        return self.message.startswith("failed to create typed patch object")

    @property
    def is_conflict(self) -> bool:
        """Whether the object is there though it shouldn't, or isn't the version that was sent."""
        return self.status == HTTPStatus.CONFLICT

    @property
    def is_another_object(self) -> bool:
        """Whether the object isn't the one with the uid that was sent: it was made anew, or is gone."""
        return self.status in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT) or "metadata.uid" in self.fields


class ApiUnreachableError(KubernetesError):
    """There was no answer: no connection, or none in time."""

    def __init__(self, method: str, path: str, cause: Exception) -> None:
        super().__init__(f"{method} {path}: no answer ({type(cause).__name__}: {cause})")


class KubernetesClient:
    """Requests and watches. One per process; close() ends its connections."""

    def __init__(self, configuration: client.Configuration) -> None:
        configuration.connection_pool_maxsize = CONNECTIONS
        configuration.retries = None  # what is worth repeating, and when, is decided by the callers
        # Left to aiohttp, the proxy and ~/.netrc are looked up anew for each request, in two hops through threads.
        configuration.proxy = configuration.proxy or find_proxy(configuration.host)
        configuration.client_session_kwargs = {"trust_env": False}
        self._configuration = configuration
        self._rest = client.ApiClient(configuration).rest_client

    @classmethod
    async def connect(cls) -> "KubernetesClient":
        """A client from the pod's service account, or from the kubeconfig where there is none."""
        configuration = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call] # not annotated
        except config.ConfigException:
            await config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call] # not annotated
        return cls(configuration)

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Json | None:
        """One object, or None if there is none. Raises KubernetesError."""
        try:
            return await self.request("GET", resource.path(namespace, name))
        except ApiRefusedError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def exists(self, resource: Resource, namespace: str, name: str) -> bool:
        """Whether there is such an object; its contents aren't read. Raises KubernetesError."""
        try:
            body = await self.request("GET", resource.path(namespace, name), accept=METADATA_ONLY)
        except ApiRefusedError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return False
            raise
        return "deletionTimestamp" not in body["metadata"]

    async def list_all(
        self, resource: Resource, namespace: str | None, *, label_selector: str = "", name: str = ""
    ) -> tuple[list[Json], str]:
        """All objects of a kind, read in pages, and the version to watch from. Raises KubernetesError.

        With a ``name``, those of that name in all namespaces: a right to list may be given for one name alone.
        """
        query = {"limit": str(LIST_PAGE_SIZE)} | ({"labelSelector": label_selector} if label_selector else {})
        query |= {"fieldSelector": f"metadata.name={name}"} if name else {}
        found: list[Json] = []
        while True:
            page = await self.request("GET", resource.path(namespace), query=query)
            found += page["items"]
            if not page["metadata"].get("continue"):
                return found, str(page["metadata"]["resourceVersion"])
            query["continue"] = page["metadata"]["continue"]

    async def apply(
        self,
        resource: Resource,
        manifest: Json,
        *,
        field_manager: str = names.FIELD_MANAGER,
        subresource: str | None = None,
        is_forced: bool = True,
    ) -> Json:
        """Server-side apply; fields in the manifest become ours even if somebody else set them, where it is forced.

        Raises:
            KubernetesError: see ApiRefusedError.message for the server's own words.
        """
        metadata = manifest["metadata"]
        return await self.request(
            "PATCH",
            resource.path(metadata.get("namespace"), metadata["name"], subresource),
            query={"fieldManager": field_manager, "force": "true" if is_forced else "false"},
            body=manifest,
            content_type=APPLY_PATCH,
        )

    async def create(self, resource: Resource, manifest: Json) -> Json:
        """Make an object that isn't there yet. Raises KubernetesError; ApiRefusedError with 409 if it is there."""
        return await self.request(
            "POST",
            resource.path(manifest["metadata"].get("namespace")),
            query={"fieldManager": names.FIELD_MANAGER},
            body=manifest,
        )

    async def merge(
        self, resource: Resource, namespace: str | None, name: str, patch: Json, *, subresource: str | None = None
    ) -> Json:
        """JSON merge patch (RFC 7386). Raises KubernetesError."""
        return await self.request(
            "PATCH",
            resource.path(namespace, name, subresource),
            query={"fieldManager": names.FIELD_MANAGER},
            body=patch,
            content_type=MERGE_PATCH,
        )

    async def delete(
        self, resource: Resource, namespace: str | None, name: str, *, uid: str, version: str | None = None
    ) -> None:
        """Delete this very object, and with a ``version`` only while it hasn't changed since.

        One that is gone counts as deleted, and so does one that was replaced; with a ``version`` that is a refusal
        (409), like a change. Raises KubernetesError.
        """
        known = {"uid": uid} | ({"resourceVersion": version} if version is not None else {})
        options = {"preconditions": known, "propagationPolicy": "Background"}
        try:
            await self.request("DELETE", resource.path(namespace, name), body=options)
        except ApiRefusedError as error:
            is_replaced = error.status == HTTPStatus.CONFLICT and version is None
            if error.status != HTTPStatus.NOT_FOUND and not is_replaced:
                raise

    async def may(self, verb: str, resource: Resource, namespace: str) -> bool:
        """Whether we have a right to every object of a kind in a namespace. Needs no right. Raises KubernetesError."""
        group = resource.api_version.rpartition("/")[0]
        asked = {"verb": verb, "group": group, "resource": resource.plural, "namespace": namespace}
        body = {
            "apiVersion": SELF_ACCESS_REVIEWS.api_version,
            "kind": SELF_ACCESS_REVIEWS.kind,
            "spec": {"resourceAttributes": asked},
        }
        answer = await self.request("POST", SELF_ACCESS_REVIEWS.path(None), body=body)
        return bool(answer.get("status", {}).get("allowed"))

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> Json:
        """One request and its answer.

        Raises:
            ApiRefusedError: the server answered with an error.
            ApiUnreachableError: it didn't answer within REQUEST_TIMEOUT_SECONDS, or with something that isn't JSON.
        """
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS)
        try:
            response = await self._send(method, path, query or {}, body, content_type, timeout, accept=accept)
            async with response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            API_REQUESTS.labels(method, "none").inc()
            raise ApiUnreachableError(method, path, error) from error
        API_REQUESTS.labels(method, str(response.status)).inc()
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise _to_refusal(method, path, response.status, content)
        try:
            answer: Json = json.loads(content)
        except ValueError as error:  # something in front of the API server answered in its stead
            raise ApiUnreachableError(method, path, error) from error
        return answer

    async def watch(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Json]:
        """Events of a watch until the server ends it, or has said nothing for WATCH_SILENCE_SECONDS.

        Raises:
            ApiRefusedError: the server refused, or the stream carried an error (status 410: list anew).
            ApiUnreachableError: the connection broke, or there was no answer at all.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=WATCH_SILENCE_SECONDS)
        try:
            response = await self._send("GET", path, {**query, "watch": "true"}, None, JSON, timeout)
            async with response:
                if response.status >= HTTPStatus.BAD_REQUEST:
                    raise _to_refusal("WATCH", path, response.status, await response.read())
                async for line in _read_until_silent(response.content):
                    event: Json = json.loads(line)
                    if event["type"] == "ERROR":
                        raise _to_refusal("WATCH", path, event["object"].get("code", 500), json.dumps(event["object"]))
                    yield event
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise ApiUnreachableError("WATCH", path, error) from error

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: object,
        content_type: str,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the transport's own, per phase of the request
        *,
        accept: str = JSON,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": accept, "Content-Type": content_type, "User-Agent": names.FIELD_MANAGER}
        # The token of a pod expires within the hour; asking for it each time refreshes it.
        token = await self._configuration.get_api_key_with_prefix("BearerToken")
        if token:
            headers["Authorization"] = token
        url = f"{self._configuration.host}{path}"
        if query:
            url = f"{url}?{urlencode(query)}"
        answer = await self._rest.request(  # type: ignore[no-untyped-call] # the library annotates only its models
            method, url, headers=headers, body=body, _request_timeout=timeout
        )
        response: aiohttp.ClientResponse = answer.response
        return response


def find_proxy(url: str) -> str | None:
    """The proxy that the environment names for a URL (HTTPS_PROXY, but for what NO_PROXY has), or None."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)


async def _read_until_silent(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines until the stream ends or the time-out of its socket comes."""
    while True:
        try:
            line = await stream.readline()
        except TimeoutError:
            return
        if not line:
            return
        yield line


def _to_refusal(method: str, path: str, status: int, content: str | bytes) -> ApiRefusedError:
    """The server's Status object in words; anything else in front of it (a proxy's page) as its beginning."""
    try:
        answer = json.loads(content)
        message = shorten(str(answer.get("message", "")), MAX_MESSAGE_BYTES)
        causes = (answer.get("details") or {}).get("causes") or ()
        fields = tuple(str(cause["field"]) for cause in causes if "field" in cause)
        return ApiRefusedError(method, path, status, str(answer.get("reason", "")), message, fields)
    except (ValueError, AttributeError):
        text = content.decode(errors="replace") if isinstance(content, bytes) else content
        return ApiRefusedError(method, path, status, "", text[:200])


async def sleep_with_jitter(seconds: float, random_fraction: float) -> None:
    """Sleep between half and all of ``seconds``, so that replicas don't knock at the same moment."""
    await asyncio.sleep(seconds * (0.5 + 0.5 * random_fraction))
