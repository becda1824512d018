"""The external metrics API over real TLS, as kube-apiserver's aggregator speaks to it."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from easel_contract import metrics, names
from easel_operator.autoscaling import signals
from easel_operator.cluster.external_metrics import GROUP_VERSION, METRIC_NAMES, ExternalMetricsServer, to_quantity
from easel_operator.cluster.serving_certificate import (
    FrontProxy,
    ServingCertificate,
    build_serving_certificate,
    build_tls_context,
)

from tests.operator.metrics_api.support import DNS_NAMES, NOW, Authority, build_authority, build_client_context

QUEUE = signals.QUEUE.metric


class Aggregator:
    """A server under test, its clock, and clients with one certificate or another."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now: datetime = NOW
        self.port = 0  # any at first, and the same one ever after, as the Service asks
        self.authority: Authority = build_authority("front-proxy-ca")
        self.certificate: ServingCertificate = build_serving_certificate(DNS_NAMES, NOW, previous=None)
        self.server = ExternalMetricsServer(stale_after=timedelta(seconds=30), clock=lambda: self.now)

    async def serve(self, *allowed_names: str) -> None:
        front_proxy = FrontProxy(self.authority.pem, frozenset(allowed_names))
        await self.server.serve("127.0.0.1", self.port, build_tls_context(self.certificate, front_proxy), front_proxy)
        self.port = self.server.port

    async def get(
        self, path: str, *, common_name: str | None = "front-proxy-client", authority: Authority | None = None
    ) -> tuple[int, Any]:
        client = (authority or self.authority).issue(common_name, self.directory) if common_name else None
        context = build_client_context(self.certificate.ca_pem, client)
        url = f"https://localhost:{self.port}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, ssl=context, timeout=aiohttp.ClientTimeout(10)) as response,
        ):
            return response.status, await response.json()

    async def get_metric(
        self, metric: str = QUEUE, query: str | None = None, namespace: str = "art"
    ) -> tuple[int, Any]:
        selector = f"{names.LABEL_SERVICE}%3Dpainter" if query is None else query
        path = f"/apis/{GROUP_VERSION}/namespaces/{namespace}/{metric}?labelSelector={selector}"
        return await self.get(path)


@pytest.fixture
async def aggregator(tmp_path: Path) -> AsyncIterator[Aggregator]:
    made = Aggregator(tmp_path)
    await made.serve("front-proxy-client")
    yield made
    await made.server.close()


async def test_a_published_value_is_read_as_the_autoscaler_does(aggregator: Aggregator) -> None:
    aggregator.server.publish("art", "painter", {QUEUE: 4}, NOW)
    status, document = await aggregator.get_metric()
    assert status == 200
    assert document == {
        "kind": "ExternalMetricValueList",
        "apiVersion": "external.metrics.k8s.io/v1beta1",
        "metadata": {},
        "items": [
            {
                "metricName": "easel_replicas_for_queue",
                "metricLabels": {"easel.dev/service": "painter"},
                "timestamp": NOW.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "value": "4",
            }
        ],
    }


async def test_zero_is_a_value(aggregator: Aggregator) -> None:
    aggregator.server.publish("art", "painter", {QUEUE: 0}, NOW)
    assert (await aggregator.get_metric())[1]["items"][0]["value"] == "0"


async def test_stale_data_is_an_error_and_not_a_number(aggregator: Aggregator) -> None:
    aggregator.server.publish("art", "painter", {QUEUE: 4}, NOW)
    aggregator.now = NOW + timedelta(seconds=31)
    status, document = await aggregator.get_metric()
    assert (status, document["kind"], document["reason"]) == (503, "Status", "ServiceUnavailable")
    assert document["message"] == (
        "art/painter: the queue was last read 31 s ago, at most 30 s are believed; "
        "see whether its pods and Redis are up"
    )


async def test_data_is_good_up_to_the_limit(aggregator: Aggregator) -> None:
    aggregator.server.publish("art", "painter", {QUEUE: 4}, NOW)
    aggregator.now = NOW + timedelta(seconds=30)
    assert (await aggregator.get_metric())[0] == 200


NOT_FOUND = {
    "another service": (QUEUE, f"{names.LABEL_SERVICE}%3Dsculptor", "art"),
    "another namespace": (QUEUE, f"{names.LABEL_SERVICE}%3Dpainter", "music"),
    "a metric that isn't known now": (metrics.EXTERNAL_LATENCY_P95_SECONDS, f"{names.LABEL_SERVICE}%3Dpainter", "art"),
    "a metric that doesn't exist": ("queue_length", f"{names.LABEL_SERVICE}%3Dpainter", "art"),
}


@pytest.mark.parametrize(("metric", "query", "namespace"), NOT_FOUND.values(), ids=NOT_FOUND.keys())
async def test_what_is_unknown_is_not_found(aggregator: Aggregator, metric: str, query: str, namespace: str) -> None:
    aggregator.server.publish("art", "painter", {QUEUE: 4}, NOW)
    status, document = await aggregator.get_metric(metric, query, namespace)
    assert (status, document["kind"], document["status"], document["code"]) == (404, "Status", "Failure", 404)


