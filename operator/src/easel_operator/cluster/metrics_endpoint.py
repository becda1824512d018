"""Keeps the external metrics API served and registered: certificate in a Secret, trust up to date, the APIService.

A cluster has one APIService of this name. It is made where nobody has one, is never written while it is another's, and
belongs to the installation's ClusterRole, so that the garbage collector removes it with that one, however it goes.
"""

import base64
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from http import HTTPStatus
from typing import Final, TypeVar

from easel_contract import names

from easel_operator.cluster.capabilities import METRICS_API_SERVICE, Installation, explain_foreign_api, is_served_by
from easel_operator.cluster.client import ApiRefusedError, KubernetesClient
from easel_operator.cluster.external_metrics import ExternalMetricsServer
from easel_operator.cluster.serving_certificate import (
    FrontProxy,
    ServingCertificate,
    build_dns_names,
    build_tls_context,
    ensure,
    parse_front_proxy,
    read_issued,
)
from easel_operator.objects import API_SERVICES, CLUSTER_ROLES, CONFIG_MAPS, ENDPOINT_SLICES, SECRETS, SERVICES, Json
from easel_operator.operator_metrics import CERTIFICATE_EXPIRY

logger = logging.getLogger(__name__)

FRONT_PROXY_NAMESPACE: Final = "kube-system"
FRONT_PROXY_CONFIG_MAP: Final = "extension-apiserver-authentication"
ANY_ADDRESS: Final = ""  # every address, of IPv6 and IPv4 where the machine has them
SETTLE_ATTEMPTS: Final = 3
T = TypeVar("T")
PRIORITY: Final = 100  # of the API's group and version among others; there is one of each


class SecretCertificateStore:
    """CertificateStore in a Secret of the operator's namespace, shared by its replicas."""

    def __init__(self, client: KubernetesClient, *, namespace: str, service: str) -> None:
        """``service`` is the one that the certificate is for; the Secret is deleted with it."""
        self._client = client
        self._namespace = namespace
        self._service = service
        self._name = f"{service}-tls"
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
        service = await self._client.get(SERVICES, self._namespace, self._service)
        if service is not None:
            owner = {"apiVersion": "v1", "kind": "Service", "name": self._service, "uid": service["metadata"]["uid"]}
            metadata["ownerReferences"] = [owner]
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
        installation: Installation,
        port: int,
        clock: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._server = server
        self._installation = installation
        self._registration = Registration(client, installation)
        self._port = port
        self._clock = clock
        self._store = SecretCertificateStore(client, namespace=installation.namespace, service=installation.service)
        self._serving: tuple[ServingCertificate, FrontProxy] | None = None

    @property
    def is_serving(self) -> bool:
        """Whether the API answers."""
        return self._serving is not None

    async def refresh(self) -> None:
        """Serve with a valid certificate and the current trust; call it now and then.

        Raises:
            KubernetesError: the API server doesn't answer, or refuses.
            ValueError: the cluster has no aggregation layer to trust, or cert-manager no certificate for us.
            RuntimeError: another installation writes the same Secret.
            OSError: the port is taken, or the certificate or the CA can't be used for TLS.
        """
        config_map = await self._client.get(CONFIG_MAPS, FRONT_PROXY_NAMESPACE, FRONT_PROXY_CONFIG_MAP)
        front_proxy = parse_front_proxy((config_map or {}).get("data") or {})
        dns_names = build_dns_names(self._installation.service, self._installation.namespace)
        certificate = await self._find_certificate(dns_names)
        if (certificate, front_proxy) != self._serving:
            tls = build_tls_context(certificate, front_proxy)
            self._serving = None  # until it listens anew
            await self._server.serve(ANY_ADDRESS, self._port, tls, front_proxy)
            self._serving = (certificate, front_proxy)
            CERTIFICATE_EXPIRY.set(certificate.ends_at.timestamp())

    async def _find_certificate(self, dns_names: tuple[str, ...]) -> ServingCertificate:
        name, namespace = self._installation.certificate_secret, self._installation.namespace
        if not name:
            return await ensure(self._store, dns_names, self._clock())
        secret = await self._client.get(SECRETS, namespace, name)
        if secret is None:
            raise ValueError(
                f"Secret {namespace}/{name} isn't there yet: see why cert-manager hasn't made the certificate "
                f"(kubectl describe certificate -n {namespace}), or set certManager.enabled=false"
            )
        return read_issued(f"Secret {namespace}/{name}", secret.get("data") or {}, dns_names, self._clock())

    async def register(self, *, is_leader: bool) -> str:
        """See Registration.settle; nothing is registered before it is served, nor by a replica that doesn't lead."""
        ca_pem = self._serving[0].ca_pem if is_leader and self._serving is not None else None
        return await self._registration.settle(ca_pem)

    async def give_back(self) -> None:
        """See Registration.give_back."""
        await self._registration.give_back()

    async def is_served_by_others(self, pod_name: str) -> bool:
        """Whether another replica is ready to answer. Raises KubernetesError."""
        selector = f"kubernetes.io/service-name={self._installation.service}"
        slices, _ = await self._client.list_all(ENDPOINT_SLICES, self._installation.namespace, label_selector=selector)
        return any(
            endpoint.get("conditions", {}).get("ready") and (endpoint.get("targetRef") or {}).get("name") != pod_name
            for each in slices
            for endpoint in each.get("endpoints") or ()
        )


