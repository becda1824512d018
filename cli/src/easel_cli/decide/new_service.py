"""A service and what it needs beside it, as manifests: from a few answers, judged by the contract's own models."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from easel_contract import names
from easel_contract.keys import parse_api_key_entry
from easel_contract.resource import StableDiffusionServiceSpec
from pydantic import ValidationError

from easel_cli.errors import UsageError, list_problems

Json = dict[str, Any]
NAME: Final = re.compile(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?")  # with what the operator adds, a label's 63 characters
CUSTOMER: Final = re.compile(r"[-._a-zA-Z0-9]{1,100}")  # a Secret's key
API_VERSION: Final = f"{names.API_GROUP}/{names.SERVED_API_VERSIONS[0]}"
MODEL_FORMS: Final = "ORG/REPOSITORY[@REVISION], pvc://CLAIM[/PATH], s3://BUCKET/PREFIX or image://REFERENCE"
LOADER_USER: Final = 65532  # the images' own


@dataclass(frozen=True, slots=True)
class Answers:
    """What was asked for."""

    name: str
    model: str  # one of MODEL_FORMS
    cache_size: str | None = None
    storage_class: str | None = None
    load_from: str | None = None  # a repository of the Hub that a Job puts on the claim of pvc://
    claim_size: str | None = None  # of that claim, if it is to be made
    hub_token_secret: str | None = None
    hub_token: str | None = None  # its content, where it is to be made
    gpu_resource: str = "nvidia.com/gpu"
    gpus: int = 1
    min_replicas: int = 0
    max_replicas: int = 4
    target_seconds: int = 30
    api_keys: Mapping[str, str] | None = None  # by customer
    loader_image: str = ""
    namespace: str | None = None


def build_manifests(answers: Answers) -> list[Json]:
    """In the order in which they are applied; the service is last. Raises UsageError for what can't be."""
    if NAME.fullmatch(answers.name) is None:
        raise UsageError(
            f"the name is {answers.name!r}; at most 50 small letters, digits and hyphens, a letter first, are allowed"
        )
    spec = _build_spec(answers)
    try:
        StableDiffusionServiceSpec.model_validate(spec)
    except ValidationError as error:
        raise UsageError(f"such a service can't be: {list_problems(error)}") from None
    service = _build("StableDiffusionService", answers.name, answers.namespace, API_VERSION, spec=spec)
    return [*_build_secrets(answers), *_build_loading(answers), service]


