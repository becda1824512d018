"""A control plane of a round's own: etcd, kube-apiserver, kube-controller-manager, with the resource and nothing else.

No pod is ever made: of the controllers, the one that turns a ReplicaSet into pods doesn't run, nor does that of
autoscalers, for which no metrics are served. Every request of the measured side is in the API server's audit log.
"""

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from easel_operator.objects import SERVICES_OF_EASEL

from benchmarks.server.processes import ROOT
from tests.operator.metrics_api.support import build_authority
from tests.support.api_server import OPERATOR_TOKEN, OPERATOR_USER, TOKEN, ApiServers

RELEASE: Final = "1.37"
NAMESPACE: Final = "studio"
OPERATOR_NAMESPACE: Final = "easel-system"
METRICS_SERVICE: Final = "easel-operator"
ABSENT_CONTROLLERS: Final = ("replicaset-controller", "horizontal-pod-autoscaler-controller")
CONTROLLERS: Final = ("*", *(f"-{name}" for name in ABSENT_CONTROLLERS))
ADDRESSES: Final = "10.96.0.0/16"  # of Services: a /24 is full with 254 of them
CONNECTIONS: Final = 64
ESTABLISHED_SECONDS: Final = 60.0
JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"

Json = dict[str, Any]


@dataclass(frozen=True)
class Plane:
    """Where it listens, and its files."""

    host: str
    ca: Path
    audit_log: Path
    kubeconfig: Path  # of the measured side

    def count_requests(self, since_line: int = 0) -> Counter[str]:
        """Requests of the measured side by verb and resource: ``patch deployments``, ``watch pods``.

        A watch counts when it begins, everything else when it is answered.
        """
        counts: Counter[str] = Counter()
        for line in self._read_audit()[since_line:]:
            event = json.loads(line)
            verb, target = event["verb"], event.get("objectRef") or {}
            stage = "ResponseStarted" if verb == "watch" else "ResponseComplete"
            if event["stage"] == stage:
                subresource = f"/{target['subresource']}" if "subresource" in target else ""
                trial = " (dry run)" if "dryRun=All" in event["requestURI"] else ""
                counts[f"{verb} {target.get('resource', event['requestURI'])}{subresource}{trial}"] += 1
        return counts

    def count_lines(self) -> int:
        """How long the audit log is by now, for ``count_requests`` of what comes after."""
        return len(self._read_audit())

    def _read_audit(self) -> list[str]:
        return self.audit_log.read_text().splitlines() if self.audit_log.exists() else []


WRITING_VERBS: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})
OF_THE_INSTALLATION: Final = frozenset({"leases", "apiservices"})  # whatever services there are


def count_writes(requests: Mapping[str, int]) -> int:
    """Requests that write, but for the leader's lease, the registration of the external metrics API, and the dry runs
    that ask what this cluster admits."""
    return sum(
        count
        for name, count in requests.items()
        if name.split()[0] in WRITING_VERBS
        and name.split()[1] not in OF_THE_INSTALLATION
        and not name.endswith("(dry run)")
    )


@contextmanager
def running_plane() -> Iterator[Plane]:
    """A fresh one, with the custom resource, both namespaces, and the measured side's rights."""
    with ApiServers() as servers:
        policy = servers.directory / "audit-policy.yaml"
        rules = [{"level": "Metadata", "users": [OPERATOR_USER]}, {"level": "None"}]
        policy.write_text(
            json.dumps(
                {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules, "omitStages": ["RequestReceived"]}
            )
        )
        audit_log = servers.directory / "audit.log"
        front_proxy = servers.directory / "front-proxy.crt"
        front_proxy.write_text(build_authority("front-proxy").pem)
        # Blocking, or what a part of the measurement asks for would be written down in the next one's time.
        configuration = servers.start(
            RELEASE,
            *(f"--audit-policy-file={policy}", f"--audit-log-path={audit_log}", "--audit-log-mode=blocking"),
            *(f"--requestheader-client-ca-file={front_proxy}", "--requestheader-username-headers=X-Remote-User"),
            *("--requestheader-group-headers=X-Remote-Group", f"--service-cluster-ip-range={ADDRESSES}"),
        )
        servers.start_controllers(configuration, *CONTROLLERS, flags=("--kube-api-qps=100", "--kube-api-burst=200"))
        ca = Path(str(configuration.ssl_ca_cert))
        plane = Plane(configuration.host, ca, audit_log, _write_kubeconfig(configuration.host, ca, servers.directory))
        asyncio.run(_prepare(plane))
        yield plane


