"""Kubernetes' releases differ in feature gates; real API servers that act as each are put the operator's questions.

Which release has which gate: pkg/features/kube_features.go of Kubernetes. 1.33 has them as 1.34 has.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import pytest
from easel_contract.conditions import Reason
from easel_contract.resource import StableDiffusionServiceSpec
from easel_operator.cluster.capabilities import METRICS_API_SERVICE, Installation, probe_capabilities
from easel_operator.cluster.client import KubernetesClient
from easel_operator.cluster.object_store import ObjectStore
from easel_operator.cluster.writer import ClusterWriter
from easel_operator.decide.drift import is_applied
from easel_operator.decide.scaling_mode import ScalingMode, decide_mode
from easel_operator.decide.snapshot import Capabilities, ReconcilePlan
from easel_operator.manifests.children import build_children
from easel_operator.manifests.metadata import ChildContext, Owner
from easel_operator.objects import API_SERVICES, DEPLOYMENTS, HPAS, RESOURCE_BY_KIND, Json
from kubernetes.aio.client import Configuration

from tests.operator.objects import HUB_MODEL, RELEASE
from tests.support.api_server import ApiServers

pytestmark = pytest.mark.cluster

OPERATOR_NAMESPACE, OPERATOR_SERVICE = "kube-system", "easel-operator"
OWNER = Owner("default", "painter", "8f3b4c52-0000-4000-8000-000000000001")


@dataclass(frozen=True)
class Gates:
    """What a release's API server keeps and allows."""

    has_tolerance: bool  # HPAConfigurableTolerance: alpha in 1.33, beta in 1.35, always on from 1.37
    has_zero: bool  # HPAScaleToZero: alpha in 1.16, beta in 1.37
    has_image_volumes: bool  # ImageVolume: alpha in 1.31, beta in 1.33, on from 1.35


RELEASES = {
    "1.34": Gates(has_tolerance=False, has_zero=False, has_image_volumes=False),
    "1.35": Gates(has_tolerance=True, has_zero=False, has_image_volumes=True),
    "1.36": Gates(has_tolerance=True, has_zero=False, has_image_volumes=True),
    "1.37": Gates(has_tolerance=True, has_zero=True, has_image_volumes=True),
}


@pytest.fixture(scope="module")
def servers() -> Iterator[ApiServers]:
    with ApiServers() as started:
        yield started


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest, servers: ApiServers) -> tuple[Configuration, Gates]:
    return servers.start(request.param), RELEASES[request.param]


@pytest.fixture
async def client(release: tuple[Configuration, Gates]) -> AsyncIterator[KubernetesClient]:
    made = KubernetesClient(release[0])
    yield made
    await made.close()


async def probe(client: KubernetesClient) -> Capabilities:
    """What the operator finds out where the external metrics API is its own."""
    group, version = "external.metrics.k8s.io", "v1beta1"
    service = {"namespace": OPERATOR_NAMESPACE, "name": OPERATOR_SERVICE}
    priorities = {"groupPriorityMinimum": 100, "versionPriority": 100}
    await client.apply(
        API_SERVICES,
        {
            "apiVersion": API_SERVICES.api_version,
            "kind": API_SERVICES.kind,
            "metadata": {"name": METRICS_API_SERVICE},
            "spec": {"group": group, "version": version, "service": service, **priorities},
        },
    )
    return await probe_capabilities(client, Installation(OPERATOR_NAMESPACE, OPERATOR_SERVICE, is_api_wanted=True))


def read_spec(*, min_replicas: int) -> StableDiffusionServiceSpec:
    scaling = {"minReplicas": min_replicas, "maxReplicas": 4}
    return StableDiffusionServiceSpec.model_validate({"model": HUB_MODEL, "scaling": scaling})


def build_autoscalers(spec: StableDiffusionServiceSpec, capabilities: Capabilities) -> list[Json]:
    """The autoscalers among a service's children: one, or none where the operator writes the scale itself."""
    children = build_children(
        ChildContext(OWNER, spec, RELEASE, grace_seconds=60),
        has_hpa=decide_mode(spec, capabilities).mode is ScalingMode.AUTOSCALER,
        is_tolerance_supported=capabilities.is_tolerance_supported,
    )
    return [child for child in children if child["kind"] == HPAS.kind]


