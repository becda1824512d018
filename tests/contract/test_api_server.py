"""What ``kubectl apply`` is answered: the CRD in a real API server, which also refuses a rule that costs too much.

The oldest release that is supported, since a newer one knows more.
"""

from collections.abc import AsyncIterator, Iterator

import pytest
from easel_contract import names
from easel_contract.crd import build_crd
from easel_operator.cluster.client import ApiRefusedError, KubernetesClient
from easel_operator.objects import SERVICES_OF_EASEL, Json, Resource
from kubernetes.aio.client import Configuration

from tests.contract.exposure_cases import ACCEPTED_WAYS_IN, REFUSED_WAYS_IN
from tests.contract.test_pod_template import ACCEPTED_OVERLAYS, REFUSED_OVERLAYS
from tests.contract.test_resource import ACCEPTED, MODEL, REFUSED
from tests.support.api_server import ApiServers
from tests.support.eventually import eventually

pytestmark = pytest.mark.cluster

CRDS = Resource("CustomResourceDefinition", "apiextensions.k8s.io/v1", "customresourcedefinitions")
OLDEST_RELEASE = "1.34"
ALL_REFUSED = REFUSED | REFUSED_OVERLAYS | REFUSED_WAYS_IN
# What only a program can say: whether a month has such a day, and which names a database has.
SAID_BY_THE_OPERATOR = {
    "a schedule that never begins",
    "the time zone leapseconds",
    "the time zone Europe/Atlantis",
    "the time zone ../UTC",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Configuration]:
    with ApiServers() as servers:
        yield servers.start(OLDEST_RELEASE)


@pytest.fixture
async def client(server: Configuration) -> AsyncIterator[KubernetesClient]:
    made = KubernetesClient(server)

    async def is_served() -> bool:
        try:
            await made.list_all(SERVICES_OF_EASEL, "default")
        except ApiRefusedError:
            return False
        return True

    try:
        await made.apply(CRDS, build_crd())
        await eventually(is_served)
        yield made
    finally:
        await made.close()


async def find_refusal(client: KubernetesClient, spec: Json) -> ApiRefusedError | None:
    try:
        await client.apply(SERVICES_OF_EASEL, build(spec))
    except ApiRefusedError as error:
        return error
    return None


def build(spec: Json, name: str = "painter") -> Json:
    return {
        "apiVersion": SERVICES_OF_EASEL.api_version,
        "kind": names.KIND,
        "metadata": {"namespace": "default", "name": name},
        "spec": spec,
    }


async def test_what_cannot_work_is_refused_at_apply_and_what_can_is_not(client: KubernetesClient) -> None:
    """One server, every case: starting it is what takes the time."""
    refusals = {case: await find_refusal(client, spec) for case, (spec, _) in ALL_REFUSED.items()}
    assert {case for case, refusal in refusals.items() if refusal is None} == SAID_BY_THE_OPERATOR
    for refusal in filter(None, refusals.values()):
        # Before it is looked at as a resource.
        by_apply = ("field not declared", "duplicate entries for key", "key field", "expected list")
        assert refusal.status == 422 or any(text in refusal.message for text in by_apply), str(refusal)
    for case, spec in (ACCEPTED | ACCEPTED_OVERLAYS | ACCEPTED_WAYS_IN).items():
        kept = await client.apply(SERVICES_OF_EASEL, build(spec, "accepted"))
        assert kept["metadata"]["uid"], case
        await client.delete(SERVICES_OF_EASEL, "default", "accepted", uid=kept["metadata"]["uid"])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("default", "every namespace has a ServiceAccount default; choose another name"),
        ("a" * 51, "may not be more than 50"),
        ("1st", "metadata.name"),
        ("a.b", "metadata.name"),
    ],
)
async def test_a_name_that_children_cannot_have_is_refused_with_the_reason(
    name: str, sentence: str, client: KubernetesClient
) -> None:
    with pytest.raises(ApiRefusedError, match=sentence):
        await client.apply(SERVICES_OF_EASEL, build({"model": MODEL, "replicas": 1}, name))


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        (
            "a schedule that asks for more workers than there may be",
            "minReplicas of a schedule must not be greater than",
        ),
        ("the time zone localtime", "must be a time zone of the IANA database"),
        ("a Memcached at h:99999", "must be HOST:PORT with a port of 1 to 65535"),
        ("networks with 10.0.0.1/8", "networks such as 10.0.0.0/8 or fd00::/8, without bits beyond"),
        ("a bucket whose address holds a password", "belong in a Secret"),
        ("GPUs that are counted twice", "gpu.count says how many"),
        ("an adapter from a host that nobody allowed", "must be in downloads.allowedHosts, by its name or as"),
        ("image of Easel's container", "worker.image and gateway.image say it"),
        ("variable EASEL_X", "begin with EASEL_"),
        ("label easel.dev/service", "selectors go by them"),
        ("a volume called config", "choose another name"),
        ("tolerations in two places", "keep one of them"),
        ("clients' addresses behind a ClusterIP", "needs type NodePort or LoadBalancer"),
        ("an Ingress for *", "must be a host's name in lower case"),
        ("an adapter that prompts can't name: 'ink:1'", "a name that <lora:NAME:1> can carry"),
    ],
)
async def test_the_sentence_says_what_to_write(case: str, sentence: str, client: KubernetesClient) -> None:
    with pytest.raises(ApiRefusedError, match=sentence):
        await client.apply(SERVICES_OF_EASEL, build(ALL_REFUSED[case][0]))


async def test_a_service_is_the_same_one_under_either_version(client: KubernetesClient) -> None:
    """Written as v1beta1 by a team, read and given a status as v1alpha1 by the operator, edited under both."""
    beta, alpha = (
        Resource(names.KIND, f"{names.API_GROUP}/{version}", names.PLURAL) for version in names.SERVED_API_VERSIONS
    )
    spec = {"model": MODEL, "replicas": 1}
    made = await client.apply(beta, build(spec, "either") | {"apiVersion": beta.api_version})
    try:
        uid = made["metadata"]["uid"]
        assert made["apiVersion"] == beta.api_version
        status = {"status": {"url": "http://either"}}
        await client.merge(alpha, "default", "either", status, subresource="status")
        edited = await client.apply(alpha, build(spec | {"replicas": 2}, "either"))
        assert (edited["metadata"]["uid"], edited["spec"]["replicas"]) == (uid, 2)
        edited = await client.apply(beta, build(spec, "either") | {"apiVersion": beta.api_version})
        assert edited["spec"] == made["spec"]
        assert edited["status"]["url"] == "http://either"
    finally:
        await client.delete(beta, "default", "either", uid=made["metadata"]["uid"])


async def test_a_cluster_can_go_back_to_a_definition_without_the_newer_version(client: KubernetesClient) -> None:
    """As `helm rollback` does: the API server refuses to forget a version that something is stored in."""
    made = await client.apply(SERVICES_OF_EASEL, build({"model": MODEL, "replicas": 1}, "stays"))
    try:
        before = build_crd()
        before["spec"]["versions"] = [each for each in before["spec"]["versions"] if each["name"] == names.API_VERSION]
        await client.apply(CRDS, before)
        await client.apply(CRDS, build_crd())
        kept = await client.get(SERVICES_OF_EASEL, "default", "stays")
        assert kept is not None
        assert kept["metadata"]["uid"] == made["metadata"]["uid"]
    finally:
        await client.delete(SERVICES_OF_EASEL, "default", "stays", uid=made["metadata"]["uid"])
