"""What the watches have delivered: the newest version of each object, by owner. Memory only, no I/O.

A list shows the world as it was when it was read. What a watch or our own writes have said since is newer, so versions
decide, not who comes last: an object that is newer than the list isn't dropped for being absent from it, and one that
was deleted meanwhile doesn't come back.
"""

from collections.abc import Callable, Iterable
from typing import Final

from easel_operator.objects import Json, ObjectKey, ServiceKey, is_newer, is_outdated, to_object_key, to_owner_key

ChangeListener = Callable[[ServiceKey], None]

MAX_TOMBSTONES: Final = 10_000  # those of the last deletions; a list takes seconds, not ten thousand deletions


class Tombstones:
    """Objects that were deleted, with the version at which they were gone: what is older of them is no news."""

    def __init__(self) -> None:
        self._versions: dict[tuple[ObjectKey, str], str | None] = {}  # by key and uid, the oldest first

    def add(self, body: Json, version: str | None) -> None:
        """An object was gone at this version; None: it never comes back.

        To a watch by label, an object that loses its label is deleted, and may come back with a newer version.
        """
        identity = _identify(body)
        self._versions.pop(identity, None)
        self._versions[identity] = version
        if len(self._versions) > MAX_TOMBSTONES:
            del self._versions[next(iter(self._versions))]

    def cover(self, body: Json) -> bool:
        """Whether this is an old version of something deleted."""
        identity = _identify(body)
        if identity not in self._versions:
            return False
        version = self._versions[identity]
        return version is None or not is_newer(body["metadata"].get("resourceVersion", "0"), version)


def _identify(body: Json) -> tuple[ObjectKey, str]:
    return to_object_key(body), str(body["metadata"].get("uid"))


def is_after(body: Json, list_version: str) -> bool:
    """Whether an object is newer than a list, so that its absence there says nothing.

    Where the order of versions isn't known, the list is believed.
    """
    version = body["metadata"].get("resourceVersion", "0")
    return version.isdecimal() and list_version.isdecimal() and is_newer(version, list_version)


def _without_version(body: Json) -> Json:
    metadata = {name: value for name, value in body["metadata"].items() if name != "resourceVersion"}
    return {**body, "metadata": metadata}


class ObjectStore:
    """Objects of all kinds that carry a service's label."""

    def __init__(self, on_change: ChangeListener) -> None:
        self._on_change = on_change
        self._objects: dict[ObjectKey, Json] = {}
        self._by_owner: dict[ServiceKey, set[ObjectKey]] = {}
        self._tombstones = Tombstones()

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
        owner = self._take(body)
        if owner is not None:
            self._on_change(owner)

    def put_quietly(self, body: Json) -> None:
        """Take a version that its owner is being decided on with, such as the answer to a write: nobody is told."""
        self._take(body)

    def _take(self, body: Json) -> ServiceKey | None:
        """The owner to whom this is news; None if it is to nobody."""
        key = to_object_key(body)
        known = self._objects.get(key)
        if is_outdated(body, known) or self._tombstones.cover(body):
            return None
        if known is not None and _without_version(known) == _without_version(body):
            self._objects[key] = body  # what changed isn't among what is kept of it
            return None
        self._detach(key)
        self._objects[key] = body
        owner = to_owner_key(body)
        if owner is not None:
            self._by_owner.setdefault(owner, set()).add(key)
        return owner

    def delete(self, body: Json) -> None:
        """Take the report of a deletion; that of an object which another of its name has replaced changes nothing."""
        key = to_object_key(body)
        self._tombstones.add(body, body["metadata"].get("resourceVersion", "0"))
        known = self._objects.get(key)
        if known is not None and known["metadata"].get("uid") == body["metadata"].get("uid"):
            self.remove(key)

    def remove(self, key: ObjectKey) -> None:
        """Forget an object; its owner is notified."""
        owner = self._detach(key)
        if owner is not None:
            self._on_change(owner)

    def replace_kind(self, kind: str, namespace: str | None, bodies: Iterable[Json], version: str) -> None:
        """Make the store's objects of a kind (in a namespace, or in all) those of a list, read at ``version``."""
        listed = {to_object_key(body): body for body in bodies}
        gone = [
            key
            for key, known in self._objects.items()
            if key.kind == kind
            and (namespace is None or key.namespace == namespace)
            and key not in listed
            and not is_after(known, version)
        ]
        for key in gone:
            self._tombstones.add(self._objects[key], version)
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
