"""The objects that a spec names and users make: which there are, and what to say of one that doesn't exist."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from easel_contract import names
from easel_contract.resource import AddOnSource, ServiceDefaults, StableDiffusionServiceSpec

from easel_operator.manifests.overlay import merge_specs
from easel_operator.objects import (
    CONFIG_MAPS,
    PERSISTENT_VOLUME_CLAIMS,
    SECRETS,
    SERVICE_ACCOUNTS,
    Json,
    ObjectKey,
    Resource,
)


@dataclass(frozen=True, order=True)
class Reference:
    """One object that pods can't start without."""

    key: ObjectKey
    field: str  # of the resource that names it
    component: str  # whose pods need it
    is_guard: bool = False  # it decides who gets in

    def describe(self) -> str:
        """That it is missing, and what to do."""
        return f"{self.key} doesn't exist, so no new {self.component} pod can start; create it, or correct {self.field}"


SHARED_MODES: Final = frozenset({"ReadWriteMany", "ReadOnlyMany"})


def is_shared_claim(claim: Json) -> bool:
    """Whether pods on several nodes may have a PersistentVolumeClaim at once."""
    return not SHARED_MODES.isdisjoint(claim.get("spec", {}).get("accessModes") or ())


def list_references(
    namespace: str, spec: StableDiffusionServiceSpec, defaults: ServiceDefaults
) -> tuple[Reference, ...]:
    """Every object that the spec names, or its pods' overlays, in an order that doesn't change."""
    return (
        *_list_of_spec(namespace, spec),
        *_list_of_egress(namespace, spec, defaults),
        *_list_of_overlays(namespace, spec, defaults),
    )


def _list_of_egress(namespace: str, spec: StableDiffusionServiceSpec, defaults: ServiceDefaults) -> Iterator[Reference]:
    proxy = spec.downloads.over(defaults.downloads).proxy
    if proxy is not None and proxy.secret_name is not None:
        place = "spec" if spec.downloads.proxy is not None else "the installation's defaults"
        field = f"{place}.downloads.proxy.secretName"
        yield Reference(ObjectKey(SECRETS.kind, namespace, proxy.secret_name), field, names.COMPONENT_WORKER)


def _list_of_overlays(
    namespace: str, spec: StableDiffusionServiceSpec, defaults: ServiceDefaults
) -> Iterator[Reference]:
    roles = (
        (names.COMPONENT_GATEWAY, defaults.gateway.pod_template, spec.gateway.pod_template),
        (names.COMPONENT_WORKER, defaults.worker.pod_template, spec.worker.pod_template),
    )
    for component, default, own in roles:
        pod = merge_specs((default, own))
        found = {*_list_in_volumes(pod), *_list_in_containers(pod)}
        if account := pod.get("serviceAccountName"):
            found.add((SERVICE_ACCOUNTS.kind, account))
        own_names = str(own.spec) if own is not None else ""
        for kind, name in sorted(found):
            place = f"spec.{component}.podTemplate"
            if f"'{name}'" not in own_names:
                place = f"the installation's defaults.{component}.podTemplate"
            yield Reference(ObjectKey(kind, namespace, name), place, component)


def _list_in_volumes(pod: Json) -> Iterator[tuple[str, str]]:
    for volume in pod.get("volumes") or ():
        sources = [volume, *((volume.get("projected") or {}).get("sources") or ())]
        for source in sources:
            yield from _read_reference(source.get("secret"), SECRETS, "secretName" if source is volume else "name")
            yield from _read_reference(source.get("configMap"), CONFIG_MAPS, "name")
            yield from _read_reference(source.get("persistentVolumeClaim"), PERSISTENT_VOLUME_CLAIMS, "claimName")


def _list_in_containers(pod: Json) -> Iterator[tuple[str, str]]:
    for container in (*(pod.get("initContainers") or ()), *(pod.get("containers") or ())):
        for variable in container.get("env") or ():
            source = variable.get("valueFrom") or {}
            yield from _read_reference(source.get("secretKeyRef"), SECRETS, "name")
            yield from _read_reference(source.get("configMapKeyRef"), CONFIG_MAPS, "name")
        for source in container.get("envFrom") or ():
            yield from _read_reference(source.get("secretRef"), SECRETS, "name")
            yield from _read_reference(source.get("configMapRef"), CONFIG_MAPS, "name")


def _read_reference(source: Json | None, resource: Resource, member: str) -> Iterator[tuple[str, str]]:
    if source and source.get(member) and not source.get("optional"):
        yield resource.kind, source[member]


def _list_of_spec(namespace: str, spec: StableDiffusionServiceSpec) -> tuple[Reference, ...]:
    gateway, bucket = spec.gateway, spec.gateway.results.bucket
    sources = [(f"spec.model.{field}", source) for field, source in spec.model.sources.items()]
    secrets = [
        (gateway.api_keys_secret_name, "spec.gateway.apiKeysSecretName", names.COMPONENT_GATEWAY),
        (gateway.webhook.signing_secret_name, "spec.gateway.webhook.signingSecretName", names.COMPONENT_GATEWAY),
    ]
    secrets += [
        (source.hugging_face.token_secret_name, f"{field}.huggingFace.tokenSecretName", names.COMPONENT_WORKER)
        for field, source in sources
        if source.hugging_face is not None
    ]
    secrets += [
        (source.s3.credentials_secret_name, f"{field}.s3.credentialsSecretName", names.COMPONENT_WORKER)
        for field, source in sources
        if source.s3 is not None
    ]
    if spec.downloads.token_secret_name is not None:
        secrets.append((spec.downloads.token_secret_name, "spec.downloads.tokenSecretName", names.COMPONENT_WORKER))
    add_ons: list[tuple[str, AddOnSource]] = [
        (f"spec.{kind}[{each.name}].source", each.source)
        for kind, listed in (
            ("adapters", spec.adapters),
            ("controlNets", spec.control_nets),
            ("upscalers", spec.upscalers),
            ("preprocessors", spec.preprocessors),
        )
        for each in listed
    ]
    secrets += [
        (source.s3.credentials_secret_name, f"{field}.s3.credentialsSecretName", names.COMPONENT_WORKER)
        for field, source in add_ons
        if source.s3 is not None
    ]
    if bucket is not None:
        field = "spec.gateway.results.bucket.credentialsSecretName"
        secrets += [(bucket.credentials_secret_name, field, role) for role in ("gateway", "worker")]
    found = [
        Reference(
            ObjectKey(SECRETS.kind, namespace, name),
            field,
            component,
            is_guard=field == "spec.gateway.apiKeysSecretName",
        )
        for name, field, component in secrets
        if name is not None
    ]
    claims = [
        (source.persistent_volume_claim.claim_name, f"{field}.persistentVolumeClaim.claimName")
        for field, source in sources
        if source.persistent_volume_claim is not None
    ]
    claims += [
        (source.persistent_volume_claim.claim_name, f"{field}.persistentVolumeClaim.claimName")
        for field, source in add_ons
        if source.persistent_volume_claim is not None
    ]
    if spec.model.cache is not None and spec.model.cache.claim_name is not None:
        claims.append((spec.model.cache.claim_name, "spec.model.cache.claimName"))
    if spec.worker.cache_claim_name is not None:
        claims.append((spec.worker.cache_claim_name, "spec.worker.cacheClaimName"))
    found += [
        Reference(ObjectKey(PERSISTENT_VOLUME_CLAIMS.kind, namespace, name), field, names.COMPONENT_WORKER)
        for name, field in claims
    ]
    return tuple(found)