async def test_a_forgotten_service_is_not_found(aggregator: Aggregator) -> None:
    aggregator.server.publish("art", "painter", {QUEUE: 4}, NOW)
    aggregator.server.forget("art", "painter")
    aggregator.server.forget("art", "painter")
    assert (await aggregator.get_metric())[0] == 404


async def test_a_wide_selector_lists_each_service(aggregator: Aggregator) -> None:
    for service in ("painter", "sculptor"):
        aggregator.server.publish("art", service, {QUEUE: 1}, NOW)
    status, document = await aggregator.get_metric(query=f"{names.LABEL_SERVICE}%20in%20(painter,sculptor)")
    assert status == 200
    assert [item["metricLabels"][names.LABEL_SERVICE] for item in document["items"]] == ["painter", "sculptor"]
    assert len((await aggregator.get_metric(query=""))[1]["items"]) == 2


async def test_a_broken_selector_is_quoted(aggregator: Aggregator) -> None:
    status, document = await aggregator.get_metric(query="a%3D%3D%3Db")
    assert (status, document["reason"]) == (400, "BadRequest")
    assert "'a===b'" in document["message"]


async def test_discovery_lists_every_metric(aggregator: Aggregator) -> None:
    status, document = await aggregator.get(f"/apis/{GROUP_VERSION}")
    assert (status, document["kind"], document["groupVersion"]) == (200, "APIResourceList", GROUP_VERSION)
    assert [resource["name"] for resource in document["resources"]] == list(METRIC_NAMES)
    assert all(resource["namespaced"] and resource["verbs"] == ["get"] for resource in document["resources"])


async def test_discovery_of_the_group(aggregator: Aggregator) -> None:
    version = {"groupVersion": GROUP_VERSION, "version": "v1beta1"}
    group = {"name": "external.metrics.k8s.io", "versions": [version], "preferredVersion": version}
    assert await aggregator.get("/apis") == (200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]})
    assert await aggregator.get("/apis/external.metrics.k8s.io") == (
        200,
        {"kind": "APIGroup", "apiVersion": "v1", **group},
    )


async def test_other_paths_are_a_status_too(aggregator: Aggregator) -> None:
    status, document = await aggregator.get("/openapi/v2")
    assert (status, document["kind"], document["reason"]) == (404, "Status", "NotFound")


async def test_without_a_client_certificate_nothing_is_reported(aggregator: Aggregator) -> None:
    aggregator.server.publish("art", "painter", {QUEUE: 4}, NOW)
    for path in ("/apis", f"/apis/{GROUP_VERSION}/namespaces/art/{QUEUE}", "/nowhere"):
        status, document = await aggregator.get(path, common_name=None)
        assert (status, document["reason"]) == (401, "Unauthorized")


async def test_a_name_that_is_not_allowed_is_forbidden(aggregator: Aggregator) -> None:
    status, document = await aggregator.get(f"/apis/{GROUP_VERSION}", common_name="mallory")
    assert (status, document["reason"]) == (403, "Forbidden")
    assert document["message"] == "client certificate for ['mallory'], expected one for ['front-proxy-client']"


async def test_a_certificate_of_another_authority_is_refused(aggregator: Aggregator) -> None:
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await aggregator.get(f"/apis/{GROUP_VERSION}", authority=build_authority("front-proxy-ca"))


async def test_without_allowed_names_any_name_of_the_authority_will_do(aggregator: Aggregator) -> None:
    await aggregator.serve()
    assert (await aggregator.get(f"/apis/{GROUP_VERSION}", common_name="anyone"))[0] == 200


async def test_a_rotated_front_proxy_and_a_renewed_certificate_take_over_without_losing_values(
    aggregator: Aggregator,
) -> None:
    aggregator.server.publish("art", "painter", {QUEUE: 4}, NOW)
    before = aggregator.authority
    aggregator.authority = build_authority("next-front-proxy-ca")
    aggregator.certificate = build_serving_certificate(DNS_NAMES, NOW, previous=aggregator.certificate)
    await aggregator.serve("front-proxy-client")
    assert (await aggregator.get_metric())[0] == 200
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await aggregator.get(f"/apis/{GROUP_VERSION}", authority=before)


def test_a_value_that_is_no_number_is_a_bug() -> None:
    server = ExternalMetricsServer(stale_after=timedelta(seconds=30), clock=lambda: NOW)
    with pytest.raises(ValueError, match=r"art/painter: easel_replicas_for_queue is nan"):
        server.publish("art", "painter", {QUEUE: float("nan")}, NOW)


QUANTITIES = {4: "4", 0: "0", 12.5: "12500m", 0.0004: "1m", 30.1: "30100m", 1000: "1000", 1e-9: "1m"}


@pytest.mark.parametrize(("value", "expected"), QUANTITIES.items())
def test_quantities(value: float, expected: str) -> None:
    assert to_quantity(value) == expected
