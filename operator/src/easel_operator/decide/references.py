"""The objects that a spec names and users make: which there are, and what to say of one that doesn't exist."""

from dataclasses import dataclass

from easel_contract import names
from easel_contract.resource import StableDiffusionServiceSpec

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
    gateway, hub = spec.gateway, spec.model.source.hugging_face
    volume, bucket = spec.model.source.persistent_volume_claim, spec.gateway.results.bucket
    secrets = [
        (gateway.api_keys_secret_name, "spec.gateway.apiKeysSecretName", names.COMPONENT_GATEWAY),
        (gateway.webhook.signing_secret_name, "spec.gateway.webhook.signingSecretName", names.COMPONENT_GATEWAY),
        (hub.token_secret_name if hub else None, "spec.model.source.huggingFace.tokenSecretName", "worker"),
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
    if volume is not None:
        claim = ObjectKey(PERSISTENT_VOLUME_CLAIMS.kind, namespace, volume.claim_name)
        field = "spec.model.source.persistentVolumeClaim.claimName"
        found.append(Reference(claim, field, names.COMPONENT_WORKER))
    return tuple(found)
