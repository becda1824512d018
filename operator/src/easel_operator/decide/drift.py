"""Whether a live object still carries what was applied, found out without writing to it; and which fields of others
must become ours where they keep it from being applied; and which pods still read an earlier configuration.

The API server adds defaults and writes quantities in its own way ("1000m" becomes "1"), and others may add entries of
their own (an injected sidecar), so the applied manifest must be contained in the live object, not equal to it.
"""

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from easel_contract import names

from easel_operator.decide.pod_status import PodStatus
from easel_operator.manifests.metadata import ANNOTATION_APPLIED_HASH, hash_json
from easel_operator.objects import Json

# Members that identify an entry of a list, most telling first; a list whose entries have none is compared whole.
ENTRY_KEYS: Final = ("uid", "mountPath", "name", "containerPort", "key", "topologyKey", "type")
QUANTITY: Final = re.compile(r"^[+]?([0-9]+[.]?[0-9]*|[.][0-9]+)(?:([KMGTPE]i|[numkMGTPE])|[eE]([+-]?[0-9]{1,2}))?$")
DECIMAL_POWERS: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY_POWERS: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
# An empty member (a map without entries, say) may be dropped by the server; these say something by being there.
CHOICES: Final = frozenset({"emptyDir"})
INDEX: Final = re.compile(r"\[[^\]]*\]")
OTHERS_FIELDS: Final = frozenset({("spec", "replicas")})  # an autoscaler's, or a user's by kubectl scale


def is_applied(live: Json | None, wanted: Json) -> bool:
    """Whether applying ``wanted`` (with its hash annotation) would change nothing.

    The hash shows fields that are no longer wanted, the comparison of fields that somebody else changed.
    """
    if live is None:
        return False
    annotations = live["metadata"].get("annotations") or {}
    same_manifest = (
        annotations.get(ANNOTATION_APPLIED_HASH) == wanted["metadata"]["annotations"][ANNOTATION_APPLIED_HASH]
    )
    return same_manifest and contains(live, wanted)


def contains(live: object, wanted: object) -> bool:
    """Whether everything in ``wanted`` is in ``live``."""
    if live == wanted:
        return True  # mostly, and without a look at each member
    if isinstance(wanted, dict):
        live_members = live if isinstance(live, dict) else {}
        return not (CHOICES & wanted.keys() - live_members.keys()) and all(
            contains(live_members.get(name), value) for name, value in wanted.items() if value not in ({}, [], None)
        )
    if isinstance(wanted, list):
        return isinstance(live, list) and _contains_entries(live, wanted)
    return _is_same_quantity(live, wanted)


def _contains_entries(live: list[object], wanted: list[object]) -> bool:
    key = next((key for key in ENTRY_KEYS if _tells_apart(key, wanted)), None)
    if key is None:
        return len(live) == len(wanted) and all(map(contains, live, wanted))
    by_key = {entry.get(key): entry for entry in live if isinstance(entry, dict)}
    return all(isinstance(entry, dict) and contains(by_key.get(entry[key]), entry) for entry in wanted)


def _tells_apart(key: str, entries: list[object]) -> bool:
    values = {entry[key] for entry in entries if isinstance(entry, dict) and key in entry}
    return len(values) == len(entries)


def _is_same_quantity(live: object, wanted: object) -> bool:
    left, right = parse_quantity(live), parse_quantity(wanted)
    return left is not None and left == right


def parse_quantity(value: object) -> Decimal | None:
    """A resource.Quantity as a number; None for anything else, booleans among it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    match = QUANTITY.match(str(value))
    if match is None:
        return None
    number, suffix = Decimal(match[1]), match[2] or ""
    if match[3]:
        return number.scaleb(int(match[3]))
    if suffix in BINARY_POWERS:
        return number * Decimal(1 << BINARY_POWERS[suffix])
    return number.scaleb(DECIMAL_POWERS[suffix])


@dataclass(frozen=True)
class Takeover:
    """Another owner for fields that contradict what is applied: metadata.managedFields, and what changes in words."""

    managed_fields: tuple[Json, ...]
    taken: tuple[str, ...]  # "kubectl-set: spec.template.spec.containers.env.value"


def take_over(live: Json, wanted: Json, *, at_fault: Collection[str] | None) -> Takeover | None:
    """Make others' fields ours, so that applying ``wanted``, which lacks them, removes them; None if there are none.

    Server-side apply overwrites fields of other owners, and removes only what its own manager owns: where one excludes
    the other (``value`` and ``valueFrom`` of a variable, two handlers of a probe), the object can't be applied.

    Args:
        live: the object with all its managedFields.
        wanted: the manifest.
        at_fault: the fields that the API server named. Taken are those beside and below them, within entries of lists
            that ``wanted`` has too; what others have added elsewhere stays theirs. None: everything under ``spec``.

    https://kubernetes.io/docs/reference/using-api/server-side-apply/#transferring-ownership
    """
    entries: list[Json] = live["metadata"].get("managedFields") or []
    ours = next((entry for entry in entries if _is_our_apply(entry)), None)
    if ours is None:
        return None
    places = None if at_fault is None else _find_places(at_fault)
    fields, kept, taken = ours.get("fieldsV1", {}), [], []
    for entry in entries:
        if entry is ours or entry.get("subresource"):
            kept.append(entry)
            continue
        theirs, moved = _split(entry.get("fieldsV1", {}), wanted, (), places)
        if theirs:
            kept.append({**entry, "fieldsV1": theirs})
        fields = _unite(fields, moved)
        taken += [f"{entry.get('manager')}: {'.'.join(path)}" for path in _list_leaves(moved)]
    if not taken:
        return None
    kept = [{**entry, "fieldsV1": fields} if entry is ours else entry for entry in kept]
    return Takeover(tuple(kept), tuple(dict.fromkeys(taken)))


@dataclass(frozen=True)
class Renewal:
    """A pod whose mounted files are to be renewed, and the hash of what it finds in them then."""

    pod: str
    config_hash: str


def find_renewals(config_map: Json | None, wanted: Json, gateways: Iterable[PodStatus]) -> tuple[Renewal, ...]:
    """The gateways that may still read an earlier configuration: those as old as its last change, or older.

    A kubelet renews the files of a ConfigMap when it next looks after the pod, up to about a minute later, and until
    then a gateway takes jobs for a model that is no longer served; a change of the pod has it look at once. Each pod
    is annotated with the hash, and so isn't written to again before the next change.
    """
    read = (names.CONFIG_KEY_GATEWAY, names.CONFIG_KEY_QUEUE)
    files = [wanted["data"][key] for key in read]
    if config_map is None or [(config_map.get("data") or {}).get(key) for key in read] != files:
        return ()  # it isn't written yet, and a renewal would bring the old one again
    ours = [entry for entry in config_map["metadata"].get("managedFields", ()) if _is_our_apply(entry)]
    changed_at = max([datetime.fromisoformat(entry["time"]) for entry in ours if entry.get("time")], default=None)
    if changed_at is None:
        return ()  # the API server doesn't say
    config_hash = hash_json(files)
    behind = [pod for pod in gateways if pod.created_at is not None and pod.created_at <= changed_at]
    return tuple([Renewal(pod.name, config_hash) for pod in behind if pod.live_config != config_hash])


def _is_our_apply(entry: Json) -> bool:
    return (
        entry.get("manager") == names.FIELD_MANAGER
        and entry.get("operation") == "Apply"
        and not entry.get("subresource")
    )


def _find_places(at_fault: Collection[str]) -> frozenset[tuple[str, ...]]:
    """The fields at fault and what they are in, without the places in lists, which differ from the live object's."""
    paths = [tuple(INDEX.sub("", field).split(".")) for field in at_fault]
    return frozenset(path for full in paths for path in (full, full[:-1]) if path)


def _split(
    fields: Json, wanted: object, path: tuple[str, ...], places: frozenset[tuple[str, ...]] | None
) -> tuple[Json, Json]:
    """A manager's fields (FieldsV1) below ``path``: what stays theirs, and what becomes ours."""
    theirs: Json = {}
    ours: Json = {}
    for key, below in fields.items():
        kind, _, name = key.partition(":")
        here = (*path, name) if kind == "f" else path
        if here in OTHERS_FIELDS or (places is None and path == () and name != "spec"):
            theirs[key] = below
            continue
        found = _find_in(wanted, kind, name)
        if found is None and key != ".":
            is_taken = places is None or (kind == "f" and path in places)
            (ours if is_taken else theirs)[key] = below
            continue
        left, moved = _split(below, found, here, places)
        if left or not below:
            theirs[key] = left
        if moved:
            ours[key] = moved
    return theirs, ours


def _find_in(wanted: object, kind: str, name: str) -> object:
    """The member or entry of the manifest that a part of FieldsV1 names; None if there is none."""
    if kind == "f" and isinstance(wanted, dict):
        return wanted.get(name)
    if kind == "k" and isinstance(wanted, list):
        key: Json = json.loads(name)
        return next((entry for entry in wanted if isinstance(entry, dict) and key.items() <= entry.items()), None)
    return None


def _unite(left: Json, right: Json) -> Json:
    return {**left, **{key: _unite(left.get(key, {}), below) for key, below in right.items()}}


def _list_leaves(fields: Json, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for key, below in fields.items():
        kind, _, name = key.partition(":")
        here = (*path, name) if kind == "f" else path
        found += _list_leaves(below, here) if below else [here]
    return found
