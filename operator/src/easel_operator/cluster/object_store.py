"""What the watches have delivered: the newest version of each object, by owner. Memory only, no I/O."""

from collections.abc import Callable, Iterable

from easel_operator.objects import Json, ObjectKey, ServiceKey, is_outdated, to_object_key, to_owner_key

ChangeListener = Callable[[ServiceKey], None]


class ObjectStore:
    """Objects of all kinds that carry a service's label."""

    def __init__(self, on_change: ChangeListener) -> None:
        self._on_change = on_change
        self._objects: dict[ObjectKey, Json] = {}
        self._by_owner: dict[ServiceKey, set[ObjectKey]] = {}

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: ObjectKey) -> Json | None:
        """One object, or None."""
        return self._objects.get(key)

    def of(self, owner: ServiceKey) -> dict[ObjectKey, Json]:
        """All objects of a service."""
        return {key: self._objects[key] for key in self._by_owner.get(owner, ())}

    def put(self, body: Json) -> None:
        """Take a version; an older one than is known, or the same, changes nothing."""
        key = to_object_key(body)
        if is_outdated(body, self._objects.get(key)):
            return
        self._detach(key)
        self._objects[key] = body
        owner = to_owner_key(body)
        if owner is not None:
            self._by_owner.setdefault(owner, set()).add(key)
            self._on_change(owner)

    def remove(self, key: ObjectKey) -> None:
        """Forget an object; its owner is notified."""
        owner = self._detach(key)
        if owner is not None:
            self._on_change(owner)

    def replace_kind(self, kind: str, namespace: str | None, bodies: Iterable[Json]) -> None:
        """Make the store's objects of a kind (in a namespace, or in all) those of a fresh list."""
        listed = {to_object_key(body): body for body in bodies}
        gone = [
            key
            for key in self._objects
            if key.kind == kind and (namespace is None or key.namespace == namespace) and key not in listed
        ]
        for key in gone:
            self.remove(key)
        for body in listed.values():
            self.put(body)

    def _detach(self, key: ObjectKey) -> ServiceKey | None:
        known = self._objects.pop(key, None)
        owner = to_owner_key(known) if known is not None else None
        if owner is not None:
            keys = self._by_owner[owner]
            keys.discard(key)
            if not keys:
                del self._by_owner[owner]
        return owner