def parse_model(text: str) -> Json:
    """``model.source`` of one of MODEL_FORMS. Raises UsageError."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        repository, _, revision = text.partition("@")
        hub = {"repository": repository} | ({"revision": revision} if revision else {})
        return {"huggingFace": hub}
    match scheme:
        case "pvc":
            claim, _, path = rest.partition("/")
            return {"persistentVolumeClaim": {"claimName": claim} | ({"path": path} if path else {})}
        case "s3":
            return {"s3": {"uri": text}}
        case "image":
            return {"image": {"reference": rest}}
    raise UsageError(f"--model is {text!r}; {MODEL_FORMS} is expected")


def _build_spec(answers: Answers) -> Json:
    source = parse_model(answers.model)
    model: Json = {"source": source}
    if answers.hub_token_secret is not None:
        if "huggingFace" in source:
            source["huggingFace"]["tokenSecretName"] = answers.hub_token_secret
        elif answers.load_from is None:
            raise UsageError("a token of the Hub is for models that come from there, and this one doesn't")
    if answers.cache_size is not None:
        storage = {"storageClassName": answers.storage_class} if answers.storage_class else {}
        model["cache"] = {"size": answers.cache_size, **storage}
    spec: Json = {
        "model": model,
        "worker": {"gpu": {"resourceName": answers.gpu_resource, "count": answers.gpus}},
        "scaling": {
            "minReplicas": answers.min_replicas,
            "maxReplicas": answers.max_replicas,
            "targetLatencySeconds": answers.target_seconds,
        },
    }
    if answers.api_keys:
        spec["gateway"] = {"apiKeysSecretName": _keys_name(answers)}
    return spec


def _build_secrets(answers: Answers) -> list[Json]:
    secrets = []
    if answers.hub_token is not None and answers.hub_token_secret is not None:
        data = {names.SECRET_KEY_HUB_TOKEN: answers.hub_token}
        secrets.append(_build("Secret", answers.hub_token_secret, answers.namespace, "v1", stringData=data))
    for customer, key in (answers.api_keys or {}).items():
        if CUSTOMER.fullmatch(customer) is None:
            raise UsageError(f"--customer is {customer!r}; letters, digits, hyphens, dots and underscores are allowed")
        parse_api_key_entry(key.encode())
    if answers.api_keys:
        data = dict(answers.api_keys)
        secrets.append(_build("Secret", _keys_name(answers), answers.namespace, "v1", stringData=data))
    return secrets


def _build_loading(answers: Answers) -> list[Json]:
    """The claim and the Job that puts a model on it, where the model is on a claim and is to be loaded."""
    volume = parse_model(answers.model).get("persistentVolumeClaim")
    if answers.load_from is None and answers.claim_size is None:
        return []
    if volume is None:
        raise UsageError(
            "--load-from and --claim-size are of a model at pvc://CLAIM; for one of the Hub or a bucket, --cache-size "
            "gives the service a claim of its own, which Easel's own Job fills"
        )
    claim = []
    if answers.claim_size is not None:
        storage = {"storageClassName": answers.storage_class} if answers.storage_class else {}
        wanted = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": answers.claim_size}}}
        name = volume["claimName"]
        claim = [_build("PersistentVolumeClaim", name, answers.namespace, "v1", spec={**wanted, **storage})]
    return [*claim, *([_build_job(answers, volume)] if answers.load_from is not None else [])]


def _build_job(answers: Answers, volume: Mapping[str, str]) -> Json:
    """What ``hf download`` puts into a directory, as a pipeline in diffusers' layout. Its pod passes "restricted"."""
    repository, _, revision = str(answers.load_from).partition("@")
    target = f"{names.MODEL_DIRECTORY}/{volume.get('path', '')}".rstrip("/")
    container: Json = {
        "name": "load",
        "image": answers.loader_image,
        "command": ["hf", "download", repository, "--local-dir", target],
        "env": [{"name": names.ENV_HUB_CACHE, "value": "/tmp/hub"}],  # noqa: S108 - in the container
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "models", "mountPath": names.MODEL_DIRECTORY},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - in the container
        ],
    }
    container["command"] += ["--revision", revision] if revision else []
    if answers.hub_token_secret is not None:
        reference = {"name": answers.hub_token_secret, "key": names.SECRET_KEY_HUB_TOKEN}
        container["env"].append({"name": names.ENV_HUB_TOKEN, "valueFrom": {"secretKeyRef": reference}})
    pod = {
        "restartPolicy": "OnFailure",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": LOADER_USER,
            "fsGroup": LOADER_USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": volume["claimName"]}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    spec = {"backoffLimit": 4, "template": {"spec": pod}}
    return _build("Job", f"{answers.name}-load-model", answers.namespace, "batch/v1", spec=spec)


def _build(kind: str, name: str, namespace: str | None, version: str, **content: Any) -> Json:
    metadata = {"name": name} | ({"namespace": namespace} if namespace is not None else {})
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **content}


def _keys_name(answers: Answers) -> str:
    return f"{answers.name}-api-keys"


def describe_next_steps(answers: Answers, manifests: Sequence[Json], applied_by: str) -> list[str]:
    """What to type after it. ``applied_by``: what applies the manifests; empty where that is done."""
    kinds = {each["kind"] for each in manifests}
    namespace = f" -n {answers.namespace}" if answers.namespace else ""
    steps = [applied_by] if applied_by else []
    if "Job" in kinds:
        steps.append(f"kubectl wait --for=condition=Complete job/{answers.name}-load-model --timeout=1h{namespace}")
    return [*steps, f"easel status {answers.name} --watch{namespace}"]
