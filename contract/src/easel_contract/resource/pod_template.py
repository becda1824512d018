"""What somebody adds to the pods that Easel makes: a strategic-merge overlay, and what it may not say.

The overlay is a core/v1 PodTemplateSpec of which the CRD knows only what is refused: the whole of it would be twice the
CRD's size, and of one release. Its types are checked by the API server when the operator applies the Deployment.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, WithJsonSchema

from easel_contract import names
from easel_contract.schema import Model, cel, validations

# How lists of a pod are merged, by their path: the member that says which entries are the same. Lists that aren't here
# are replaced whole. As ``x-kubernetes-patch-merge-key`` of io.k8s.api.core.v1.PodSpec in the API server's /openapi/v2:
# https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/
_CONTAINER_KEYS: Final = {
    "env": "name",
    "ports": "containerPort",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
}
MERGE_KEYS: Final[dict[tuple[str, ...], str]] = {
    ("containers",): "name",
    ("initContainers",): "name",
    ("volumes",): "name",
    ("imagePullSecrets",): "name",
    ("hostAliases",): "ip",
    ("topologySpreadConstraints",): "topologyKey",
    ("resourceClaims",): "name",
    ("schedulingGates",): "name",
    ("evictionResponders",): "name",  # since 1.37
    **{(kind, name): key for kind in ("containers", "initContainers") for name, key in _CONTAINER_KEYS.items()},
}
DIRECTIVE: Final = "$patch"

_SAID_ELSEWHERE: Final = "worker.{0} and gateway.{0} say it"
_OF_EASEL: Final = "the operator counts on Easel's own"
OWN_POD_FIELDS: Final = {
    "restartPolicy": "the pods of a Deployment always start anew",
    "activeDeadlineSeconds": "it would end pods in the middle of their work",
    "terminationGracePeriodSeconds": _SAID_ELSEWHERE.format("terminationGracePeriodSeconds"),
}
OWN_SERVER_FIELDS: Final = {
    "image": _SAID_ELSEWHERE.format("image"),
    "command": _OF_EASEL,
    "args": _OF_EASEL,
    "livenessProbe": _OF_EASEL,
    "readinessProbe": _OF_EASEL,
    "startupProbe": _OF_EASEL,
    "lifecycle": "it is part of how requests survive the end of a pod",
    "terminationMessagePath": "the service's conditions quote what is written there",
    "terminationMessagePolicy": "the service's conditions quote what is written there",
    "restartPolicy": "a server that ends always starts anew",
}
OWN_RESOURCES: Final = ("requests", "limits")
OWN_ENV_PREFIX: Final = "EASEL_"
OWN_ENV: Final = (names.ENV_HUB_CACHE, names.ENV_HUB_TOKEN, names.ENV_ACCESS_KEY_ID, names.ENV_SECRET_ACCESS_KEY)
OWN_PORTS: Final = (names.HTTP_PORT, names.METRICS_PORT)
OWN_PORT_NAMES: Final = (names.HTTP_PORT_NAME, names.METRICS_PORT_NAME)
# Scratch room may lie elsewhere: of the volumes tmp and cache an overlay may say what they are.
OWN_VOLUMES: Final = (
    *("config", "model", "refiner", "vae", "safety-checker", "model-cache", "api-keys", "link-keys", "redis"),
)
OWN_VOLUME_PREFIX: Final = "add-on-"
OWN_DIRECTORIES: Final = (
    *(
        names.CONFIG_DIRECTORY,
        names.API_KEYS_DIRECTORY,
        names.LINK_KEYS_DIRECTORY,
        names.REDIS_DIRECTORY,
        names.ADD_ON_CREDENTIALS_DIRECTORY,
    ),
    *(names.MODEL_DIRECTORY, names.REFINER_DIRECTORY, names.VAE_DIRECTORY, names.SAFETY_CHECKER_DIRECTORY),
    names.MODEL_CACHE_DIRECTORY,
    names.ADD_ONS_DIRECTORY,
)
OWN_MOUNTS: Final = ("/tmp", names.CACHE_DIRECTORY)  # noqa: S108 - below them others may be mounted
OWN_LABELS: Final = (
    *(names.LABEL_COMPONENT, names.LABEL_NAME, names.LABEL_INSTANCE, names.LABEL_MANAGED_BY),
    names.LABEL_TEMPLATE_HASH,
)
OWN_ANNOTATIONS: Final = (names.ANNOTATION_DELETION_COST,)
OWN_PREFIX: Final = f"{names.API_GROUP}/"

SERVER: Final = names.CONTAINER_NAME
ENV_SENTENCE: Final = (
    f"container {SERVER}: variables that begin with {OWN_ENV_PREFIX} and {', '.join(OWN_ENV)} are Easel's own: fields "
    "of the resource say what they hold"
)
PORT_SENTENCE: Final = (
    f"container {SERVER}: ports {OWN_PORTS[0]} and {OWN_PORTS[1]} and the names {' and '.join(OWN_PORT_NAMES)} are "
    "Easel's own"
)
MOUNT_SENTENCE: Final = (
    f"container {SERVER}: {', '.join((*OWN_DIRECTORIES, *OWN_MOUNTS))} are Easel's own; mount it elsewhere (scratch "
    "room lies elsewhere if the volumes tmp and cache say so)"
)
RESOURCES_SENTENCE: Final = (
    f"container {SERVER}: {_SAID_ELSEWHERE.format('resources')}, and worker.gpu the GPUs; only claims belong here"
)
INIT_SENTENCE: Final = f"the name {SERVER} is that of Easel's own container; give the init container another"
VOLUME_SENTENCE: Final = (
    f"the volumes {', '.join(OWN_VOLUMES)} and those that begin with {OWN_VOLUME_PREFIX} are Easel's own; choose "
    "another name (of tmp and cache you may say what they are)"
)
LABELS_SENTENCE: Final = (
    f"labels that begin with {OWN_PREFIX} and {', '.join(OWN_LABELS)} are Easel's own: selectors go by them"
)
ANNOTATIONS_SENTENCE: Final = (
    f"annotations that begin with {OWN_PREFIX} and {', '.join(OWN_ANNOTATIONS)} are Easel's own: "
    "the operator writes them"
)


def refuse_pod_field(field: str) -> str:
    """Why a field of the pod isn't taken."""
    return f"{field} can't be in a podTemplate: {OWN_POD_FIELDS[field]}"


