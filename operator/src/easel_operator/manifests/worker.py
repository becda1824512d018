"""The worker Deployment: GPU pods that pull jobs from the queue."""

import json
from typing import Final

from easel_contract import names
from easel_contract.resource import MAX_REVISIONS, ModelSource, PodTemplate, StableDiffusionServiceSpec, WorkerSpec
from easel_contract.resource.egress import EgressSpec

from easel_operator.manifests.configuration import (
    add_on_credentials_mount,
    add_on_mount,
    hash_record,
    worker_config_hash,
)
from easel_operator.manifests.metadata import (
    ChildContext,
    Owner,
    Release,
    build_labels,
    build_metadata,
    build_pod_selector,
    describe_images,
    hash_json,
    read_json,
    with_revision,
)
from easel_operator.manifests.model_cache import mount_cache
from easel_operator.manifests.overlay import apply_overlays
from easel_operator.manifests.pod import (
    WORKER_CACHE,
    WORKER_TMP,
    build_bucket_env,
    build_container,
    build_egress_env,
    build_pod_spec,
    build_scratch,
    build_secret_env,
    to_resources,
)
from easel_operator.objects import Json

# Of annotations, which Kubernetes takes 256 KiB of. A spec with a larger overlay has no way back.
MAX_RUNS_CHARACTERS: Final = 65_536
SURGE: Final[Json] = {"maxSurge": 1, "maxUnavailable": 0}
IN_PLACE: Final[Json] = {"maxSurge": 0, "maxUnavailable": 1}
# A canary's workers never get "available" to the Deployment controller, so that it ends no more of the others than
# maxUnavailable says. Their readiness, by which everybody else goes, is as ever. The deadline has to be later.
TRIAL_SECONDS: Final = 315_360_000  # ten years
START_SECONDS: Final = 1800  # time to fetch and load a large model before the kubelet ends a pod

# Volumes and where they are, by the field of the model that names them.
MODEL_MOUNTS: Final = {
    "source": ("model", names.MODEL_DIRECTORY),
    "refiner.source": ("refiner", names.REFINER_DIRECTORY),
    "vae.source": ("vae", names.VAE_DIRECTORY),
    "safetyChecker.source": ("safety-checker", names.SAFETY_CHECKER_DIRECTORY),
}


def build_worker_deployment(context: ChildContext, *, replicas: int | None) -> Json:
    """The worker Deployment.

    Args:
        context: the service and the installation.
        replicas: the fixed number of pods; None where somebody else writes it (an autoscaler, or the operator by the
            scale subresource): the field is then not sent, so that it isn't ours to reset.
    """
    owner = context.owner
    spec: Json = {
        "selector": {"matchLabels": build_pod_selector(owner, names.COMPONENT_WORKER)},
        # Where no GPU is spare, a surplus pod would wait for one, and the roll-out with it: one pod makes room first.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": _build_strategy(context)},
        "progressDeadlineSeconds": context.spec.rollout.deadline_seconds,
        "revisionHistoryLimit": MAX_REVISIONS,
        "template": with_revision(_build_worker_template(context)),
    }
    runs = describe_runs(context.spec, context.release)
    if context.is_on_trial:
        spec |= {"minReadySeconds": TRIAL_SECONDS, "progressDeadlineSeconds": TRIAL_SECONDS + 1}
    if context.spec.rollout.paused:
        spec["paused"] = True
    if replicas is not None:
        spec["replicas"] = replicas
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            **build_metadata(owner, names.worker_name(owner.name), names.COMPONENT_WORKER),
            "annotations": {
                names.ANNOTATION_RELEASE: json.dumps(
                    describe_images(context.release), separators=(",", ":"), sort_keys=True
                ),
                names.ANNOTATION_WORKER_SPEC: hash_worker_spec(context.spec),
                **({names.ANNOTATION_RUNS: runs} if len(runs) <= MAX_RUNS_CHARACTERS else {}),
                **({names.ANNOTATION_LAST_GOOD: context.last_good} if context.last_good else {}),
                **({names.ANNOTATION_FAILED: context.failed} if context.failed else {}),
                **({names.ANNOTATION_CANARY: context.canary} if context.canary else {}),
                **({names.ANNOTATION_TO_REVISION: str(context.to_revision)} if context.to_revision else {}),
                **({names.ANNOTATION_ROLLOUT_CAUSE: context.rollout_cause} if context.rollout_cause else {}),
            },
        },
        "spec": spec,
    }


