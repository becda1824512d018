"""The parts that gateway and worker pods share: a locked-down container, its configuration, its probes.

The security context satisfies the Restricted profile of
https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from collections.abc import Mapping
from typing import Final

from easel_contract import names
from easel_contract.resource import DisruptionBudget, ResourceRequirements, ResultsSpec, RoleDefaults
from easel_contract.resource.egress import EgressSpec
from easel_contract.resource.worker import GatewayScratchSpec, WorkerScratchSpec
from easel_contract.schema import Quantity

from easel_operator.manifests.configuration import CLUSTER_DOMAIN, config_map_name
from easel_operator.manifests.metadata import CONFIG_VOLUME, ChildContext, Owner, build_metadata, build_pod_selector
from easel_operator.objects import Json

POD_SECURITY_CONTEXT: Final[Json] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_SECURITY_CONTEXT: Final[Json] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
# Of scratch room that the resource says nothing of: above all that is known to be needed.
GATEWAY_TMP: Final = "2Gi"
WORKER_TMP: Final = "10Gi"
WORKER_CACHE: Final = "200Gi"  # of which add-ons take 64Gi at the most
# The pod itself, and the cluster's Services, such as a collector of traces: a proxy outside doesn't know them.
NEVER_PROXIED: Final = ("localhost", "127.0.0.1", "::1", ".svc", f".{CLUSTER_DOMAIN}")
READINESS_PERIOD_SECONDS: Final = 2
LIVENESS_PERIOD_SECONDS: Final = 10
STARTUP_PERIOD_SECONDS: Final = 1  # a pod is not asked for readiness before its start-up probe answered


def service_account_name(owner: Owner) -> str:
    """Name of the ServiceAccount of a service's pods."""
    return owner.name


