"""What all children share: names, labels, owner, and the hash by which an unchanged child is recognised."""

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Final

from easel_contract import names
from easel_contract.gateway_config import ASSUMED_COLD_START_SECONDS
from easel_contract.resource import ServiceDefaults, StableDiffusionServiceSpec

from easel_operator.objects import Json

# Hash of the manifest that was applied; while it stands, a field that the operator no longer sends can't be left over.
ANNOTATION_APPLIED_HASH: Final = "easel.dev/applied-hash"
HASH_CHARACTERS: Final = 16
CONFIG_VOLUME: Final = "config"


@dataclass(frozen=True)
class Owner:
    """The StableDiffusionService that owns the children."""

    namespace: str
    name: str
    uid: str


def read_owner(service: Json) -> Owner:
    """The service as its children's owner."""
    metadata = service["metadata"]
    return Owner(metadata["namespace"], metadata["name"], metadata["uid"])


@dataclass(frozen=True)
class Release:
    """What the operator's own installation contributes to the children."""

    worker_image: str
    gateway_image: str
    redis_url: str
    # From which each service's password of Redis is derived; empty: services log in as the URL says.
    redis_users_key: str = field(default="", repr=False)
    redis_authorities: str = ""  # PEM, by which pods believe it; empty: by those of their image
    redis_users_refusal: str = ""  # why they do, where each was to have a user of its own
    operator_namespace: str = ""  # where its pods come from
    worker_image_pull_policy: str | None = None  # of worker_image alone; None: as Kubernetes decides by the tag
    gateway_image_pull_policy: str | None = None  # of gateway_image, likewise
    defaults: ServiceDefaults = field(default_factory=ServiceDefaults)


def describe_images(release: Release) -> Json:
    """The release's images and how they are pulled, for an annotation."""
    workers = {"image": release.worker_image, "pullPolicy": release.worker_image_pull_policy}
    gateways = {"image": release.gateway_image, "pullPolicy": release.gateway_image_pull_policy}
    return workers if gateways == workers else {**workers, "gateway": gateways}


def restore_images(release: Release, known: Json) -> Release:
    """The release with the images that describe_images() wrote. Where none is of gateways, they have the workers': an
    operator that knew one image for both wrote it."""
    gateways = known.get("gateway")
    if not isinstance(gateways, dict) or not gateways.keys() >= {"image", "pullPolicy"}:
        gateways = known
    return replace(
        release,
        worker_image=known["image"],
        worker_image_pull_policy=known["pullPolicy"],
        gateway_image=gateways["image"],
        gateway_image_pull_policy=gateways["pullPolicy"],
    )


@dataclass(frozen=True)
class ChildContext:
    """Everything that a builder may look at."""

    owner: Owner
    spec: StableDiffusionServiceSpec
    release: Release
    grace_seconds: int  # that a stopping worker has
    cold_start_seconds: int = ASSUMED_COLD_START_SECONDS  # as gateways hear of it
    last_good: str = ""  # as describe_runs() has it; empty: none
    is_surging: bool = False  # a roll-out starts a worker before it ends one
    to_revision: int | None = None  # of the history, that the workers are to run again
    failed: str = ""  # digest of what was tried in vain; empty: nothing
    max_unavailable: int | None = None  # workers that a roll-out ends at once; None: as many as it has to
    canary: str = ""  # of the worker Deployment's annotation; empty: none
    is_on_trial: bool = False  # the roll-out stops where its strategy says, and goes on when told to
    worker_file: str = names.CONFIG_KEY_WORKER  # of the ConfigMap, that workers have their configuration from
    rollout_cause: str = ""  # what the workers' template changed for last; empty: nothing since they exist


def build_labels(owner: Owner, component: str) -> dict[str, str]:
    """Labels of a child and of its pods."""
    return {
        names.LABEL_SERVICE: owner.name,
        names.LABEL_COMPONENT: component,
        names.LABEL_NAME: names.APP_NAME,
        names.LABEL_INSTANCE: owner.name,
        names.LABEL_MANAGED_BY: names.FIELD_MANAGER,
    }


def build_pod_selector(owner: Owner, component: str) -> dict[str, str]:
    """The two labels that select a component's pods. A Deployment's selector can't change, so neither may these."""
    return {names.LABEL_SERVICE: owner.name, names.LABEL_COMPONENT: component}


def build_metadata(owner: Owner, name: str, component: str) -> Json:
    """Metadata of a child that the garbage collector removes together with its service."""
    return {
        "name": name,
        "namespace": owner.namespace,
        "labels": build_labels(owner, component),
        "ownerReferences": [
            {
                "apiVersion": f"{names.API_GROUP}/{names.API_VERSION}",
                "kind": names.KIND,
                "name": owner.name,
                "uid": owner.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }


def hash_json(value: object) -> str:
    """A short, stable hash of JSON-ready data."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:HASH_CHARACTERS]


def with_applied_hash(manifest: Json) -> Json:
    """The manifest with the annotation that says whether it was already applied."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), ANNOTATION_APPLIED_HASH: hash_json(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def with_revision(template: Json) -> Json:
    """The pod template with the annotation by which its pods are known to be made of it."""
    metadata = template["metadata"]
    annotations = {**metadata["annotations"], names.ANNOTATION_REVISION: hash_json(template)}
    return {**template, "metadata": {**metadata, "annotations": annotations}}


def read_json(text: str | None) -> Json:
    """An annotation's object; empty where there is none, or where somebody has written something else."""
    try:
        known = json.loads(text or "{}")
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}


def read_revision(deployment: Json) -> str:
    """The revision that a Deployment's pods are made of; empty where its template has none."""
    template: Json = deployment["spec"].get("template", {})
    annotations: Json = template.get("metadata", {}).get("annotations") or {}
    return str(annotations.get(names.ANNOTATION_REVISION, ""))


def read_worker_file(deployment: Json) -> str:
    """Which file of the ConfigMap a worker Deployment's pods have."""
    volumes = deployment["spec"].get("template", {}).get("spec", {}).get("volumes", ())
    for items in (each.get("configMap", {}).get("items", ()) for each in volumes if each["name"] == CONFIG_VOLUME):
        return next((str(item["key"]) for item in items), names.CONFIG_KEY_WORKER)
    return names.CONFIG_KEY_WORKER


def read_server_image(deployment: Json) -> str | None:
    """The image of Easel's own container in a Deployment's pods."""
    containers = deployment["spec"].get("template", {}).get("spec", {}).get("containers", ())
    return next((each.get("image") for each in containers if each["name"] == names.CONTAINER_NAME), None)