def _build_strategy(context: ChildContext) -> Json:
    usual = SURGE if context.is_surging else IN_PLACE
    return usual if context.max_unavailable is None else {**usual, "maxUnavailable": context.max_unavailable}


def describe_runs(spec: StableDiffusionServiceSpec, release: Release) -> str:
    """What workers run, as JSON from which it can be run again: parts of the spec without defaults, and the images,
    that of the gateways they talk to among them."""
    wire = _describe_worker_spec(spec, {"model", "worker", "batching"})
    runs = {"spec": wire, **describe_images(release)}
    return json.dumps(runs, separators=(",", ":"), sort_keys=True)


def digest_runs(runs: str) -> str:
    """Of what describe_runs() wrote: changes with what workers run, and not with the gateways' image."""
    known = {name: value for name, value in read_json(runs).items() if name != "gateway"}
    return hash_json(json.dumps(known, separators=(",", ":"), sort_keys=True))


def _describe_worker_spec(spec: StableDiffusionServiceSpec, fields: set[str]) -> Json:
    wire: Json = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=fields)
    # Not the pods' own; and seen from the pods.
    derived = {"disruptionBudget", "pricePerGpuHour", "terminationGracePeriodSeconds"}
    wire["worker"] = {name: value for name, value in wire.get("worker", {}).items() if name not in derived}
    return wire


def hash_worker_spec(spec: StableDiffusionServiceSpec) -> str:
    """Changes with what a spec says of worker pods, beside what the hash of their configuration has.

    Defaults are left out: a field that comes with another version of the operator changes nothing.
    """
    wire = _describe_worker_spec(spec, {"model", "worker"})
    bucket = spec.gateway.results.bucket
    names_of_secrets = [spec.hub_token_secret_name, bucket.credentials_secret_name if bucket else None]
    egress = spec.downloads.model_dump(mode="json", include=set(EgressSpec.model_fields), exclude_none=True)
    return hash_json([wire, names_of_secrets, *_list_add_on_volumes(spec), *([egress] if egress else [])])


def describe_model(spec: StableDiffusionServiceSpec) -> str:
    """spec.model as JSON, without what nobody set; nor its cache, whose claim may grow while workers have it."""
    wire = spec.model.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={"cache"})
    return json.dumps(wire, separators=(",", ":"), sort_keys=True)


def _build_worker_template(context: ChildContext) -> Json:
    """Easel's own pod, over it the installation's defaults, over them what the service asks for."""
    owner, worker = context.owner, context.spec.worker
    template = apply_overlays(
        {
            "metadata": {
                "labels": build_labels(owner, names.COMPONENT_WORKER),
                "annotations": {
                    names.ANNOTATION_CONFIG_HASH: worker_config_hash(context),
                    # Of pods of an earlier revision it says how to go back.
                    names.ANNOTATION_MODEL: describe_model(context.spec),
                    **({names.ANNOTATION_MODEL_CACHE: hash_record(context)} if context.spec.model.cache else {}),
                },
            },
            "spec": _build_worker_pod_spec(context),
        },
        (context.release.defaults.worker.pod_template, _build_placement(context.spec.worker), worker.pod_template),
        pod_selector=build_pod_selector(owner, names.COMPONENT_WORKER),
    )
    if worker.gpu.count > 0:  # whatever else pods tolerate, they tolerate the taint of their GPUs
        gpu_nodes = {"key": worker.gpu.resource_name, "operator": "Exists", "effect": "NoSchedule"}
        others = template["spec"].get("tolerations", ())
        template["spec"]["tolerations"] = [gpu_nodes, *(each for each in others if each != gpu_nodes)]
    return template


def _build_placement(worker: WorkerSpec) -> PodTemplate | None:
    """The fields of the resource that say where workers may run, as an overlay."""
    placement: Json = {}
    if worker.tolerations:
        placement["tolerations"] = [toleration.to_wire() for toleration in worker.tolerations]
    if worker.node_selector:
        placement["nodeSelector"] = worker.node_selector
    return PodTemplate(spec=placement) if placement else None


