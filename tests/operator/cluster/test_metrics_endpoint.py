"""The certificate's Secret, and the APIService that only its owner's operator may touch."""

from datetime import UTC, datetime

import pytest
from easel_operator.cluster.capabilities import Installation, explain_foreign_api, probe_capabilities
from easel_operator.cluster.client import ApiRefusedError
from easel_operator.cluster.metrics_endpoint import SecretCertificateStore
from easel_operator.cluster.serving_certificate import ensure
from easel_operator.objects import Json

from tests.operator.fake_api import FakeApi

API_SERVICE = "/apis/apiregistration.k8s.io/v1/apiservices/v1beta1.external.metrics.k8s.io"
SECRET = "/api/v1/namespaces/easel/secrets/easel-metrics-tls"
NOW = datetime(2026, 11, 23, tzinfo=UTC)
NAMES = ("easel-metrics.easel.svc",)
INSTALLATION = Installation("easel", "easel-metrics", is_api_wanted=True)


def served_by(namespace: str, name: str) -> Json:
    """An APIService behind this Service."""
    return {
        "metadata": {"name": "v1beta1.external.metrics.k8s.io"},
        "spec": {"service": {"namespace": namespace, "name": name}},
    }


async def test_replicas_share_one_certificate() -> None:
    api = FakeApi()
    first, second = (SecretCertificateStore(api, namespace="easel", service="easel-metrics") for _ in range(2))
    assert await ensure(first, NAMES, NOW) == await ensure(second, NAMES, NOW)
    assert len(api.writes) == 1


async def test_of_two_replicas_that_make_one_at_once_the_slower_takes_the_faster_s() -> None:
    api = FakeApi()
    first, second = (SecretCertificateStore(api, namespace="easel", service="easel-metrics") for _ in range(2))
    assert await second.read() is None
    made = await ensure(first, NAMES, NOW)
    assert not await second.replace(made), "created meanwhile"
    assert await ensure(second, NAMES, NOW) == made


async def test_the_certificate_s_key_goes_with_the_service_that_it_is_for() -> None:
    api = FakeApi()
    service = api.store("/api/v1/namespaces/easel/services/easel-metrics", {"metadata": {"name": "easel-metrics"}})
    await ensure(SecretCertificateStore(api, namespace="easel", service="easel-metrics"), NAMES, NOW)
    (owner,) = api.objects[SECRET]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Service", service["metadata"]["uid"])


async def test_a_secret_that_can_t_be_read_is_made_anew() -> None:
    api = FakeApi()
    api.store(SECRET, {"metadata": {"name": "easel-metrics-tls"}, "data": {"tls.crt": "bm9uc2Vuc2U="}})
    store = SecretCertificateStore(api, namespace="easel", service="easel-metrics")
    made = await ensure(store, NAMES, NOW)
    assert await store.read() == made


@pytest.mark.parametrize(
    ("api_service", "part"),
    [
        (None, "isn't registered yet"),
        (served_by("keda", "keda-operator-metrics-apiserver"), "served by keda/keda-operator-metrics-apiserver"),
        (served_by("easel", "easel-metrics"), ""),
    ],
)
def test_whose_the_metrics_api_is(api_service: Json | None, part: str) -> None:
    note = explain_foreign_api(api_service, INSTALLATION)
    assert part in note
    assert bool(note) == bool(part)


async def test_an_api_server_that_refuses_zero_replicas_is_noticed() -> None:
    api = FakeApi()
    api.store(API_SERVICE, served_by("easel", "easel-metrics"))
    probed: list[str] = []

    def refuse_the_second(method: str, path: str) -> Exception | None:
        if path.endswith("horizontalpodautoscalers"):
            probed.append(path)
            if len(probed) == 2:
                return ApiRefusedError(method, path, 422, "Invalid", "minReplicas: must be greater than or equal to 1")
        return None

    api.fault = refuse_the_second
    capabilities = await probe_capabilities(api, INSTALLATION)
    assert capabilities.is_metrics_api_ours
    assert capabilities.is_tolerance_supported
    assert not capabilities.is_scale_to_zero_supported