def refuse_server_field(field: str) -> str:
    """Why a field of Easel's own container isn't taken."""
    return f"{field} of container {SERVER} can't be in a podTemplate: {OWN_SERVER_FIELDS[field]}"


def _entries(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def find_refusals(spec: dict[str, Any]) -> Iterator[str]:
    """Sentences that say what an overlay of a pod's spec may not have; none where it may be merged."""
    yield from _find_misshapen(spec, ())
    yield from (refuse_pod_field(field) for field in OWN_POD_FIELDS if field in spec)
    for container in _entries(spec.get("containers")):
        if container.get("name") == SERVER:
            yield from _find_refusals_of_server(container)
    if any(each.get("name") == SERVER for each in _entries(spec.get("initContainers"))):
        yield INIT_SENTENCE
    names_of_volumes = [str(each.get("name")) for each in _entries(spec.get("volumes"))]
    if any(name in OWN_VOLUMES or name.startswith(OWN_VOLUME_PREFIX) for name in names_of_volumes):
        yield VOLUME_SENTENCE


def _find_refusals_of_server(container: dict[str, Any]) -> Iterator[str]:
    yield from (refuse_server_field(field) for field in OWN_SERVER_FIELDS if field in container)
    if DIRECTIVE in container:
        yield f"container {SERVER} is Easel's own and can't be replaced or deleted"
    variables = [str(each.get("name")) for each in _entries(container.get("env"))]
    if any(name in OWN_ENV or name.startswith(OWN_ENV_PREFIX) for name in variables):
        yield ENV_SENTENCE
    ports = _entries(container.get("ports"))
    if any(each.get("containerPort") in OWN_PORTS or each.get("name") in OWN_PORT_NAMES for each in ports):
        yield PORT_SENTENCE
    mounts = [str(each.get("mountPath")) for each in _entries(container.get("volumeMounts"))]
    if any(_is_own_mount(path) for path in mounts):
        yield MOUNT_SENTENCE
    resources = container.get("resources")
    if isinstance(resources, dict) and any(section in resources for section in OWN_RESOURCES):
        yield RESOURCES_SENTENCE


def _is_own_mount(path: str) -> bool:
    bare = path.rstrip("/")
    return bare in OWN_MOUNTS or any(bare == own or bare.startswith(f"{own}/") for own in OWN_DIRECTORIES)


def _find_misshapen(node: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """What couldn't be merged by any rule: entries without their key, and directives that aren't known."""
    for name, value in node.items():
        here = (*path, name)
        where = ".".join(here)
        if name == DIRECTIVE and value not in ("delete", "replace"):
            yield f"{where} must be delete or replace (value seen: {value!r})"
        elif name.startswith("$") and name != DIRECTIVE:
            yield f"{where} isn't known here; of a strategic merge's directives there is {DIRECTIVE}"
        key = MERGE_KEYS.get(here)
        if key is not None and not isinstance(value, list | None):
            yield f"{where} must be a list (value seen: {value!r})"
        for place, each in enumerate(value if isinstance(value, list) else ()):
            if key is not None and not (isinstance(each, dict) and key in each):
                yield f"{where}[{place}] must be an object with {key}, by which it is merged (value seen: {each!r})"
            if isinstance(each, dict):
                yield from _find_misshapen(each, here)
        if isinstance(value, dict):
            yield from _find_misshapen(value, here)


def _check_pod_spec(spec: dict[str, Any]) -> dict[str, Any]:
    problems = list(find_refusals(spec))
    if problems:
        raise ValueError("; ".join(problems))
    return spec


def _check_keys(own: tuple[str, ...], sentence: str) -> AfterValidator:
    def check(value: dict[str, str]) -> dict[str, str]:
        if any(key in own or key.startswith(OWN_PREFIX) for key in value):
            raise ValueError(sentence)
        return value

    return AfterValidator(check)


def _keys_rule(own: tuple[str, ...], sentence: str) -> dict[str, Any]:
    return validations(cel(f"self.all(key, !(key in {list(own)}) && !key.startsWith('{OWN_PREFIX}'))", sentence))


_ANY: Final[dict[str, Any]] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _open(properties: dict[str, Any], *rules: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """An object of which the schema knows these members, and keeps others as they are."""
    schema = {**_ANY, "properties": properties}
    if required:
        schema["required"] = list(required)
    return {**schema, **validations(*rules)} if rules else schema


def _list(item: dict[str, Any], max_items: int) -> dict[str, Any]:
    return {"type": "array", "maxItems": max_items, "items": item}


def _keyed(item: dict[str, Any], max_items: int, *, key: str) -> dict[str, Any]:
    return {**_list(item, max_items), "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def _text(max_length: int) -> dict[str, Any]:
    return {"type": "string", "maxLength": max_length}


def _build_container_schema() -> dict[str, Any]:
    refused = {
        **dict.fromkeys(("image", "terminationMessagePath", "terminationMessagePolicy", "restartPolicy"), _text(1024)),
        **dict.fromkeys(("command", "args"), _list({"type": "string"}, 1024)),
        **dict.fromkeys(("livenessProbe", "readinessProbe", "startupProbe", "lifecycle"), _ANY),
    }
    parts = {
        "name": _text(63),
        "env": _list(_open({"name": _text(253)}, required=("name",)), 256),
        "ports": _list(
            _open({"containerPort": {"type": "integer"}, "name": _text(15)}, required=("containerPort",)), 64
        ),
        "volumeMounts": _list(_open({"mountPath": _text(256)}, required=("mountPath",)), 64),
        "resources": _open(dict.fromkeys(OWN_RESOURCES, _ANY)),
    }
    is_other = f"self.name != '{SERVER}'"
    directories = "|".join(OWN_DIRECTORIES)
    rules = [
        *(cel(f"{is_other} || !has(self.{field})", refuse_server_field(field)) for field in OWN_SERVER_FIELDS),
        cel(
            f"{is_other} || !has(self.env) || self.env.all(each, !(each.name in {list(OWN_ENV)}) "
            f"&& !each.name.startsWith('{OWN_ENV_PREFIX}'))",
            ENV_SENTENCE,
        ),
        cel(
            f"{is_other} || !has(self.ports) || self.ports.all(each, !(each.containerPort in {list(OWN_PORTS)}) "
            f"&& (!has(each.name) || !(each.name in {list(OWN_PORT_NAMES)})))",
            PORT_SENTENCE,
        ),
        cel(
            f"{is_other} || !has(self.volumeMounts) || self.volumeMounts.all(each, "
            f"!each.mountPath.matches('^(({directories})(/.*)?|({'|'.join(OWN_MOUNTS)})/*)$'))",
            MOUNT_SENTENCE,
        ),
        cel(
            f"{is_other} || !has(self.resources) || "
            f"({' && '.join(f'!has(self.resources.{section})' for section in OWN_RESOURCES)})",
            RESOURCES_SENTENCE,
        ),
    ]
    return _open({**parts, **refused}, *rules, required=("name",))


def _build_pod_spec_schema() -> dict[str, Any]:
    named = _open({"name": _text(63)}, required=("name",))
    of_volumes = cel(
        f"!(self.name in {list(OWN_VOLUMES)}) && !self.name.startsWith('{OWN_VOLUME_PREFIX}')", VOLUME_SENTENCE
    )
    properties = {
        "restartPolicy": _text(64),
        "activeDeadlineSeconds": {"type": "integer"},
        "terminationGracePeriodSeconds": {"type": "integer"},
        "containers": _keyed(_build_container_schema(), 16, key="name"),
        "initContainers": _keyed(
            {**named, **validations(cel(f"self.name != '{SERVER}'", INIT_SENTENCE))}, 16, key="name"
        ),
        "volumes": _keyed({**named, **validations(of_volumes)}, 64, key="name"),
        "tolerations": _list(_ANY, 64),
    }
    return _open(properties, *(cel(f"!has(self.{field})", refuse_pod_field(field)) for field in OWN_POD_FIELDS))


POD_TEMPLATE_DESCRIPTION: Final = (
    "What these pods have besides: merged over Easel's own pod and the installation's defaults, as by `kubectl patch "
    "--type strategic`. A change replaces the pods."
)


class PodTemplateMetadata(Model):
    """What pods are called and marked with, beside Easel's own."""

    labels: Annotated[dict[str, str], _check_keys(OWN_LABELS, LABELS_SENTENCE)] = Field(
        default_factory=dict, json_schema_extra=_keys_rule(OWN_LABELS, LABELS_SENTENCE), description="Of the pods."
    )
    annotations: Annotated[dict[str, str], _check_keys(OWN_ANNOTATIONS, ANNOTATIONS_SENTENCE)] = Field(
        default_factory=dict,
        json_schema_extra=_keys_rule(OWN_ANNOTATIONS, ANNOTATIONS_SENTENCE),
        description="Of the pods.",
    )


class PodTemplate(Model):
    """core/v1 PodTemplateSpec, merged over the pods that Easel makes as `kubectl patch --type strategic` merges."""

    metadata: PodTemplateMetadata = PodTemplateMetadata()
    spec: Annotated[
        dict[str, Any],
        AfterValidator(_check_pod_spec),
        WithJsonSchema(_build_pod_spec_schema()),
    ] = Field(
        default_factory=dict,
        description="Any field of a core/v1 PodSpec but those that are Easel's own. Containers, volumes, variables and "
        "the like are merged by name (Easel's own container is `server`), tolerations and other lists replaced; "
        "`$patch: delete` in an entry takes away one of the installation's defaults.",
    )
