"""Keeps the external metrics API served: certificate in a Secret, CA in the APIService, trust up to date."""

import base64
import logging
from collections.abc import Callable
from datetime import datetime
from http import HTTPStatus
from typing import Final

from easel_operator.cluster.capabilities import METRICS_API_SERVICE, explain_foreign_api
from easel_operator.cluster.client import ApiRefusedError, KubernetesClient
from easel_operator.cluster.external_metrics import ExternalMetricsServer
from easel_operator.cluster.serving_certificate import (
    FrontProxy,
    ServingCertificate,
    build_dns_names,
    build_tls_context,
    ensure,
    parse_front_proxy,
)
from easel_operator.objects import API_SERVICES, CONFIG_MAPS, SECRETS, Json

logger = logging.getLogger(__name__)

FRONT_PROXY_NAMESPACE: Final = "kube-system"
FRONT_PROXY_CONFIG_MAP: Final = "extension-apiserver-authentication"
ANY_ADDRESS: Final = ""  # every address, of IPv6 and IPv4 where the machine has them


class SecretCertificateStore:
    """CertificateStore in a Secret of the operator's namespace, shared by its replicas."""

    def __init__(self, client: KubernetesClient, *, namespace: str, name: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._version: str | None = None

    async def read(self) -> ServingCertificate | None:
        """The stored certificate; None if there is none or it can't be parsed."""
        secret = await self._client.get(SECRETS, self._namespace, self._name)
        self._version = secret["metadata"]["resourceVersion"] if secret is not None else None
        if secret is None:
            return None
        try:
            return ServingCertificate.from_secret_data(secret.get("data") or {})
        except ValueError as error:
            logger.warning("Secret %s/%s is made anew: %s", self._namespace, self._name, error)
            return None

    async def replace(self, certificate: ServingCertificate) -> bool:
        """Store it over what read() last gave; False if another replica was faster."""
        metadata: Json = {"namespace": self._namespace, "name": self._name}
        body: Json = {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata}
        body["data"] = certificate.to_secret_data()
        try:
            if self._version is None:
                await self._client.request("POST", SECRETS.path(self._namespace), body=body)
            else:
                metadata["resourceVersion"] = self._version
                await self._client.request("PUT", SECRETS.path(self._namespace, self._name), body=body)
        except ApiRefusedError as error:
            if error.status == HTTPStatus.CONFLICT:
                return False
            raise
        return True


class MetricsEndpoint:
    """The server and what it needs from the cluster."""

    def __init__(
        self,
        client: KubernetesClient,
        server: ExternalMetricsServer,
        *,
        namespace: str,
        service: str,
        port: int,
        clock: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._server = server
        self._namespace = namespace
        self._service = service
        self._port = port
        self._clock = clock
        self._store = SecretCertificateStore(client, namespace=namespace, name=f"{service}-tls")
        self._serving: tuple[ServingCertificate, FrontProxy] | None = None

    @property
    def is_serving(self) -> bool:
        """Whether the API answers."""
        return self._serving is not None

    async def refresh(self) -> None:
        """Serve with a valid certificate and the current trust; call it now and then.

        Raises:
            KubernetesError: the API server doesn't answer, or refuses.
            ValueError: the cluster has no aggregation layer to trust.
            RuntimeError: another installation writes the same Secret.
            OSError: the port is taken, or the certificate or the CA can't be used for TLS.
        """
        config_map = await self._client.get(CONFIG_MAPS, FRONT_PROXY_NAMESPACE, FRONT_PROXY_CONFIG_MAP)
        front_proxy = parse_front_proxy((config_map or {}).get("data") or {})
        dns_names = build_dns_names(self._service, self._namespace)
        certificate = await ensure(self._store, dns_names, self._clock())
        if (certificate, front_proxy) != self._serving:
            tls = build_tls_context(certificate, front_proxy)
            self._serving = None  # until it listens anew
            await self._server.serve(ANY_ADDRESS, self._port, tls, front_proxy)
            self._serving = (certificate, front_proxy)
        await self._publish_ca(certificate)

    async def _publish_ca(self, certificate: ServingCertificate) -> None:
        """Write caBundle into the APIService, if that one is ours: never into another's."""
        api_service = await self._client.get(API_SERVICES, None, METRICS_API_SERVICE)
        if api_service is None or explain_foreign_api(api_service, namespace=self._namespace, service=self._service):
            return
        bundle = base64.b64encode(certificate.ca_pem).decode()
        if api_service["spec"].get("caBundle") != bundle:
            await self._client.merge(API_SERVICES, None, METRICS_API_SERVICE, {"spec": {"caBundle": bundle}})