def build_container(
    context: ChildContext, *, role: str, image: str | None, resources: Json, start_seconds: int
) -> Json:
    """The server's container in a role (``gateway`` or ``worker``), which has ``start_seconds`` to come up; without an
    image of its own it has the release's."""
    owner, release = context.owner, context.release
    released, policy = (
        (release.gateway_image, release.gateway_image_pull_policy)
        if role == names.COMPONENT_GATEWAY
        else (release.worker_image, release.worker_image_pull_policy)
    )
    return {
        "name": names.CONTAINER_NAME,
        "image": image or released,
        **({} if image is not None or policy is None else {"imagePullPolicy": policy}),
        "args": [
            *("--role", role, "--config", f"{names.CONFIG_DIRECTORY}/{role}.json"),
            *("--host", "0.0.0.0", "--metrics-port", str(names.METRICS_PORT)),  # noqa: S104 - the pod's own address
        ],
        "ports": [build_port(names.METRICS_PORT_NAME, names.METRICS_PORT)],
        "env": [
            {"name": names.ENV_POD_NAME, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            build_secret_env(
                names.ENV_REDIS_URL, names.redis_secret_name(owner.name), names.SECRET_KEY_REDIS_URL, optional=False
            ),
            # The same once more: what is in the environment stays as it was when the container started.
            {"name": names.ENV_REDIS_URL_FILE, "value": f"{names.REDIS_DIRECTORY}/{names.SECRET_KEY_REDIS_URL}"},
        ],
        "resources": resources,
        "startupProbe": _probe(
            names.PATH_HEALTH, period_seconds=STARTUP_PERIOD_SECONDS, failures=start_seconds // STARTUP_PERIOD_SECONDS
        ),
        "readinessProbe": _probe(names.PATH_READY, period_seconds=READINESS_PERIOD_SECONDS, failures=2),
        "livenessProbe": _probe(names.PATH_HEALTH, period_seconds=LIVENESS_PERIOD_SECONDS, failures=6),
        "terminationMessagePath": names.TERMINATION_MESSAGE_PATH,
        # Without a message of its own, the last lines of the log say why it ended.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": CONTAINER_SECURITY_CONTEXT,
        "volumeMounts": [
            {"name": CONFIG_VOLUME, "mountPath": names.CONFIG_DIRECTORY, "readOnly": True},
            {"name": "redis", "mountPath": names.REDIS_DIRECTORY, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume's mount point inside the container
        ],
    }


def build_pod_spec(owner: Owner, container: Json, *, files: Mapping[str, str], grace_seconds: int, tmp: Json) -> Json:
    """A pod around one container; it sees its role's configuration only: ``files`` are keys of the ConfigMap, by their
    names in the pod. It has the volume ``tmp`` for the rest."""
    items = [{"key": key, "path": path} for path, key in files.items()]
    return {
        "serviceAccountName": service_account_name(owner),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds,
        "securityContext": POD_SECURITY_CONTEXT,
        "containers": [container],
        "volumes": [
            {"name": CONFIG_VOLUME, "configMap": {"name": config_map_name(owner), "items": items}},
            {"name": "redis", "secret": {"secretName": names.redis_secret_name(owner.name)}},
            tmp,
        ],
    }


def build_scratch(name: str, said: GatewayScratchSpec | WorkerScratchSpec | None, *, default: str) -> Json:
    """A volume on the node's disk: a pod that writes more is evicted, and its neighbours keep their room."""
    size: Quantity | None = getattr(said, name, None)
    return {"name": name, "emptyDir": {"sizeLimit": default if size is None else str(size)}}


def build_secret_env(variable: str, secret: str, key: str, *, optional: bool) -> Json:
    """An environment variable that takes its value from a Secret's key."""
    reference: Json = {"name": secret, "key": key}
    if optional:
        reference["optional"] = True
    return {"name": variable, "valueFrom": {"secretKeyRef": reference}}


def read_egress(context: ChildContext) -> EgressSpec:
    """How the service's pods get to the Hub: what it says itself, else the installation's default."""
    return context.spec.downloads.over(context.release.defaults.downloads)


def build_egress_env(context: ChildContext) -> list[Json]:
    """The variables by which the clients of the Hub and of buckets know mirror and proxy; none where none is set."""
    egress = read_egress(context)
    env: list[Json] = []
    if egress.hub_endpoint is not None:
        env.append({"name": names.ENV_HUB_ENDPOINT, "value": egress.hub_endpoint})
    if egress.offline:
        env.append({"name": names.ENV_HUB_OFFLINE, "value": "1"})
    if (proxy := egress.proxy) is not None:
        env += [
            {"name": name, "value": proxy.address}
            if proxy.secret_name is None
            else build_secret_env(name, proxy.secret_name, names.SECRET_KEY_PROXY, optional=False)
            for name in names.ENV_PROXIES
        ]
        env.append({"name": names.ENV_NO_PROXY, "value": ",".join((*NEVER_PROXIED, *proxy.exceptions))})
    return env


def build_bucket_env(results: ResultsSpec) -> list[Json]:
    """The bucket's credentials, from the Secret that the resource names; none where pods have their own identity."""
    if results.bucket is None or results.bucket.credentials_secret_name is None:
        return []
    secret = results.bucket.credentials_secret_name
    return [
        build_secret_env(names.ENV_ACCESS_KEY_ID, secret, names.SECRET_KEY_ACCESS_KEY_ID, optional=False),
        build_secret_env(names.ENV_SECRET_ACCESS_KEY, secret, names.SECRET_KEY_SECRET_ACCESS_KEY, optional=False),
    ]


def to_resources(requirements: ResourceRequirements, defaults: RoleDefaults) -> Json:
    """core/v1 ResourceRequirements without empty members. The installation's defaults are for what the service names
    neither as a request nor as a limit: a default request above the service's own limit would be refused."""
    said, default = requirements.to_wire(), defaults.resources.to_wire()
    named = {name for amounts in said.values() for name in amounts}
    merged = {
        section: {name: amount for name, amount in default[section].items() if name not in named} | amounts
        for section, amounts in said.items()
    }
    return {section: amounts for section, amounts in merged.items() if amounts}


def build_disruption_budget(owner: Owner, *, name: str, component: str, budget: DisruptionBudget | None) -> Json:
    """Lets nodes be drained while so many of a component's pods are away. One that isn't ready anyway never keeps its
    node from being drained."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": build_metadata(owner, name, component),
        "spec": {
            "maxUnavailable": (budget or DisruptionBudget()).max_unavailable,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": build_pod_selector(owner, component)},
        },
    }


def build_port(name: str, number: int) -> Json:
    """A port that a container listens on."""
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def _probe(path: str, *, period_seconds: int, failures: int) -> Json:
    return {
        "httpGet": {"path": path, "port": names.METRICS_PORT_NAME},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }
