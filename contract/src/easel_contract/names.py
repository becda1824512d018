"""API group, labels, annotations, ports, paths and environment variables that cross a process boundary."""

from typing import Final

DISTRIBUTION: Final = "easel-serving"  # on package indexes, where "easel" is somebody else's library

API_GROUP: Final = "easel.dev"
API_VERSION: Final = "v1alpha1"  # what is stored, and what the operator reads and writes: the version of every release
# All that the API server takes, the one to write in files first. They differ in name only, so it converts by itself.
SERVED_API_VERSIONS: Final = ("v1beta1", API_VERSION)
KIND: Final = "StableDiffusionService"
PLURAL: Final = "stablediffusionservices"
SINGULAR: Final = "stablediffusionservice"
SHORT_NAMES: Final = ("sds",)
CATEGORY: Final = "easel"
FIELD_MANAGER: Final = "easel-operator"

# Every child of a service carries these labels; the first two also select its pods.
LABEL_SERVICE: Final = "easel.dev/service"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
APP_NAME: Final = "easel"
COMPONENT_GATEWAY: Final = "gateway"
COMPONENT_WORKER: Final = "worker"
COMPONENT_MODEL_CACHE: Final = "model-cache"  # the claim, and the Job that fills it
COMPONENT_OPERATOR: Final = "operator"  # of the chart's pods
COMPONENT_REDIS: Final = "redis"  # the same
LABEL_NAMESPACE_NAME: Final = "kubernetes.io/metadata.name"  # which every namespace has

# On pod templates: a change of the rendered configuration changes the hash, which rolls the pods.
ANNOTATION_CONFIG_HASH: Final = "easel.dev/config-hash"
# On pods: the template that they were made of, and the model of its spec, as JSON.
ANNOTATION_REVISION: Final = "easel.dev/revision"
ANNOTATION_MODEL: Final = "easel.dev/model"
ANNOTATION_MODEL_CACHE: Final = "easel.dev/model-cache"  # likewise, and of the Job that fills it: the cache's record
# Of a worker Deployment: the installation's release, and a hash of the spec's part, that its template was made of; and
# which of the two changed last.
ANNOTATION_RELEASE: Final = "easel.dev/release"
ANNOTATION_WORKER_SPEC: Final = "easel.dev/worker-spec"
ANNOTATION_ROLLOUT_CAUSE: Final = "easel.dev/rollout-cause"
# And the way back: what it runs, what it ran when a worker was last ready, and a digest of what failed since.
ANNOTATION_RUNS: Final = "easel.dev/runs"
ANNOTATION_LAST_GOOD: Final = "easel.dev/last-good"
ANNOTATION_FAILED: Final = "easel.dev/failed"
ANNOTATION_CANARY: Final = "easel.dev/canary"  # the step of a canary, as JSON; and how the last one ended
# Which earlier revision it runs, by its number. Its ReplicaSets have all of these too: that is the history.
ANNOTATION_TO_REVISION: Final = "easel.dev/to-revision"
ANNOTATION_DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"  # the ReplicaSet controller reads it
# On running gateway pods: the configuration to which their kubelet was last asked to renew their mounted file.
ANNOTATION_LIVE_CONFIG: Final = "easel.dev/live-config"
LABEL_TEMPLATE_HASH: Final = "pod-template-hash"  # the Deployment controller names a ReplicaSet by it

# On services of earlier releases. Nobody sets it any more: it would keep a service for ever while no operator runs.
FINALIZER: Final = f"{API_GROUP}/cleanup"

HTTP_PORT: Final = 8080
HTTP_PORT_NAME: Final = "http"
METRICS_PORT: Final = 9090  # metrics and probes of a pod: a port that no Service and no Ingress leads to
METRICS_PORT_NAME: Final = "metrics"
SERVICE_PORT: Final = 80
REDIS_PORT: Final = 6379  # of the one that the chart installs

