"""A service's gateways: one that is ready, and a key that it lets in."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from easel_contract import names
from easel_contract.keys import DIGEST_PREFIX, parse_api_key_entry

from easel_cli.cluster import paths
from easel_cli.cluster.access import Cluster, Json
from easel_cli.errors import CliError, UsageError

MAX_NAMED: Final = 10


def find_service(cluster: Cluster, name: str | None) -> Json:
    """The service of that name, or the only one of the namespace. Raises UsageError, or what the API server says."""
    if name is not None:
        service = cluster.find(paths.service(cluster.namespace, name), f"read service {name}")
        if service is None:
            raise UsageError(f"no service {name} in namespace {cluster.namespace}; easel status -A lists all")
        return service
    found = cluster.list_all(paths.services(cluster.namespace), "list services")
    if len(found) == 1:
        return found[0]
    named = ", ".join(each["metadata"]["name"] for each in found[:MAX_NAMED])
    raise UsageError(
        f"there are several services in namespace {cluster.namespace}: {named}; name one"
        if found
        else f"no service in namespace {cluster.namespace}; another namespace: -n, a first service: easel init"
    )


def list_pods(cluster: Cluster, service: str, component: str = "") -> list[Json]:
    """A service's pods, by name. Raises what the API server says."""
    selector = paths.pods_of(service, component)
    found = cluster.list_all(paths.core(cluster.namespace, "pods"), "list pods", labelSelector=selector)
    return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))


def is_ready(pod: Json) -> bool:
    """Whether it is up and takes requests."""
    conditions = pod.get("status", {}).get("conditions") or ()
    is_ending = "deletionTimestamp" in pod["metadata"]
    return not is_ending and any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def find_ready_gateway(cluster: Cluster, service: str) -> Json:
    """One of its gateway pods. Raises CliError if none is ready."""
    pods = list_pods(cluster, service, names.COMPONENT_GATEWAY)
    ready = next((pod for pod in pods if is_ready(pod)), None)
    if ready is None:
        raise CliError(f"none of {len(pods)} gateway pods of {service} is ready; easel status {service} says why")
    return ready


def find_api_key(cluster: Cluster, service: Json, customer: str | None) -> str | None:
    """A key in plain text from the service's Secret, the customer's or anybody's; None where no key is needed.

    Raises UsageError where there is none that could be sent, or what the API server says.
    """
    name = service["spec"].get("gateway", {}).get("apiKeysSecretName")
    if name is None:
        return None
    secret = cluster.find(paths.core(cluster.namespace, "secrets", name), f"read Secret {name} with the API keys")
    if secret is None:
        raise UsageError(f"Secret {name} with the service's API keys doesn't exist; make it, as easel init does")
    data: Mapping[str, str] = secret.get("data") or {}
    if customer is not None and customer not in data:
        raise UsageError(f"--customer {customer}: Secret {name} has {', '.join(sorted(data)) or 'nobody'}")
    for each in sorted(data) if customer is None else [customer]:
        if (key := _find_plain_key(data[each])) is not None:
            return key
    raise UsageError(f"Secret {name} has no key in plain text (digests can't be sent); give one by --api-key")


def _find_plain_key(encoded: Any) -> str | None:
    try:
        entry = parse_api_key_entry(base64.b64decode(encoded))
    except (ValueError, binascii.Error):  # one customer's fault is nobody else's
        return None
    return next((key for key in entry.keys if not key.startswith(DIGEST_PREFIX)), None)
