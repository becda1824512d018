"""The objects that a spec names and users make: which there are, and what to say of one that doesn't exist."""

from dataclasses import dataclass

from easel_contract import names
from easel_contract.resource import AddOnSource, StableDiffusionServiceSpec

from easel_operator.objects import PERSISTENT_VOLUME_CLAIMS, SECRETS, ObjectKey


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


def list_references(namespace: str, spec: StableDiffusionServiceSpec) -> tuple[Reference, ...]:
    """Every Secret and PersistentVolumeClaim that the spec names, in an order that doesn't change."""
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
    if spec.worker.cache_claim_name is not None:
        claims.append((spec.worker.cache_claim_name, "spec.worker.cacheClaimName"))
    found += [
        Reference(ObjectKey(PERSISTENT_VOLUME_CLAIMS.kind, namespace, name), field, names.COMPONENT_WORKER)
        for name, field in claims
    ]
    return tuple(found)
