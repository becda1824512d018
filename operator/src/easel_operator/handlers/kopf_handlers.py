"""kopf's part: the watch on StableDiffusionServices. It only feeds the store; what to do is decided elsewhere.

The low-level event handler is used, without finalizers, annotations or progress in the resource: kopf then writes
nothing by itself, and a restart doesn't either.
"""

from typing import Any, Final

import kopf
from easel_contract import names

from easel_operator.handlers.service_store import ServiceStore

WATCH_SECONDS: Final = 300  # a whole number: the API server refuses "300.0"
CONNECT_SECONDS: Final = 10.0


def build_registry(services: ServiceStore) -> kopf.OperatorRegistry:
    """kopf's handlers: one for logging in, one for the services' events."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry, id="login")
    async def login(**kwargs: Any) -> kopf.ConnectionInfo | None:
        # The second imports the whole synchronous client, so it is kept for kubeconfigs, outside of pods.
        return kopf.login_with_service_account(**kwargs) or kopf.login_via_client(**kwargs)

    @kopf.on.event(names.API_GROUP, names.API_VERSION, names.PLURAL, registry=registry, id="services")
    async def observe_service(event: kopf.RawEvent, **_: Any) -> None:
        services.observe(event["type"], dict(event["object"]))

    return registry


def build_settings() -> kopf.OperatorSettings:
    """kopf's settings: each against one of its known traps."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True  # replicas take turns by a Lease; peering can freeze on a ghost (kopf#734)
    settings.posting.enabled = False  # events are ours to choose
    settings.scanning.disabled = True  # no rights to list CRDs and namespaces are needed
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + 60
    settings.watching.connect_timeout = CONNECT_SECONDS
    return settings
