"""The certificate that the external metrics API serves, and whom it trusts: kube-apiserver's front proxy.

A CA of our own signs the certificate, as the APIService's caBundle asks for one. Its key is kept beside it, so that a
renewed certificate needs no new caBundle. All of it trusts nothing but this one Service.
https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/
"""

import base64
import binascii
import json
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LIFE: Final = timedelta(days=3650)
CERTIFICATE_LIFE: Final = timedelta(days=90)
CLOCK_SKEW: Final = timedelta(minutes=5)  # between us and kube-apiserver
RENEWAL_SHARE: Final = 1 / 3  # of its life that is left when a certificate is renewed
MAX_ATTEMPTS: Final = 3

CA_COMMON_NAME: Final = "easel-external-metrics-ca"
CERTIFICATE_KEY: Final = "tls.crt"
PRIVATE_KEY_KEY: Final = "tls.key"
CA_KEY: Final = "ca.crt"
CA_PRIVATE_KEY_KEY: Final = "ca.key"

FRONT_PROXY_CA_KEY: Final = "requestheader-client-ca-file"
ALLOWED_NAMES_KEY: Final = "requestheader-allowed-names"


@dataclass(frozen=True, slots=True)
class ServingCertificate:
    """A certificate for our Service, and the CA that signed it; all PEM."""

    certificate_pem: bytes
    key_pem: bytes
    ca_pem: bytes  # the APIService's caBundle
    # Signs the next certificate, so that a renewal leaves the caBundle alone; empty: it isn't ours to sign.
    ca_key_pem: bytes

    @property
    def ends_at(self) -> datetime:
        """When clients stop to believe it."""
        return x509.load_pem_x509_certificate(self.certificate_pem).not_valid_after_utc

    def is_due_for_renewal(self, dns_names: Sequence[str], now: datetime) -> bool:
        """Whether a third of its life or less is left, or it isn't for these names."""
        certificate = x509.load_pem_x509_certificate(self.certificate_pem)
        if _read_dns_names(certificate) != set(dns_names):
            return True
        return _is_old(certificate, now) or self.is_ca_due_for_renewal(now)

    def is_ca_due_for_renewal(self, now: datetime) -> bool:
        """Whether a third of the CA's life or less is left: the next certificate then comes with a new CA."""
        return _is_old(x509.load_pem_x509_certificate(self.ca_pem), now)

    def to_secret_data(self) -> dict[str, str]:
        """``data`` of a Secret of type kubernetes.io/tls (base64)."""
        return {
            CERTIFICATE_KEY: base64.b64encode(self.certificate_pem).decode(),
            PRIVATE_KEY_KEY: base64.b64encode(self.key_pem).decode(),
            CA_KEY: base64.b64encode(self.ca_pem).decode(),
            CA_PRIVATE_KEY_KEY: base64.b64encode(self.ca_key_pem).decode(),
        }

    @classmethod
    def from_secret_data(cls, data: Mapping[str, str]) -> Self:
        """Read a Secret's ``data``. Raises ValueError that names what is missing, unreadable or of another pair."""
        certificate, key, ca, ca_key = (
            _decode(data, name) for name in (CERTIFICATE_KEY, PRIVATE_KEY_KEY, CA_KEY, CA_PRIVATE_KEY_KEY)
        )
        try:
            for name, certificate_pem, key_pem in ((CERTIFICATE_KEY, certificate, key), (CA_KEY, ca, ca_key)):
                loaded = x509.load_pem_x509_certificate(certificate_pem)
                _read_dns_names(loaded)
                if loaded.public_key() != _load_key(key_pem).public_key():
                    raise ValueError(f"{name} belongs to another key")
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
            raise ValueError(f"the serving certificate's Secret is unreadable ({error}); delete it") from error
        return cls(certificate, key, ca, ca_key)


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
    """The names under which kube-apiserver (the first one) and others reach a Service."""
    return f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local", f"{service}.{namespace}"


async def ensure(store: CertificateStore, dns_names: Sequence[str], now: datetime) -> ServingCertificate:
    """The stored certificate, made or renewed if it is due. Raises RuntimeError if the store refuses repeatedly."""
    for _ in range(MAX_ATTEMPTS):
        stored = await store.read()
        if stored is not None and not stored.is_due_for_renewal(dns_names, now):
            return stored
        fresh = build_serving_certificate(dns_names, now, previous=stored)
        if await store.replace(fresh):
            return fresh
    raise RuntimeError(
        f"the serving certificate for {dns_names[0]} could not be stored: another writer was faster "
        f"{MAX_ATTEMPTS} times; look for a second installation that writes the same Secret"
    )