def _write_kubeconfig(host: str, ca: Path, directory: Path) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": host, "certificate-authority": str(ca)}}],
        "users": [{"name": "bench", "user": {"token": OPERATOR_TOKEN}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
    }
    path = directory / "measured.kubeconfig"
    path.write_text(json.dumps(content))
    return path


async def _prepare(plane: Plane) -> None:
    async with connected(plane, TOKEN) as client:
        for path in sorted((ROOT / "crds").glob("*.yaml")):
            await client.send("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", _load(path))
        for name in (NAMESPACE, OPERATOR_NAMESPACE):
            await client.send("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        binding = {
            "metadata": {"name": "measured"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "User", "name": OPERATOR_USER}],
        }
        await client.send("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
        service = {
            "metadata": {"name": METRICS_SERVICE, "namespace": OPERATOR_NAMESPACE},
            "spec": {"type": "ExternalName", "externalName": "localhost"},  # the operator is a process of this machine
        }
        await client.send("POST", f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/services", service)
        async with asyncio.timeout(ESTABLISHED_SECONDS):
            while not await client.is_found(SERVICES_OF_EASEL.path(NAMESPACE)):  # noqa: ASYNC110 - another process's
                await asyncio.sleep(0.1)


def _load(path: Path) -> Json:
    body: Json = yaml.safe_load(path.read_text())
    return body


class BareClient:
    """HTTP with JSON, kept-alive connections, and nothing else."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def send(self, method: str, path: str, body: object = None, content_type: str = JSON) -> Json:
        """The answer. Raises RuntimeError where it is an error's."""
        data = body if isinstance(body, str | bytes | None) else json.dumps(body)
        async with self._session.request(method, path, data=data, headers={"Content-Type": content_type}) as response:
            content = await response.read()
            if response.status >= 400:
                raise RuntimeError(f"{method} {path}: {response.status}: {content[:500]!r}")
            answer: Json = json.loads(content)
            return answer

    async def is_found(self, path: str) -> bool:
        """Whether it is answered at all."""
        async with self._session.get(path) as response:
            return response.status < 400

    async def count(self, collection: str) -> int:
        """How many objects a collection has."""
        page = await self.send("GET", f"{collection}?limit=1")
        return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))

    async def watch(self, collection: str) -> AsyncIterator[Json]:
        """Events from now on, for ever; what is there already isn't among them."""
        version = (await self.send("GET", f"{collection}?limit=1"))["metadata"]["resourceVersion"]
        timeout = aiohttp.ClientTimeout(total=None)
        url = f"{collection}?watch=true&resourceVersion={version}&timeoutSeconds=3600"
        async with self._session.get(url, timeout=timeout) as response:
            async for line in response.content:
                event: Json = json.loads(line)
                if event["type"] == "ERROR":
                    raise RuntimeError(f"the watch of {collection} ended: {event['object']}")
                yield event


@asynccontextmanager
async def connected(plane: Plane, token: str = OPERATOR_TOKEN) -> AsyncIterator[BareClient]:
    """A client with connections of its own."""
    connector = aiohttp.TCPConnector(limit=CONNECTIONS, ssl=ssl.create_default_context(cafile=plane.ca))
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(plane.host, connector=connector, headers=headers, read_bufsize=1 << 22) as session:
        yield BareClient(session)