def _build_worker_pod_spec(context: ChildContext) -> Json:
    owner = context.owner
    container = build_container(
        context,
        role=names.COMPONENT_WORKER,
        image=context.spec.worker.image,
        resources=_build_worker_resources(context),
        start_seconds=START_SECONDS,
    )
    container["env"] += build_bucket_env(context.spec.gateway.results) + build_egress_env(context)
    pod = build_pod_spec(
        owner,
        container,
        files={names.CONFIG_KEY_WORKER: context.worker_file},
        grace_seconds=context.grace_seconds,
        tmp=build_scratch("tmp", context.spec.worker.scratch, default=WORKER_TMP),
    )
    _add_model(context, container, pod)
    _add_add_ons(context.spec, container, pod)
    return pod


def _build_worker_resources(context: ChildContext) -> Json:
    worker = context.spec.worker
    resources = to_resources(worker.resources, context.release.defaults.worker)
    if worker.gpu.count > 0:  # for extended resources the request follows the limit
        resources["limits"] = {**resources.get("limits", {}), worker.gpu.resource_name: str(worker.gpu.count)}
    return resources


def _add_model(context: ChildContext, container: Json, pod: Json) -> None:
    """Mount the volumes of all that the model consists of, or give the pod a token for their download; and a place for
    what it downloads and makes, which outlives the container, and with a claim the pod."""
    sources = [(*MODEL_MOUNTS[field], source) for field, source in context.spec.model.sources.items()]
    # Libraries write small files there even when the model lies on a volume.
    container["env"].append({"name": names.ENV_HUB_CACHE, "value": names.CACHE_DIRECTORY})
    container["env"].append({"name": names.ENV_CACHE_DIRECTORY, "value": names.CACHE_DIRECTORY_OWN})
    container["volumeMounts"].append({"name": "cache", "mountPath": names.CACHE_DIRECTORY})
    cache_claim = context.spec.worker.cache_claim_name
    pod["volumes"].append(
        {"name": "cache", "persistentVolumeClaim": {"claimName": cache_claim}}
        if cache_claim
        else build_scratch("cache", context.spec.worker.scratch, default=WORKER_CACHE)
    )
    for name, directory, source in sources:
        if (volume := _build_model_volume(source)) is not None:
            container["volumeMounts"].append({"name": name, "mountPath": directory, "readOnly": True})
            pod["volumes"].append({"name": name, **volume})
    mount_cache(context, container, pod, is_written=False)
    token = context.spec.hub_token_secret_name
    if token is not None:
        container["env"].append(
            build_secret_env(names.ENV_HUB_TOKEN, token, names.SECRET_KEY_HUB_TOKEN, optional=False)
        )


def _build_model_volume(source: ModelSource) -> Json | None:
    """The volume that a source is on; None for what is downloaded."""
    if (claim := source.persistent_volume_claim) is not None:
        return {"persistentVolumeClaim": {"claimName": claim.claim_name, "readOnly": True}}
    if (image := source.image) is not None:
        policy = {} if image.pull_policy is None else {"pullPolicy": image.pull_policy}
        return {"image": {"reference": image.reference, **policy}}
    return None


def build_worker_pod_selector_text(owner: Owner) -> str:
    """The worker pods' selector as the scale subresource reports it."""
    selector = build_pod_selector(owner, names.COMPONENT_WORKER)
    return ",".join(f"{key}={value}" for key, value in sorted(selector.items()))


def _add_add_ons(spec: StableDiffusionServiceSpec, container: Json, pod: Json) -> None:
    """Mount the claims and the buckets' credentials that add-ons name, each once, whichever of them name it."""
    claims, secrets = _list_add_on_volumes(spec)
    mounts = [
        (add_on_mount(claim), {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}) for claim in claims
    ]
    mounts += [(add_on_credentials_mount(secret), {"secret": {"secretName": secret}}) for secret in secrets]
    for directory, volume in mounts:
        name = f"add-on-{hash_json(directory)}"  # a claim's name may be longer than a volume's, and have dots
        container["volumeMounts"].append({"name": name, "mountPath": directory, "readOnly": True})
        pod["volumes"].append({"name": name, **volume})


def _list_add_on_volumes(spec: StableDiffusionServiceSpec) -> tuple[list[str], list[str]]:
    """The claims that add-ons lie on, and the Secrets with the credentials of their buckets."""
    sources = [each.source for each in spec.add_ons]
    claims = {each.persistent_volume_claim.claim_name for each in sources if each.persistent_volume_claim is not None}
    secrets = {each.s3.credentials_secret_name for each in sources if each.s3 is not None}
    return sorted(claims), sorted(each for each in secrets if each is not None)