def read_issued(secret: str, data: Mapping[str, str], dns_names: Sequence[str], now: datetime) -> ServingCertificate:
    """A certificate that another makes and renews, such as cert-manager, from a Secret's ``data``.

    Raises ValueError that names the Secret where it has no authority, is of another pair, for other names, or expired:
    kube-apiserver would refuse it, and what is served already is better.
    """
    try:
        certificate_pem, key_pem, ca_pem = (_decode(data, name) for name in (CERTIFICATE_KEY, PRIVATE_KEY_KEY, CA_KEY))
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        x509.load_pem_x509_certificates(ca_pem)
        if certificate.public_key() != serialization.load_pem_private_key(key_pem, password=None).public_key():
            raise ValueError(f"{CERTIFICATE_KEY} belongs to another key")
        if dns_names[0] not in _read_dns_names(certificate):
            raise ValueError(f"it is for {sorted(_read_dns_names(certificate))}, not for {dns_names[0]}")
        if certificate.not_valid_after_utc <= now:
            raise ValueError(f"it ended on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        reason = str(error).removesuffix("; delete it")
        raise ValueError(f"the certificate in {secret} can't be served: {reason}; look at its Certificate") from error
    return ServingCertificate(certificate_pem, key_pem, ca_pem, b"")


def build_serving_certificate(
    dns_names: Sequence[str], now: datetime, *, previous: ServingCertificate | None
) -> ServingCertificate:
    """A fresh certificate, signed by the previous CA while that lasts, else by a fresh CA."""
    if previous is None or previous.is_ca_due_for_renewal(now):
        ca_key, ca = _build_ca(now)
    else:
        ca_key, ca = _load_key(previous.ca_key_pem), x509.load_pem_x509_certificate(previous.ca_pem)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        _begin_certificate(dns_names[0], ca.subject, key, now, CERTIFICATE_LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in dns_names]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return ServingCertificate(_to_pem(certificate), _to_key_pem(key), _to_pem(ca), _to_key_pem(ca_key))


def parse_front_proxy(data: Mapping[str, str]) -> FrontProxy:
    """Read ConfigMap kube-system/extension-apiserver-authentication. Raises ValueError if it has no front-proxy CA."""
    ca_pem = data.get(FRONT_PROXY_CA_KEY, "")
    if "BEGIN CERTIFICATE" not in ca_pem:
        raise ValueError(
            f"ConfigMap kube-system/extension-apiserver-authentication has no certificate under {FRONT_PROXY_CA_KEY}: "
            "start kube-apiserver with --requestheader-client-ca-file, or scale without external metrics"
        )
    try:
        allowed = json.loads(data.get(ALLOWED_NAMES_KEY) or "[]")
    except json.JSONDecodeError as error:
        raise ValueError(f"{ALLOWED_NAMES_KEY} is not a JSON list: {data[ALLOWED_NAMES_KEY]!r}") from error
    if not isinstance(allowed, list) or not all(isinstance(name, str) for name in allowed):
        raise ValueError(f"{ALLOWED_NAMES_KEY} is not a JSON list of names: {data[ALLOWED_NAMES_KEY]!r}")
    return FrontProxy(ca_pem, frozenset(allowed))


def build_tls_context(serving: ServingCertificate, front_proxy: FrontProxy) -> ssl.SSLContext:
    """TLS for ExternalMetricsServer.serve: our certificate, and client certificates checked by the front proxy's CA.

    A client without a certificate gets through the handshake, so that it can learn why it is refused. Needs a
    writable temporary directory: ssl reads key pairs from files only; the file is gone when this returns.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=front_proxy.ca_pem)
    with tempfile.TemporaryDirectory() as directory:  # mode 0700
        path = Path(directory, "serving.pem")
        path.write_bytes(serving.certificate_pem + serving.key_pem)
        context.load_cert_chain(path)
    return context


def _build_ca(now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(CA_COMMON_NAME)
    certificate = (
        _begin_certificate(CA_COMMON_NAME, name, key, now, CA_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                key_cert_sign=True,
                crl_sign=True,
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _begin_certificate(
    common_name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(common_name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + life)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _read_dns_names(certificate: x509.Certificate) -> set[str]:
    """The names that it is for; none if it doesn't say."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return set()
    return set(extension.value.get_values_for_type(x509.DNSName))


def _is_old(certificate: x509.Certificate, now: datetime) -> bool:
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return certificate.not_valid_after_utc - now <= life * RENEWAL_SHARE


def _to_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _to_key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"expected an elliptic curve key, found {type(key).__name__}")
    return key


def _decode(data: Mapping[str, str], key: str) -> bytes:
    try:
        return base64.b64decode(data[key], validate=True)
    except (KeyError, binascii.Error) as error:
        raise ValueError(f"the serving certificate's Secret has no readable {key}; delete it") from error
