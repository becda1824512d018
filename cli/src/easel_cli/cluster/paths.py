"""Where things are in the API."""

from typing import Final
from urllib.parse import quote

from easel_contract import names

SERVICES: Final = f"/apis/{names.API_GROUP}/{names.API_VERSION}"
NODES: Final = "/api/v1/nodes"


def services(namespace: str | None) -> str:
    """StableDiffusionServices of a namespace, or of all."""
    where = f"/namespaces/{quote(namespace)}" if namespace is not None else ""
    return f"{SERVICES}{where}/{names.PLURAL}"


def service(namespace: str, name: str) -> str:
    """One."""
    return f"{services(namespace)}/{quote(name)}"


def core(namespace: str, kind: str, name: str = "") -> str:
    """Objects of the core group, by their plural: pods, secrets, …; of a proxied pod NAME:PORT is the name."""
    return f"/api/v1/namespaces/{quote(namespace)}/{kind}{'/' + quote(name, safe=':') if name else ''}"


def grouped(group: str, namespace: str | None, kind: str, name: str = "") -> str:
    """Objects of another group, such as ``apps/v1``."""
    where = f"/namespaces/{quote(namespace)}" if namespace is not None else ""
    return f"/apis/{group}{where}/{kind}{'/' + quote(name) if name else ''}"


def pods_of(service_name: str, component: str = "") -> str:
    """Label selector of a service's pods."""
    return f"{names.LABEL_SERVICE}={service_name}" + (f",{names.LABEL_COMPONENT}={component}" if component else "")
