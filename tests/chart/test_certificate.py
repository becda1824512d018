"""cert-manager's objects, as an option: what is rendered, and whether cert-manager's own schemas take it."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import yaml
from easel_operator.cluster.client import ApiRefusedError, KubernetesClient
from easel_operator.cluster.serving_certificate import build_dns_names
from easel_operator.objects import Json, Resource
from kubernetes.aio.client import Configuration

from tests.chart.test_chart import helm, objects, of_kind, render
from tests.chart.test_platform_values import read_config
from tests.support.api_server import ApiServers
from tests.support.eventually import eventually
from tests.support.go_module import fetch_module

__all__ = ["helm"]  # the fixture

pytestmark = pytest.mark.cluster  # helm comes with the embedded cluster's binary

CRDS = Resource("CustomResourceDefinition", "apiextensions.k8s.io/v1", "customresourcedefinitions")
KINDS = {"Certificate": "certificates", "Issuer": "issuers"}
ON = "certManager.enabled=true"
THEIRS = ("certManager.issuerRef.name=company", "certManager.issuerRef.kind=ClusterIssuer", "certManager.duration=720h")


def list_issued(rendered: list[Json]) -> list[Json]:
    return [each for each in rendered if each["kind"] in KINDS]


def test_without_it_the_operator_makes_its_certificate_itself(helm: str) -> None:
    rendered = objects(helm)
    assert list_issued(rendered) == []
    assert read_config(rendered).metrics_certificate_secret == ""
    assert list_issued(objects(helm, "certManager=null")) == [], "values of a chart before"


def test_the_certificate_is_for_the_service_and_lands_where_the_operator_reads(helm: str) -> None:
    rendered = objects(helm, ON)
    config = read_config(rendered)
    certificate = next(each for each in of_kind(rendered, "Certificate") if "dnsNames" in each["spec"])
    assert certificate["spec"]["secretName"] == config.metrics_certificate_secret
    assert tuple(certificate["spec"]["dnsNames"]) == build_dns_names(config.metrics_service, "easel-system")


def test_an_issuer_of_ones_own_takes_the_place_of_the_charts_authority(helm: str) -> None:
    (certificate,) = list_issued(objects(helm, ON, *THEIRS))
    assert certificate["spec"]["issuerRef"] == {"name": "company", "kind": "ClusterIssuer"}
    assert certificate["spec"]["duration"] == "720h"
    refused = render(helm, ON, "certManager.issuerRef.kind=ClusterIssuer")
    assert refused.returncode != 0
    assert "certManager.issuerRef has no name" in refused.stderr


@pytest.fixture(scope="module")
def api_server() -> Iterator[Configuration]:
    with ApiServers() as servers:
        yield servers.start("1.36")


@pytest.fixture
async def client(api_server: Configuration) -> AsyncIterator[KubernetesClient]:
    made = KubernetesClient(api_server)
    yield made
    await made.close()


async def test_cert_managers_own_schemas_take_what_is_rendered(helm: str, client: KubernetesClient) -> None:
    folder = fetch_module("github.com/cert-manager/cert-manager", "v1.19.1") / "deploy/crds"
    for plural in KINDS.values():
        crd: dict[str, Any] = yaml.safe_load((folder / f"cert-manager.io_{plural}.yaml").read_text())
        await client.apply(CRDS, crd)
    for rendered in (objects(helm, ON), objects(helm, ON, *THEIRS)):
        for body in list_issued(rendered):
            resource = Resource(body["kind"], body["apiVersion"], KINDS[body["kind"]])
            body["metadata"].pop("namespace")

            async def is_taken(resource: Resource = resource, body: Json = body) -> bool:
                query = {"dryRun": "All", "fieldValidation": "Strict"}
                try:
                    await client.request("POST", resource.path("default"), query=query, body=body)
                except ApiRefusedError as error:
                    if error.status == 404:  # the kind isn't served yet
                        return False
                    raise
                return True

            await eventually(is_taken)