CONTAINER_NAME: Final = "server"
CONFIG_DIRECTORY: Final = "/etc/easel"
CONFIG_KEY_GATEWAY: Final = "gateway.json"
CONFIG_KEY_WORKER: Final = "worker.json"
CONFIG_KEY_OTHER_WORKER: Final = "worker-b.json"  # of the workers' other revision while a canary runs; and from then on
CONFIG_KEY_QUEUE: Final = "queue.json"  # a gateway's, beside its configuration
API_KEYS_DIRECTORY: Final = "/etc/easel-api-keys"
LINK_KEYS_DIRECTORY: Final = "/etc/easel-link-keys"
REDIS_DIRECTORY: Final = "/etc/easel-redis"
MODEL_DIRECTORY: Final = "/models"
REFINER_DIRECTORY: Final = "/refiner"
VAE_DIRECTORY: Final = "/vae"
ADD_ONS_DIRECTORY: Final = "/add-ons"  # of a worker: claims, each under its name
ADD_ON_CREDENTIALS_DIRECTORY: Final = "/etc/easel-add-ons"  # likewise: Secrets with keys of buckets
SAFETY_CHECKER_DIRECTORY: Final = "/safety-checker"
MODEL_CACHE_DIRECTORY: Final = "/model-cache"  # of a worker, read-only; of the Job that fills it
MODEL_COPIES_DIRECTORY: Final = "s3"  # below it: copies of buckets
CACHE_DIRECTORY: Final = "/cache"  # of a worker: what libraries download
CACHE_DIRECTORY_OWN: Final = f"{CACHE_DIRECTORY}/easel"  # what it makes once and reads at later starts
TERMINATION_MESSAGE_PATH: Final = "/dev/termination-log"

ENV_REDIS_URL: Final = "EASEL_REDIS_URL"
# A file with the same URL, whose user and password count at each new connection: they change while a process runs.
ENV_REDIS_URL_FILE: Final = "EASEL_REDIS_URL_FILE"
ENV_WEBHOOK_SECRET: Final = "EASEL_WEBHOOK_SECRET"
ENV_LINK_KEYS: Final = "EASEL_LINK_KEYS"
ENV_REVISION: Final = "EASEL_REVISION"  # of the sources that an image was built of; unset elsewhere
ENV_POD_NAME: Final = "EASEL_POD_NAME"
ENV_CACHE_DIRECTORY: Final = "EASEL_CACHE_DIR"  # where a worker keeps what it makes once and reads at later starts
ENV_HUB_CACHE: Final = "HF_HOME"  # huggingface_hub reads this name
ENV_HUB_TOKEN: Final = "HF_TOKEN"  # huggingface_hub reads this name
ENV_HUB_ENDPOINT: Final = "HF_ENDPOINT"
ENV_HUB_OFFLINE: Final = "HF_HUB_OFFLINE"
ENV_PROXIES: Final = ("HTTPS_PROXY", "HTTP_PROXY")
ENV_NO_PROXY: Final = "NO_PROXY"
ENV_ACCESS_KEY_ID: Final = "AWS_ACCESS_KEY_ID"  # clients of buckets read these names
ENV_SECRET_ACCESS_KEY: Final = "AWS_SECRET_ACCESS_KEY"

# Keys inside Secrets that users make and services refer to.
SECRET_KEY_HUB_TOKEN: Final = "token"
SECRET_KEY_PROXY: Final = "proxy"
SECRET_KEY_WEBHOOK: Final = "signing-secret"
SECRET_KEY_REDIS_URL: Final = "url"
SECRET_KEY_AUTHORITIES: Final = "ca.crt"  # beside it, where Redis has a certificate of an authority of its own
SECRET_KEY_LINKS: Final = "keys"
SECRET_KEY_ACCESS_KEY_ID: Final = "access-key-id"
SECRET_KEY_SECRET_ACCESS_KEY: Final = "secret-access-key"

