"""The certificate's life: made once, shared by replicas, renewed in time, remade when it can't be used."""

import json
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from easel_operator.cluster.serving_certificate import (
    CA_LIFE,
    CERTIFICATE_LIFE,
    FrontProxy,
    ServingCertificate,
    build_dns_names,
    build_serving_certificate,
    ensure,
    parse_front_proxy,
)

from tests.operator.metrics_api.support import NOW, build_authority

DNS_NAMES = build_dns_names("easel-operator", "easel-system")


class MemoryStore:
    """A Secret in memory; ``rivals`` are stored by another replica between our reading and our writing."""

    def __init__(
        self, stored: ServingCertificate | None = None, rivals: list[ServingCertificate] | None = None
    ) -> None:
        self.stored = stored
        self.rivals = rivals or []
        self.writes = 0

    async def read(self) -> ServingCertificate | None:
        return self.stored

    async def replace(self, certificate: ServingCertificate) -> bool:
        self.writes += 1
        if self.rivals:
            self.stored = self.rivals.pop(0)
            return False
        self.stored = certificate
        return True


def build(now: datetime = NOW) -> ServingCertificate:
    return build_serving_certificate(DNS_NAMES, now, previous=None)


async def test_the_first_one_is_made_and_then_kept() -> None:
    store = MemoryStore()
    first = await ensure(store, DNS_NAMES, NOW)
    assert await ensure(store, DNS_NAMES, NOW + timedelta(days=59)) == first
    assert store.writes == 1


async def test_a_renewed_one_is_signed_by_the_same_authority() -> None:
    first = build()
    renewed = await ensure(MemoryStore(first), DNS_NAMES, NOW + CERTIFICATE_LIFE * 0.7)
    assert renewed.certificate_pem != first.certificate_pem
    assert renewed.ca_pem == first.ca_pem
    ca = x509.load_pem_x509_certificate(first.ca_pem)
    x509.load_pem_x509_certificate(renewed.certificate_pem).verify_directly_issued_by(ca)


async def test_an_authority_near_its_end_is_replaced_with_it() -> None:
    later = NOW + CA_LIFE * 0.7
    young, old = build(later), build(NOW)
    aged = ServingCertificate(young.certificate_pem, young.key_pem, old.ca_pem, old.ca_key_pem)
    assert (await ensure(MemoryStore(aged), DNS_NAMES, later)).ca_pem != aged.ca_pem


async def test_other_names_ask_for_another_certificate() -> None:
    names = build_dns_names("easel-operator", "elsewhere")
    renewed = await ensure(MemoryStore(build()), names, NOW)
    assert not renewed.is_due_for_renewal(names, NOW)


async def test_the_faster_replica_wins() -> None:
    rival = build()
    store = MemoryStore(rivals=[rival])
    assert await ensure(store, DNS_NAMES, NOW) == rival
    assert store.writes == 1


async def test_endless_rivalry_is_reported() -> None:
    rivals = [build_serving_certificate(("other.svc",), NOW, previous=None) for _ in range(3)]
    with pytest.raises(RuntimeError, match="second installation"):
        await ensure(MemoryStore(rivals=rivals), DNS_NAMES, NOW)


def test_a_secret_holds_it_all() -> None:
    certificate = build()
    assert ServingCertificate.from_secret_data(certificate.to_secret_data()) == certificate


@pytest.mark.parametrize("key", ["tls.crt", "tls.key", "ca.crt", "ca.key"])
@pytest.mark.parametrize("broken", [None, "!", "bm90IGEgY2VydGlmaWNhdGU="])
def test_a_broken_secret_says_what_to_do(key: str, broken: str | None) -> None:
    data = build().to_secret_data()
    if broken is None:
        del data[key]
    else:
        data[key] = broken
    with pytest.raises(ValueError, match="delete it"):
        ServingCertificate.from_secret_data(data)


@pytest.mark.parametrize("swapped", ["tls.key", "ca.key"])
def test_a_key_of_another_pair_is_as_good_as_none(swapped: str) -> None:
    data = build().to_secret_data() | {swapped: build().to_secret_data()[swapped]}
    with pytest.raises(ValueError, match="belongs to another key"):
        ServingCertificate.from_secret_data(data)


async def test_a_certificate_that_names_nobody_is_replaced() -> None:
    made = build()
    nameless = ServingCertificate(made.ca_pem, made.ca_key_pem, made.ca_pem, made.ca_key_pem)
    stored = ServingCertificate.from_secret_data(nameless.to_secret_data())
    assert not (await ensure(MemoryStore(stored), DNS_NAMES, NOW)).is_due_for_renewal(DNS_NAMES, NOW)


def test_the_certificate_names_the_service_as_the_aggregator_calls_it() -> None:
    certificate = x509.load_pem_x509_certificate(build().certificate_pem)
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert "easel-operator.easel-system.svc" in extension.value.get_values_for_type(x509.DNSName)


def test_the_front_proxy_is_read_from_the_config_map() -> None:
    pem = build_authority("front-proxy-ca").pem
    data = {"requestheader-client-ca-file": pem, "requestheader-allowed-names": json.dumps(["front-proxy-client"])}
    assert parse_front_proxy(data) == FrontProxy(pem, frozenset({"front-proxy-client"}))
    assert parse_front_proxy({"requestheader-client-ca-file": pem}).allowed_names == frozenset()


@pytest.mark.parametrize("names", ["5", "{}", "[1]", "[["])
def test_allowed_names_that_are_no_list_of_names_are_refused_in_words(names: str) -> None:
    pem = build_authority("front-proxy-ca").pem
    with pytest.raises(ValueError, match="requestheader-allowed-names is not a JSON list"):
        parse_front_proxy({"requestheader-client-ca-file": pem, "requestheader-allowed-names": names})


def test_a_cluster_without_front_proxy_says_what_to_do() -> None:
    with pytest.raises(ValueError, match="--requestheader-client-ca-file"):
        parse_front_proxy({"client-ca-file": "…"})
