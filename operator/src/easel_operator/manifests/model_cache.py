"""The cache of a service's model: its claim, where it has one of its own, and the Job that fills it.

Workers of a model are started when its Job is done, so that no GPU waits for a download; see ``decide/model_cache``.
"""

from collections.abc import Iterable
from typing import Final

from easel_contract import names
from easel_contract.resource import PodTemplate
from easel_contract.resource.model import CacheFill, ModelCacheSpec
from easel_contract.resource.pod_template import PodTemplateMetadata

from easel_operator.manifests.configuration import add_on_credentials_mount, hash_record, list_buckets
from easel_operator.manifests.metadata import (
    ChildContext,
    Owner,
    build_labels,
    build_metadata,
    build_pod_selector,
    hash_json,
)
from easel_operator.manifests.overlay import apply_overlays
from easel_operator.manifests.pod import (
    CONTAINER_SECURITY_CONTEXT,
    WORKER_TMP,
    build_egress_env,
    build_pod_spec,
    build_port,
    build_scratch,
    build_secret_env,
    to_resources,
)
from easel_operator.objects import Json

# What the Job takes of the workers' overlays: how it gets its image, who it is, and how it reaches the Hub; not where
# workers run and what runs beside them.
KEPT_OF_PODS: Final = frozenset(
    {"imagePullSecrets", "securityContext", "serviceAccountName", "hostAliases", "dnsConfig", "dnsPolicy", "volumes"}
)
KEPT_OF_CONTAINERS: Final = frozenset({"name", "env", "envFrom", "volumeMounts", "securityContext"})
VOLUME: Final = "model-cache"
NAME_CHARACTERS: Final = 10
# A Hub that is away comes back: the kubelet tries again every five minutes at the most, and what is there stays.
BACKOFF_LIMIT: Final = 10_000
RESOURCES: Final[Json] = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "4Gi"}}
LIMITED_AS_WORKERS: Final = frozenset({"cpu", "ephemeral-storage"})


def claim_name(owner: Owner, cache: ModelCacheSpec) -> str:
    """The claim that pods mount."""
    return cache.claim_name or names.model_cache_name(owner.name)


def mount_cache(context: ChildContext, container: Json, pod: Json, *, is_written: bool) -> None:
    """Give a pod the claim. Workers can't write it: what one leaves behind would be loaded by all."""
    cache = context.spec.model.cache
    if cache is None:
        return
    mount = {"name": VOLUME, "mountPath": names.MODEL_CACHE_DIRECTORY}
    container["volumeMounts"].append(mount if is_written else {**mount, "readOnly": True})
    claim = {"claimName": claim_name(context.owner, cache)}
    pod["volumes"].append(
        {"name": VOLUME, "persistentVolumeClaim": claim if is_written else {**claim, "readOnly": True}}
    )


def build_model_cache(context: ChildContext) -> list[Json]:
    """The claim and the Job, as far as the service has them made."""
    cache = context.spec.model.cache
    if cache is None:
        return []
    children = [_build_claim(context.owner, cache)] if cache.size is not None else []
    return [*children, _build_job(context)] if cache.fill is CacheFill.JOB else children


def _build_claim(owner: Owner, cache: ModelCacheSpec) -> Json:
    spec: Json = {"accessModes": list(cache.access_modes), "resources": {"requests": {"storage": cache.size}}}
    if cache.storage_class_name is not None:
        spec["storageClassName"] = cache.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": build_metadata(owner, names.model_cache_name(owner.name), names.COMPONENT_MODEL_CACHE),
        "spec": spec,
    }


def _build_job(context: ChildContext) -> Json:
    """Named by all that it is made of: a Job's template can't change, so another one takes its place."""
    template = _build_template(context)
    name = f"{names.model_cache_name(context.owner.name)}-{hash_json(template)[:NAME_CHARACTERS]}"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": build_metadata(context.owner, name, names.COMPONENT_MODEL_CACHE),
        "spec": {"backoffLimit": BACKOFF_LIMIT, "template": template},
    }


