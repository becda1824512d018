"""Kubernetes objects as the raw JSON that the API server sends: the type's name, and how to read what all of them have.

Raw JSON rather than typed models: decoding thousands of objects into classes costs more time and memory than all of
the operator's decisions together. No I/O here.
"""

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from easel_contract import names

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, order=True)
class ServiceKey:
    """Which StableDiffusionService; what the queue carries."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, order=True)
class ObjectKey:
    """Which object of any kind."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True)
class Resource:
    """Where the API server keeps a kind."""

    kind: str
    api_version: str
    plural: str

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path of the collection, of one object, or of its subresource; all namespaces if there is none."""
        root = "/api/v1" if self.api_version == "v1" else f"/apis/{self.api_version}"
        parts = [root]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part is not None]
        return "/".join(parts)


SERVICES_OF_EASEL: Final = Resource(names.KIND, f"{names.API_GROUP}/{names.API_VERSION}", names.PLURAL)
NAMESPACES: Final = Resource("Namespace", "v1", "namespaces")
PODS: Final = Resource("Pod", "v1", "pods")
EVENTS: Final = Resource("Event", "events.k8s.io/v1", "events")
LEASES: Final = Resource("Lease", "coordination.k8s.io/v1", "leases")
API_SERVICES: Final = Resource("APIService", "apiregistration.k8s.io/v1", "apiservices")
ENDPOINT_SLICES: Final = Resource("EndpointSlice", "discovery.k8s.io/v1", "endpointslices")
SERVICES: Final = Resource("Service", "v1", "services")
CLUSTER_ROLES: Final = Resource("ClusterRole", "rbac.authorization.k8s.io/v1", "clusterroles")
ROLE_BINDINGS: Final = Resource("RoleBinding", "rbac.authorization.k8s.io/v1", "rolebindings")
SELF_ACCESS_REVIEWS: Final = Resource("SelfSubjectAccessReview", "authorization.k8s.io/v1", "selfsubjectaccessreviews")
SERVICE_ACCOUNTS: Final = Resource("ServiceAccount", "v1", "serviceaccounts")
CONFIG_MAPS: Final = Resource("ConfigMap", "v1", "configmaps")
SECRETS: Final = Resource("Secret", "v1", "secrets")
PERSISTENT_VOLUME_CLAIMS: Final = Resource("PersistentVolumeClaim", "v1", "persistentvolumeclaims")
DEPLOYMENTS: Final = Resource("Deployment", "apps/v1", "deployments")
JOBS: Final = Resource("Job", "batch/v1", "jobs")
REPLICA_SETS: Final = Resource("ReplicaSet", "apps/v1", "replicasets")  # never watched: the history of a Deployment
HPAS: Final = Resource("HorizontalPodAutoscaler", "autoscaling/v2", "horizontalpodautoscalers")

# Kinds that not every cluster has; where one isn't served, a service that asks for it is told so in its conditions.
HTTP_ROUTES: Final = Resource("HTTPRoute", "gateway.networking.k8s.io/v1", "httproutes")
POD_MONITORS: Final = Resource("PodMonitor", "monitoring.coreos.com/v1", "podmonitors")
PROMETHEUS_RULES: Final = Resource("PrometheusRule", "monitoring.coreos.com/v1", "prometheusrules")
OPTIONAL_RESOURCES: Final = (HTTP_ROUTES, POD_MONITORS, PROMETHEUS_RULES)

# The kinds that a service may own, in the order in which they are applied: what pods need comes before the pods.
NETWORK_POLICIES: Final = Resource("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies")
POD_MAKERS: Final = (JOBS, DEPLOYMENTS, HPAS)  # what costs nodes and GPUs
CHILD_RESOURCES: Final = (
    SERVICE_ACCOUNTS,
    SECRETS,
    CONFIG_MAPS,
    PERSISTENT_VOLUME_CLAIMS,
    SERVICES,
    Resource("PodDisruptionBudget", "policy/v1", "poddisruptionbudgets"),
    Resource("Ingress", "networking.k8s.io/v1", "ingresses"),
    NETWORK_POLICIES,
    *OPTIONAL_RESOURCES,
    *POD_MAKERS,
)
RESOURCE_BY_KIND: Final = {resource.kind: resource for resource in CHILD_RESOURCES}


def to_object_key(body: Json) -> ObjectKey:
    """Key of an object that carries its kind."""
    metadata = body["metadata"]
    return ObjectKey(body["kind"], metadata.get("namespace", ""), metadata["name"])


def to_service_key(body: Json) -> ServiceKey:
    """Key of a StableDiffusionService."""
    return ServiceKey(body["metadata"]["namespace"], body["metadata"]["name"])


def to_owner_key(body: Json) -> ServiceKey | None:
    """The service whose label an object carries, or None."""
    service = body["metadata"].get("labels", {}).get(names.LABEL_SERVICE)
    return ServiceKey(body["metadata"].get("namespace", ""), service) if service else None


def is_living(service: Json) -> bool:
    """Whether a service isn't on its way out."""
    return "deletionTimestamp" not in service["metadata"]


def is_owned_by(body: Json, uid: str) -> bool:
    """Whether the object's controller is the one with this uid."""
    references = body["metadata"].get("ownerReferences", [])
    return any(reference.get("uid") == uid and reference.get("controller") for reference in references)


def is_outdated(body: Json, known: Json | None) -> bool:
    """Whether a version of an object says nothing that ``known`` doesn't say: the rule of everything that is watched.

    An object that was made anew under the same name is news, whatever its version.
    """
    if known is None or known["metadata"].get("uid") != body["metadata"].get("uid"):
        return False
    return not is_newer(body["metadata"].get("resourceVersion", "0"), known["metadata"].get("resourceVersion", "0"))


def is_newer(version: str, other: str) -> bool:
    """Whether one resource version comes after another of the same kind.

    Versions are numbers that grow, over all objects of a kind and its lists: Kubernetes 1.35 says so (KEP-5504,
    https://github.com/kubernetes/enhancements/issues/5504), and it holds for what earlier ones keep in etcd. Where they
    aren't numbers nothing is known about their order, and what was heard last is taken for the newer.
    """
    if version.isdecimal() and other.isdecimal():
        return int(version) > int(other)
    return version != other


def find_condition(body: Json, kind: str) -> Json | None:
    """The entry of status.conditions with this type, or None."""
    conditions: list[Json] = body.get("status", {}).get("conditions") or []
    return next((condition for condition in conditions if condition.get("type") == kind), None)
