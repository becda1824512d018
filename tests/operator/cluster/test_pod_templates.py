"""Overlays of the pods on a real API server: merged by its rules, applied once, and gone when they are taken away."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any, Final

import pytest
from easel_contract.conditions import Reason
from easel_contract.resource import ServiceDefaults, StableDiffusionServiceSpec
from easel_contract.resource.pod_template import MERGE_KEYS
from easel_operator.cluster.client import KubernetesClient
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.decide.drift import is_applied
from easel_operator.decide.snapshot import ApplyFailure, Handover, ReconcilePlan
from easel_operator.manifests.children import build_children
from easel_operator.manifests.metadata import ChildContext
from easel_operator.manifests.overlay import REPLACED_ENTRIES
from easel_operator.objects import DEPLOYMENTS, RESOURCE_BY_KIND, Json, to_object_key
from kubernetes.aio.client import Configuration

from tests.contract.test_pod_template import ACCEPTED_OVERLAYS
from tests.operator.objects import HUB_MODEL, OWNER, RELEASE
from tests.support.api_server import ApiServers

pytestmark = pytest.mark.cluster

RELEASES = ("1.34", "1.37")  # the oldest that is supported, and the newest that there is
STRATEGIC_PATCH: Final = "application/strategic-merge-patch+json"
POD_SPEC: Final = "io.k8s.api.core.v1.PodSpec"

# What is said in so many words and means nothing: the API server drops most of it.
EMPTY: Json = {
    "hostNetwork": False,
    "hostPID": False,
    "hostIPC": False,
    "hostname": "",
    "subdomain": "",
    "nodeName": "",
    "schedulerName": "",
    "priorityClassName": "",
    "serviceAccountName": "",
    "shareProcessNamespace": False,
    "setHostnameAsFQDN": False,
    "runtimeClassName": None,
    "affinity": None,
    "nodeSelector": {"type": "", "value": ""},
    "securityContext": {"sysctls": [], "supplementalGroups": []},
    "imagePullSecrets": [],
    "tolerations": [{"key": "", "operator": "Exists", "value": "", "effect": ""}],
    "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["cache"]}],
    "volumes": [
        {"name": "scratch", "emptyDir": {"medium": "", "sizeLimit": "1024Mi"}},
        {"name": "node", "hostPath": {"path": "/var/cache", "type": ""}},
        {"name": "more", "configMap": {"name": "more", "optional": False, "items": []}},
    ],
    "containers": [
        {
            "name": "server",
            "env": [{"name": "EMPTY", "value": ""}],
            "envFrom": [{"prefix": "", "configMapRef": {"name": "more", "optional": True}}],
            "volumeMounts": [{"name": "scratch", "mountPath": "/scratch", "readOnly": False, "subPath": ""}],
            "stdin": False,
            "tty": False,
            "workingDir": "",
        },
        {
            "name": "log",
            "image": "log:1",
            "imagePullPolicy": "",
            "stdinOnce": False,
            "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}},
            "ports": [{"containerPort": 53, "protocol": "UDP", "hostPort": 0, "name": ""}, {"containerPort": 53}],
            "readinessProbe": {"tcpSocket": {"port": 53, "host": ""}, "initialDelaySeconds": 0},
            "securityContext": {"privileged": False, "readOnlyRootFilesystem": False},
        },
    ],
    "initContainers": [{"name": "warm", "image": "warm:1", "restartPolicy": "Always", "command": []}],
}

# Parts of overlays, each by another rule, put together at random.
PARTS: tuple[Json, ...] = (
    {"nodeSelector": {"pool": "a"}},
    {"nodeSelector": {"zone": None, "pool": "b"}},
    {"securityContext": {"$patch": "replace", "runAsUser": 1000}},
    {"securityContext": {"fsGroup": 2000, "seccompProfile": None}},
    {"securityContext": {"supplementalGroups": [3000]}},
    {"tolerations": [{"key": "spot", "operator": "Exists"}]},
    {"tolerations": [{"key": "age", "value": "3"}]},
    {"imagePullSecrets": [{"name": "registry"}]},
    {"imagePullSecrets": [{"name": "mirror"}]},
    {"hostAliases": [{"ip": "192.0.2.1", "hostnames": ["a"]}]},
    {"hostAliases": [{"ip": "192.0.2.1", "hostnames": ["b"]}]},
    {"topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname", "maxSkew": 2}]},
    {
        "topologySpreadConstraints": [
            {
                "topologyKey": "zone",
                "maxSkew": 1,
                "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"a": "b"}},
            }
        ]
    },
    {"volumes": [{"name": "ca", "configMap": {"name": "ca"}}]},
    {"volumes": [{"name": "ca", "$patch": "delete"}]},
    {"containers": [{"name": "server", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]},
    {"containers": [{"name": "server", "env": [{"name": "A", "value": "3"}]}]},
    {"containers": [{"name": "server", "env": [{"name": "A", "$patch": "delete"}]}]},
    {"containers": [{"name": "server", "envFrom": [{"secretRef": {"name": "one"}}]}]},
    {"containers": [{"name": "server", "ports": [{"containerPort": 5678, "name": "debug"}]}]},
    {"containers": [{"name": "server", "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}}]},
    {"containers": [{"name": "log", "image": "log:1", "args": ["a", "b"]}]},
    {"containers": [{"name": "log", "image": "log:2", "args": ["c"]}]},
    {"containers": [{"name": "log", "$patch": "delete"}]},
    {"initContainers": [{"name": "warm", "image": "warm:1", "volumeMounts": [{"name": "tmp", "mountPath": "/a"}]}]},
    {"initContainers": [{"name": "warm", "image": "warm:1", "volumeMounts": [{"name": "tmp", "mountPath": "/b"}]}]},
    {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}]}}}},
    {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}}]}}},
    {"priorityClassName": "batch"},
    {"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}},
)  # fmt: skip


@pytest.fixture(scope="module", params=RELEASES)
def api_server(request: pytest.FixtureRequest) -> Iterator[Configuration]:
    with ApiServers() as servers:
        yield servers.start(request.param)


def build(name: str, spec: Json, defaults: Json | None = None) -> tuple[Json, ...]:
    owner = replace(OWNER, namespace="default", name=name)
    read = StableDiffusionServiceSpec.model_validate({"model": HUB_MODEL, "replicas": 1, **spec})
    context = ChildContext(owner, read, replace(RELEASE, defaults=ServiceDefaults.model_validate(defaults or {})), 60)
    return build_children(context, has_hpa=False, is_tolerance_supported=True)


def deployment(name: str, overlay: Json, default: Json | None = None) -> Json:
    """The gateways', which have a spread constraint of Easel's own."""
    defaults = {"gateway": {"podTemplate": {"spec": default}}} if default is not None else None
    children = build(name, {"gateway": {"podTemplate": {"spec": overlay}}}, defaults)
    return next(child for child in children if child["metadata"]["name"] == f"{name}-gateway")


async def write(
    client: KubernetesClient, children: tuple[Json, ...], *, handovers: tuple[Handover, ...] = ()
) -> tuple[ApplyFailure, ...]:
    """As a reconcile does."""
    owner = replace(OWNER, namespace="default", name=children[0]["metadata"]["name"])
    writer = ClusterWriter(client, ObjectStore(lambda _: None), pod_name="a", clock=lambda: datetime.now(UTC))
    seen = {}
    for child in children:
        key = to_object_key(child)
        if (live := await client.get(RESOURCE_BY_KIND[key.kind], key.namespace, key.name)) is not None:
            seen[key] = live
    return await writer.write_children(owner, ReconcilePlan(handovers=handovers, applies=children), seen)


async def find_drifted(client: KubernetesClient, children: tuple[Json, ...]) -> list[str]:
    """The children that the next look would write again."""
    found = []
    for child in children:
        key = to_object_key(child)
        live = await client.get(RESOURCE_BY_KIND[key.kind], key.namespace, key.name)
        if not is_applied(live, child):
            found.append(str(key))
    return found


async def test_lists_are_merged_by_the_keys_that_the_api_server_publishes(client: KubernetesClient) -> None:
    definitions: Json = (await client.request("GET", "/openapi/v2"))["definitions"]
    published = dict(_find_merge_keys(definitions, POD_SPEC, ()))
    newer = {path: key for path, key in MERGE_KEYS.items() if path[0] not in definitions[POD_SPEC]["properties"]}
    assert published | newer == MERGE_KEYS


def _find_merge_keys(definitions: Json, name: str, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for field, schema in definitions[name].get("properties", {}).items():
        here = (*path, field)
        if here[-1] in {"ephemeralContainers", "ephemeral"}:
            continue  # no template may have those containers, and an entry of a volume is replaced whole
        if "merge" in schema.get("x-kubernetes-patch-strategy", ""):
            yield here, schema["x-kubernetes-patch-merge-key"]
        target = schema.get("$ref") or schema.get("items", {}).get("$ref")
        if target and not target.endswith("JSONSchemaProps"):
            yield from _find_merge_keys(definitions, target.rsplit("/", 1)[-1], here)


@pytest.mark.parametrize("seed", range(12))
async def test_two_overlays_are_merged_as_the_api_server_merges_strategic_patches(
    seed: int, client: KubernetesClient
) -> None:
    random = Random(seed)  # noqa: S311 - spreads cases, guards nothing
    name = f"merged-{seed}"
    overlays = [_pick(random) for _ in range(2)]
    stored = await client.apply(DEPLOYMENTS, deployment(name, {}))
    for overlay in overlays:
        patch = {"spec": {"template": {"spec": overlay}}}
        stored = await client.request(
            "PATCH", DEPLOYMENTS.path("default", f"{name}-gateway"), body=patch, content_type=STRATEGIC_PATCH
        )
    ours = deployment(f"{name}-ours", overlays[1], overlays[0])
    applied = await client.apply(DEPLOYMENTS, ours)
    assert _sorted(applied) == _sorted(stored), json.dumps(overlays)


def _pick(random: Random) -> Json:
    """Several parts as one overlay; of those that speak of the same field, one."""
    parts = {next(iter(part)): part for part in random.sample(PARTS, 8)}
    return {field: value for part in parts.values() for field, value in part.items()}


def _sorted(body: Json) -> Any:
    """The pods' spec without the service's name, entries of merged lists by their key: new ones have no fixed place."""
    text = json.dumps(body["spec"]["template"]["spec"]).replace("-ours", "")
    return _sort(json.loads(text), ())


def _sort(value: Any, path: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {name: _sort(each, (*path, name)) for name, each in value.items()}
    if isinstance(value, list):
        key = MERGE_KEYS.get(path)
        entries = [_sort(each, path) for each in value]
        return entries if key is None else sorted(entries, key=lambda entry: json.dumps(entry[key]))
    return value


async def test_a_variable_that_comes_from_elsewhere_now_is_no_error(client: KubernetesClient) -> None:
    """Where a strategic patch would leave both, and the API server refuse them."""
    assert "env" in REPLACED_ENTRIES
    first = {"containers": [{"name": "server", "env": [{"name": "A", "value": "1"}]}]}
    field = {"fieldRef": {"fieldPath": "metadata.name"}}
    second = {"containers": [{"name": "server", "env": [{"name": "A", "valueFrom": field}]}]}
    both = deployment("either", second, first)
    kept = await client.apply(DEPLOYMENTS, both)
    variables = {each["name"]: each for each in kept["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert "value" not in variables["A"]
    assert variables["A"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"


@pytest.mark.parametrize("spec", [EMPTY, *(ACCEPTED_OVERLAYS.values())])
async def test_what_the_api_server_fills_in_or_drops_is_no_reason_to_write_again(
    spec: Json, client: KubernetesClient
) -> None:
    service = {"worker": {"podTemplate": {"spec": spec}}, "gateway": {"podTemplate": {"spec": spec}}}
    children = build("idle", service if spec is EMPTY else spec)
    assert await write(client, children) == ()
    assert await find_drifted(client, children) == []


async def test_an_overlay_that_is_taken_away_leaves_nothing_behind(client: KubernetesClient) -> None:
    bare = build("leaves", {})
    assert await write(client, bare) == ()
    key = to_object_key(next(child for child in bare if child["metadata"]["name"] == "leaves-worker"))
    before = await client.get(DEPLOYMENTS, key.namespace, key.name)
    overlay = {"metadata": {"labels": {"team": "art"}}, "spec": EMPTY}
    assert await write(client, build("leaves", {"worker": {"podTemplate": overlay}})) == ()
    between = await client.get(DEPLOYMENTS, key.namespace, key.name)
    assert await write(client, bare) == ()
    after = await client.get(DEPLOYMENTS, key.namespace, key.name)
    assert before is not None
    assert between is not None
    assert after is not None
    assert len(between["spec"]["template"]["spec"]["containers"]) == 2
    assert after["spec"] == before["spec"]


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        ({"tolerationz": []}, "tolerationz: field not declared in schema; correct spec.worker.podTemplate"),
        ({"hostNetwork": "yes"}, "hostNetwork: expected boolean"),
        ({"volumes": [{"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}}]}, "more than 1 volume type"),
        ({"priorityClassName": "Not A Name"}, "priorityClassName"),
    ],
)
async def test_an_overlay_that_is_no_pod_is_said_and_not_tried_for_ever(
    overlay: Json, words: str, client: KubernetesClient
) -> None:
    (failure,) = await write(client, build("wrong", {"worker": {"podTemplate": {"spec": overlay}}}))
    assert failure.reason is Reason.APPLY_FAILED
    assert failure.key.name == "wrong-worker"
    assert words in failure.message