def _build_template(context: ChildContext) -> Json:
    owner, worker, release = context.owner, context.spec.worker, context.release
    container: Json = {
        "name": names.CONTAINER_NAME,
        "image": worker.image or release.worker_image,
        "args": [
            *("--role", "model-cache", "--config", f"{names.CONFIG_DIRECTORY}/{names.COMPONENT_WORKER}.json"),
            *("--host", "0.0.0.0", "--metrics-port", str(names.METRICS_PORT)),  # noqa: S104 - the pod's own address
        ],
        "ports": [build_port(names.METRICS_PORT_NAME, names.METRICS_PORT)],
        "env": [{"name": names.ENV_HUB_CACHE, "value": "/tmp/hub"}],  # noqa: S108  # small files of the client's own
        "resources": _build_resources(context),
        "terminationMessagePath": names.TERMINATION_MESSAGE_PATH,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": CONTAINER_SECURITY_CONTEXT,
        "volumeMounts": [
            {"name": "config", "mountPath": names.CONFIG_DIRECTORY, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108  # a volume's mount point inside the container
        ],
    }
    if worker.image is None and release.worker_image_pull_policy is not None:
        container["imagePullPolicy"] = release.worker_image_pull_policy
    if (token := context.spec.hub_token_secret_name) is not None:
        container["env"].append(
            build_secret_env(names.ENV_HUB_TOKEN, token, names.SECRET_KEY_HUB_TOKEN, optional=False)
        )
    container["env"] += build_egress_env(context)
    files = {names.CONFIG_KEY_WORKER: names.CONFIG_KEY_WORKER}
    tmp = build_scratch("tmp", worker.scratch, default=WORKER_TMP)
    pod = build_pod_spec(owner, container, files=files, grace_seconds=5, tmp=tmp)
    pod["restartPolicy"] = "OnFailure"
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "redis"]
    mount_cache(context, container, pod, is_written=True)
    secrets = {each.credentials_secret_name for each in list_buckets(context.spec)}
    for secret in sorted(each for each in secrets if each is not None):
        directory = add_on_credentials_mount(secret)
        name = f"add-on-{hash_json(directory)}"
        container["volumeMounts"].append({"name": name, "mountPath": directory, "readOnly": True})
        pod["volumes"].append({"name": name, "secret": {"secretName": secret}})
    return apply_overlays(
        {
            "metadata": {
                "labels": build_labels(owner, names.COMPONENT_MODEL_CACHE),
                "annotations": {names.ANNOTATION_MODEL_CACHE: hash_record(context)},
            },
            "spec": pod,
        },
        _keep_overlays((release.defaults.worker.pod_template, worker.pod_template)),
        pod_selector=build_pod_selector(owner, names.COMPONENT_MODEL_CACHE),
    )


def _build_resources(context: ChildContext) -> Json:
    """Easel's own, with the workers' where a ResourceQuota may ask for a limit that they don't have."""
    workers = to_resources(context.spec.worker.resources, context.release.defaults.worker)
    limits = {name: amount for name, amount in workers.get("limits", {}).items() if name in LIMITED_AS_WORKERS}
    if not limits:
        return RESOURCES
    requests = {name: workers.get("requests", {}).get(name, amount) for name, amount in limits.items()}
    return {
        "requests": {**RESOURCES["requests"], **requests},
        "limits": {**RESOURCES["limits"], **limits},
    }


def _keep_overlays(overlays: Iterable[PodTemplate | None]) -> list[PodTemplate]:
    """What of the workers' overlays is the Job's, too."""
    kept = []
    for overlay in overlays:
        if overlay is None:
            continue
        spec = {name: value for name, value in overlay.spec.items() if name in KEPT_OF_PODS}
        containers = [
            {name: value for name, value in each.items() if name in KEPT_OF_CONTAINERS}
            for each in overlay.spec.get("containers") or ()
            if each.get("name") == names.CONTAINER_NAME
        ]
        if containers:
            spec["containers"] = containers
        if "volumes" in spec:  # the workers' own cache isn't there to be replaced
            spec["volumes"] = [each for each in spec["volumes"] if each.get("name") != "cache"]
        kept.append(overlay.model_copy(update={"spec": spec, "metadata": PodTemplateMetadata()}))
    return kept