PATH_HEALTH: Final = "/healthz"
PATH_READY: Final = "/readyz"
PATH_METRICS: Final = "/metrics"
# The operator knows whose page it reads, and asks for it without the labels that say it: with them each service's
# series would be others, and none could be remembered.
METRICS_QUERY_BARE: Final = {"labels": "none"}
PATH_USAGE: Final = "/usage"  # on a gateway's port for metrics: what customers' jobs took, by day

# A worker that can't load its model exits with this code and writes the reason to TERMINATION_MESSAGE_PATH,
# so that the operator distinguishes a bad model from a crash. (sysexits.h: EX_CONFIG)
EXIT_MODEL_LOAD_FAILED: Final = 78
# One whose engine generates nothing any more does the same with this one. (sysexits.h: EX_SOFTWARE)
EXIT_ENGINE_FAILED: Final = 70

# Behind a service's prefix: what the operator reads and writes when the service is deleted. The first is a hash whose
# field "reason" tells the service's processes to take nothing new and to end what waits.
REDIS_KEY_CLOSING: Final = "closing"
REDIS_FIELD_CLOSING_REASON: Final = "reason"
REDIS_KEYS_OF_WORK: Final = ("waiting", "running", "outbox")  # sorted sets, empty once nobody waits for anything

# What a service's Redis user must be allowed to do on its prefix, as words of an ACL rule. Scripts are checked by what
# they call; INFO memory has the eviction policy. CLIENT TRACKING would let it follow the names of others' keys.
REDIS_ACL_COMMANDS: Final = (
    "+@connection",
    "+@hash",
    "+@list",
    "+@sortedset",
    "+@string",
    "+del",
    "+eval",
    "+evalsha",
    "+pexpire",
    "+publish",
    "+subscribe",
    "+time",
    "+unsubscribe",
    "-@dangerous",
    "-client",
    "+info|memory",
)


def install_hint(extra: str) -> str:
    """How to get an optional part. Nothing is published, and what has our name on an index may be somebody else's."""
    return f"pip install '.[{extra}]' in a checkout of Easel"


# What the operator's user needs besides, on all keys that begin with "easel:", since it cleans up after services. Where
# it is the services' user too, as after an installation with one URL, that one needs both.
REDIS_ACL_OPERATOR_COMMANDS: Final = ("+expire", "+scan", "+unlink")


def gateway_name(service: str) -> str:
    """Name of the gateway Deployment of a service."""
    return f"{service}-gateway"


def worker_name(service: str) -> str:
    """Name of the worker Deployment of a service, and of its HorizontalPodAutoscaler."""
    return f"{service}-worker"


def model_cache_name(service: str) -> str:
    """Name of the claim that keeps a service's model, and how the names of the Jobs that fill it begin."""
    return f"{service}-models"


def redis_secret_name(service: str) -> str:
    """Name of the Secret that holds the service's Redis URL under SECRET_KEY_REDIS_URL."""
    return f"{service}-redis"


def links_secret_name(service: str) -> str:
    """Name of the Secret with the keys that the service's links are signed with, under SECRET_KEY_LINKS."""
    return f"{service}-links"


def redis_prefix(namespace: str, service: str, uid: str = "") -> str:
    """Prefix of every Redis key of a service.

    ``uid`` is the resource's, so that a service inherits nothing of an earlier one of its name; empty outside
    Kubernetes. The braces are a Redis Cluster hash tag: all keys of a service live in one slot, so scripts may touch
    several.
    """
    return f"easel:{{{'/'.join(filter(None, (namespace, service, uid)))}}}:"


def redis_registry_key(cluster_uid: str) -> str:
    """Hash of the services that one cluster's operator has seen: prefix -> NAMESPACE/NAME.

    Clusters may share a Redis; the uid of the namespace ``kube-system`` tells them apart.
    """
    return f"easel:operator:{{{cluster_uid}}}:services"