async def test_the_operator_finds_out_what_the_release_has(
    client: KubernetesClient, release: tuple[Configuration, Gates]
) -> None:
    capabilities = await probe(client)
    assert capabilities.is_metrics_api_ours
    found = Gates(
        capabilities.is_tolerance_supported,
        capabilities.is_scale_to_zero_supported,
        capabilities.is_image_volume_supported,
    )
    assert found == release[1]


async def test_probing_leaves_nothing_behind(client: KubernetesClient) -> None:
    await probe(client)
    assert await client.get(HPAS, OPERATOR_NAMESPACE, "easel-probe") is None


async def test_the_autoscaler_is_kept_as_it_was_sent(
    client: KubernetesClient, release: tuple[Configuration, Gates]
) -> None:
    """A field that the release doesn't know would be dropped, and the operator would send it again for ever."""
    (wanted,) = build_autoscalers(read_spec(min_replicas=1), await probe(client))
    kept = await client.apply(HPAS, wanted)
    for direction in ("scaleUp", "scaleDown"):
        rules = kept["spec"]["behavior"][direction]
        assert rules == wanted["spec"]["behavior"][direction]
        assert ("tolerance" in rules) == release[1].has_tolerance


async def test_a_service_that_may_sleep_is_scaled_by_whom_the_release_allows(
    client: KubernetesClient, release: tuple[Configuration, Gates]
) -> None:
    spec, capabilities = read_spec(min_replicas=0), await probe(client)
    autoscalers = build_autoscalers(spec, capabilities)
    if release[1].has_zero:
        (wanted,) = autoscalers
        assert (await client.apply(HPAS, wanted))["spec"]["minReplicas"] == 0
    else:
        assert autoscalers == []
        assert "HPAScaleToZero" in decide_mode(spec, capabilities).explanation


async def test_what_has_a_childs_name_is_left_as_it_is_and_named(client: KubernetesClient) -> None:
    """A child that isn't there is applied with a version that no object has; see NO_VERSION."""
    owner = replace(OWNER, name="taken")
    spec = {"model": HUB_MODEL, "scaling": {"maxReplicas": 3}}
    context = ChildContext(owner, StableDiffusionServiceSpec.model_validate(spec), RELEASE, 60)
    writer = ClusterWriter(client, ObjectStore(lambda _: None), pod_name="a", clock=lambda: datetime.now(UTC))
    for child in build_children(context, has_hpa=True, is_tolerance_supported=False):
        resource = RESOURCE_BY_KIND[child["kind"]]
        metadata = {"namespace": "default", "name": child["metadata"]["name"]}
        theirs = await client.apply(resource, {**child, "metadata": metadata}, field_manager="kubectl")

        failures = await writer.write_children(owner, ReconcilePlan(applies=(child,)), {})

        assert [failure.reason for failure in failures] == [Reason.CHILD_CONFLICT], child["kind"]
        assert await client.get(resource, "default", metadata["name"]) == theirs
        await client.delete(resource, "default", metadata["name"], uid=theirs["metadata"]["uid"])
        assert await writer.write_children(owner, ReconcilePlan(applies=(child,)), {}) == ()
        assert await writer.write_children(owner, ReconcilePlan(applies=(child,)), {}) == (), "it is ours"


async def test_workers_with_a_model_in_an_image_are_kept_as_they_were_sent(
    client: KubernetesClient, release: tuple[Configuration, Gates]
) -> None:
    """Where the release drops the volume, they would start without a model, and be written again at each look."""
    source = {"image": {"reference": "registry.example/models/sdxl:1", "path": "sdxl"}}
    spec = StableDiffusionServiceSpec.model_validate({"model": {"source": source}, "replicas": 1})
    context = ChildContext(OWNER, spec, RELEASE, grace_seconds=60)
    children = build_children(context, has_hpa=False, is_tolerance_supported=True)
    workers = next(child for child in children if child["metadata"]["name"] == "painter-worker")
    assert is_applied(await client.apply(DEPLOYMENTS, workers), workers) == release[1].has_image_volumes
