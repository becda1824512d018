"""A certificate that cert-manager makes: served, changed without a restart, and not taken where it can't be used."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
from easel_operator.cluster.capabilities import Installation
from easel_operator.cluster.external_metrics import ExternalMetricsServer
from easel_operator.cluster.metrics_endpoint import MetricsEndpoint
from easel_operator.cluster.serving_certificate import ServingCertificate, build_dns_names, build_serving_certificate

from tests.operator.fake_api import FakeApi
from tests.operator.metrics_api.support import NOW, build_authority, build_client_context
from tests.support.redis_server import find_free_port

SECRET = "/api/v1/namespaces/easel/secrets/easel-metrics-certificate"
FRONT_PROXY = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
NAMES = build_dns_names("easel-metrics", "easel")
INSTALLATION = Installation(
    "easel", "easel-metrics", is_api_wanted=True, certificate_secret="easel-metrics-certificate"
)


def issue(
    previous: ServingCertificate | None = None, names: tuple[str, ...] = NAMES, at: datetime = NOW
) -> ServingCertificate:
    return build_serving_certificate(names, at, previous=previous)


def publish(api: FakeApi, made: ServingCertificate, *, left_out: str = "ca.key") -> None:
    """As cert-manager stores it, which keeps the authority's key elsewhere."""
    data = {key: value for key, value in made.to_secret_data().items() if key not in {"ca.key", left_out}}
    api.store(SECRET, {"metadata": {"name": "easel-metrics-certificate"}, "data": data})


@pytest.fixture
def api() -> FakeApi:
    made = FakeApi()
    data = {"requestheader-client-ca-file": build_authority("front-proxy-ca").pem}
    made.store(FRONT_PROXY, {"metadata": {"name": "extension-apiserver-authentication"}, "data": data})
    return made


@pytest.fixture
async def server() -> AsyncIterator[ExternalMetricsServer]:
    made = ExternalMetricsServer(stale_after=timedelta(seconds=30), clock=lambda: NOW)
    yield made
    await made.close()


def build_endpoint(api: FakeApi, server: ExternalMetricsServer) -> MetricsEndpoint:
    return MetricsEndpoint(api, server, installation=INSTALLATION, port=find_free_port(), clock=lambda: NOW)


async def read_served(server: ExternalMetricsServer, trusted: ServingCertificate) -> str:
    """The certificate that a client is shown; its authority and its name are checked as kube-apiserver does."""
    context = build_client_context(trusted.ca_pem)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    _, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context, server_hostname=NAMES[0])
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    return ssl.DER_cert_to_PEM_cert(der)


async def test_a_renewed_certificate_is_served_without_a_restart(api: FakeApi, server: ExternalMetricsServer) -> None:
    endpoint = build_endpoint(api, server)
    first = issue(at=datetime.now(NOW.tzinfo))
    publish(api, first)
    await endpoint.refresh()
    assert await read_served(server, first) == first.certificate_pem.decode()
    second = issue(first, at=datetime.now(NOW.tzinfo))
    publish(api, second)
    await endpoint.refresh()
    assert await read_served(server, first) == second.certificate_pem.decode(), "by the same authority"
    assert all("secrets" not in write[1] for write in api.writes), "the Secret is another's"


async def test_what_can_not_be_served_is_said_and_what_is_served_stays(
    api: FakeApi, server: ExternalMetricsServer
) -> None:
    endpoint = build_endpoint(api, server)
    first = issue(at=datetime.now(NOW.tzinfo))
    publish(api, first)
    await endpoint.refresh()
    cases = (
        (issue(names=("other.easel.svc",)), "ca.key", "not for easel-metrics.easel.svc"),
        (issue(at=NOW - timedelta(days=400)), "ca.key", "it ended on"),
        (issue(), "ca.crt", "no readable ca.crt"),
        (ServingCertificate(issue().certificate_pem, issue().key_pem, issue().ca_pem, b""), "", "another key"),
    )
    for made, left_out, said in cases:
        publish(api, made, left_out=left_out)
        with pytest.raises(ValueError, match=f"Secret easel/easel-metrics-certificate can't be served: .*{said}"):
            await endpoint.refresh()
        assert endpoint.is_serving
        assert await read_served(server, first) == first.certificate_pem.decode()


async def test_until_it_is_made_the_operator_says_what_it_waits_for(
    api: FakeApi, server: ExternalMetricsServer
) -> None:
    endpoint = build_endpoint(api, server)
    with pytest.raises(ValueError, match="easel-metrics-certificate isn't there yet: see why cert-manager"):
        await endpoint.refresh()
    assert not endpoint.is_serving
    assert api.writes == [], "and makes none of its own, which would be registered"
