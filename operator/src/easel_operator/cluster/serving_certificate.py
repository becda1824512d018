"""The certificate that the external metrics API serves, and whom it trusts: kube-apiserver's front proxy."""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class ServingCertificate:
    """A certificate for our Service, and the CA that signed it; all PEM."""

    certificate_pem: bytes
    key_pem: bytes
    ca_pem: bytes  # the APIService's caBundle
    ca_key_pem: bytes  # signs the next certificate, so that a renewal leaves the caBundle alone

    def is_due_for_renewal(self, dns_names: Sequence[str], now: datetime) -> bool:
        """Whether a third of its life or less is left, or it isn't for these names."""
        raise NotImplementedError

    def to_secret_data(self) -> dict[str, str]:
        """``data`` of a Secret of type kubernetes.io/tls (base64)."""
        raise NotImplementedError

    @classmethod
    def from_secret_data(cls, data: Mapping[str, str]) -> Self:
        """Read a Secret's ``data``. Raises ValueError that names a missing or unreadable key."""
        raise NotImplementedError


class CertificateStore(Protocol):
    """Where the certificate is kept, shared by the replicas of the operator (a Secret)."""

    async def read(self) -> ServingCertificate | None:
        """The stored certificate; None if there is none or it can't be parsed."""

    async def replace(self, certificate: ServingCertificate) -> bool:
        """Store it over what read() last gave (by resourceVersion); False if another replica was faster."""


@dataclass(frozen=True, slots=True)
class FrontProxy:
    """Whose client certificates are believed."""

    ca_pem: str
    allowed_names: frozenset[str]  # common names; empty: any that the CA signed


def build_dns_names(service: str, namespace: str) -> tuple[str, ...]:
    """The names under which kube-apiserver and others reach a Service."""
    raise NotImplementedError


async def ensure(store: CertificateStore, dns_names: Sequence[str], now: datetime) -> ServingCertificate:
    """The stored certificate, made or renewed if it is due. Raises RuntimeError if the store refuses repeatedly."""
    raise NotImplementedError


def parse_front_proxy(data: Mapping[str, str]) -> FrontProxy:
    """Read ConfigMap kube-system/extension-apiserver-authentication. Raises ValueError if it has no front-proxy CA."""
    raise NotImplementedError


def build_tls_context(serving: ServingCertificate, front_proxy: FrontProxy) -> ssl.SSLContext:
    """TLS for ExternalMetricsServer.serve: our certificate, and client certificates checked by the front proxy's CA."""
    raise NotImplementedError