class Registration:
    """The one APIService of the external metrics API: made where nobody has one, not written while it is another's."""

    def __init__(self, client: KubernetesClient, installation: Installation) -> None:
        self._client = client
        self._installation = installation

    async def settle(self, ca_pem: bytes | None) -> str:
        """Register where nobody has, keep ours as it must be, give it back where it isn't wanted.

        Without ``ca_pem``, by which the server is known, it is only looked at: one replica at a time writes, so that of
        two with other settings none takes back what the other does. Returns why autoscalers aren't served by us, empty
        if they are. Raises KubernetesError.
        """
        return await _insist(lambda: self._try_to_settle(ca_pem))

    async def give_back(self) -> None:
        """Delete the registration if it is ours: without a server it keeps every namespace of the cluster from being
        deleted. Raises KubernetesError."""
        await _insist(self._try_to_give_back)

    async def _try_to_give_back(self) -> None:
        live = await self._client.get(API_SERVICES, None, METRICS_API_SERVICE)
        if live is not None and is_served_by(live, self._installation):
            logger.info("Giving %s back: no operator is left to serve it", METRICS_API_SERVICE)
            await self._delete(live)

    async def _delete(self, live: Json) -> None:
        """This very version of it."""
        metadata = live["metadata"]
        version = metadata["resourceVersion"]
        await self._client.delete(API_SERVICES, None, METRICS_API_SERVICE, uid=metadata["uid"], version=version)

    async def _try_to_settle(self, ca_pem: bytes | None) -> str:
        live = await self._client.get(API_SERVICES, None, METRICS_API_SERVICE)
        if ca_pem is not None:
            owner = await self._find_owner()
            live = await self._write(live, build_api_service(self._installation, owner, ca_pem))
        return explain_foreign_api(live, self._installation)

    async def _find_owner(self) -> Json | None:
        name = self._installation.cluster_role
        if not name or not self._installation.is_api_wanted:
            return None
        role = await self._client.get(CLUSTER_ROLES, None, name)
        if role is None:
            return None
        uid = role["metadata"]["uid"]
        return {"apiVersion": CLUSTER_ROLES.api_version, "kind": CLUSTER_ROLES.kind, "name": name, "uid": uid}

    async def _write(self, live: Json | None, wanted: Json) -> Json | None:
        """The APIService after what is to be done about it. What has changed since it was read isn't touched."""
        if live is None:
            if not self._installation.is_api_wanted:
                return None
            logger.info("Registering %s, which nobody has", METRICS_API_SERVICE)
            # Not forced: where another adapter has come in between, the API server refuses.
            return await self._client.apply(API_SERVICES, wanted, is_forced=False)
        metadata = live["metadata"]
        if is_served_by(live, self._installation) and not self._installation.is_api_wanted:
            logger.info("Giving %s back: externalMetrics.mode is Disabled", METRICS_API_SERVICE)
            await self._delete(live)
            return None
        patch = build_patch(live, wanted, self._installation)
        if patch is None:
            return live
        patch["metadata"] = {**patch.get("metadata", {}), "resourceVersion": metadata["resourceVersion"]}
        return await self._client.merge(API_SERVICES, None, METRICS_API_SERVICE, patch)


async def _insist(step: Callable[[], Awaitable[T]]) -> T:
    """Again where somebody was faster, if only with the status."""
    for _ in range(SETTLE_ATTEMPTS - 1):
        try:
            return await step()
        except ApiRefusedError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
    return await step()


def build_api_service(installation: Installation, owner: Json | None, ca_pem: bytes) -> Json:
    """The registration of the external metrics API."""
    metadata: Json = {
        "name": METRICS_API_SERVICE,
        "labels": {names.LABEL_NAME: names.APP_NAME, names.LABEL_MANAGED_BY: names.FIELD_MANAGER},
    }
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    return {
        "apiVersion": API_SERVICES.api_version,
        "kind": API_SERVICES.kind,
        "metadata": metadata,
        "spec": {
            "group": "external.metrics.k8s.io",
            "version": "v1beta1",
            "groupPriorityMinimum": PRIORITY,
            "versionPriority": PRIORITY,
            "service": {"namespace": installation.namespace, "name": installation.service, "port": 443},
            "caBundle": base64.b64encode(ca_pem).decode(),
        },
    }


def build_patch(live: Json, wanted: Json, installation: Installation) -> Json | None:
    """What is to be merged into an APIService: of ours what is missing, of another's that our marks go. None: nothing.

    An adapter that is applied over ours takes it as it is, with our owner: it would be deleted together with us.
    """
    metadata = live["metadata"]
    owners = metadata.get("ownerReferences") or []
    labels = metadata.get("labels") or {}
    if is_served_by(live, installation):
        missing = [owner for owner in wanted["metadata"].get("ownerReferences", []) if owner not in owners]
        # A ClusterRole that was made anew has another uid, and the reference to the old one would end us.
        kept = [owner for owner in owners if not _is_ours(owner, installation) or not missing]
        ours = wanted["metadata"]["labels"]
        is_labelled = all(labels.get(name) == value for name, value in ours.items())
        if not missing and is_labelled and live["spec"].get("caBundle") == wanted["spec"]["caBundle"]:
            return None
        return {
            "metadata": {"labels": ours, "ownerReferences": [*kept, *missing]},
            "spec": {"caBundle": wanted["spec"]["caBundle"]},
        }
    kept = [owner for owner in owners if not _is_ours(owner, installation)]
    if kept == owners:
        return None
    # A label that the other has set since is its own.
    removed = {name: None for name, value in wanted["metadata"]["labels"].items() if labels.get(name) == value}
    return {"metadata": {"ownerReferences": kept, "labels": removed}}


def _is_ours(owner: Json, installation: Installation) -> bool:
    return (owner["kind"], owner["name"]) == (CLUSTER_ROLES.kind, installation.cluster_role)
