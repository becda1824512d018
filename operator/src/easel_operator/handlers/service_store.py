"""The services that kopf's watch has delivered, held equal to the API server by a list of our own now and then.

kopf only watches, by its low-level event handler, without finalizers, annotations or progress in the resource: it then
writes nothing by itself, and a restart doesn't either. What to do is decided elsewhere.

A watch can fall silent without closing, and after a reconnection kopf doesn't report deletions that it missed
(kopf#957, #1145). The list heals both, and counts what the watch failed to deliver, for the health check. The watch
goes on while a list is read, so versions decide which of the two is believed (see object_store.py).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import kopf
from easel_contract import names

from easel_operator.cluster.object_store import Tombstones, is_after
from easel_operator.objects import Json, ServiceKey, is_outdated, to_service_key

# In two lists running, so that a list that overtakes the watch by a moment isn't taken for a broken watch.
MISSED_LISTS_BEFORE_UNHEALTHY = 2
WATCH_SECONDS: Final = 300  # a whole number: the API server refuses "300.0"
CONNECT_SECONDS: Final = 10.0
WRITTEN_BY_SERVER: Final = frozenset({"resourceVersion", "managedFields"})


class ServiceStore:
    """StableDiffusionServices by key. ``on_change`` is called with the key of each that appeared, changed or went.

    ``on_status`` is called instead where nothing but the status changed, which mostly is our own word.
    """

    def __init__(
        self, on_change: Callable[[ServiceKey], None], on_status: Callable[[ServiceKey], None] | None = None
    ) -> None:
        self._on_change = on_change
        self._on_status = on_status or on_change
        self._services: dict[ServiceKey, Json] = {}
        self._tombstones = Tombstones()
        self._lists_with_misses = 0

    def __len__(self) -> int:
        return len(self._services)

    def __iter__(self) -> Iterator[tuple[ServiceKey, Json]]:
        return iter(list(self._services.items()))

    def get(self, key: ServiceKey) -> Json | None:
        """One service, or None."""
        return self._services.get(key)

    def observe(self, event_type: str | None, body: Json) -> None:
        """Take an event of the watch."""
        key = to_service_key(body)
        if event_type == "DELETED":
            self._tombstones.add(body, None)
            known = self._services.get(key)
            if known is not None and known["metadata"]["uid"] == body["metadata"]["uid"]:
                self.forget(key)
            return
        self.put(body)

    def put(self, body: Json) -> None:
        """Take a version; an older one than is known, the same, or one of a deleted service changes nothing."""
        known = self._services.get(to_service_key(body))
        if self.put_quietly(body):
            is_status = known is not None and _without_status(known) == _without_status(body)
            (self._on_status if is_status else self._on_change)(to_service_key(body))

    def put_quietly(self, body: Json) -> bool:
        """Take a version that is being decided on already: nobody is told. Whether it was newer than what was known."""
        key = to_service_key(body)
        if is_outdated(body, self._services.get(key)) or self._tombstones.cover(body):
            return False
        self._services[key] = body
        return True

    def forget(self, key: ServiceKey) -> None:
        """Drop a service that the API server says is gone."""
        known = self._services.pop(key, None)
        if known is not None:
            self._tombstones.add(known, None)
            self._on_change(key)

    def replace_all(self, bodies: Iterable[Json], version: str) -> None:
        """Take a list, read at ``version``: count what the watch had missed, and have every service looked at anew."""
        listed = {to_service_key(body): body for body in bodies if not self._tombstones.cover(body)}
        gone = [key for key, known in self._services.items() if key not in listed and not is_after(known, version)]
        missed = [key for key, body in listed.items() if self._is_news(key, body)] + gone
        self._lists_with_misses = self._lists_with_misses + 1 if missed else 0
        for key in gone:
            self.forget(key)
        for key, body in listed.items():
            self.put(body)
            self._on_change(key)

    def _is_news(self, key: ServiceKey, body: Json) -> bool:
        known = self._services.get(key)
        if known is None:
            return True
        if is_outdated(body, known):
            return False
        return bool(known["metadata"].get("generation", 0) < body["metadata"].get("generation", 0))

    def describe_silence(self) -> str | None:
        """Why the watch can't be trusted; None while it can."""
        if self._lists_with_misses < MISSED_LISTS_BEFORE_UNHEALTHY:
            return None
        return f"the last {self._lists_with_misses} lists of services had changes that the watch didn't deliver"


def _without_status(service: Json) -> Json:
    """What users write."""
    metadata = {name: value for name, value in service["metadata"].items() if name not in WRITTEN_BY_SERVER}
    return {**service, "status": None, "metadata": metadata}


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


class NoMemory(kopf.DiffBaseStorage):
    """Instead of kopf's memory of what it has seen last in the resource, for handlers that we don't have: to look for
    it, kopf copies each service three times at each event."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Nothing to compare."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> None:
        """Nothing seen."""
        return

    def store(self, **_: Any) -> None:
        """Nothing to keep."""


def build_settings() -> kopf.OperatorSettings:
    """kopf's settings: each against one of its known traps."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True  # replicas take turns by a Lease; peering can freeze on a ghost (kopf#734)
    settings.posting.enabled = False  # events are ours to choose
    settings.persistence.diffbase_storage = NoMemory()
    settings.scanning.disabled = True  # no rights to list CRDs and namespaces are needed
    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + 60
    settings.watching.connect_timeout = CONNECT_SECONDS
    return settings
