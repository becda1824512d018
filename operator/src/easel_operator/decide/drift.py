"""Whether a live object still carries what was applied, found out without writing to it.

The API server adds defaults and writes quantities in its own way ("1000m" becomes "1"), and others may add entries of
their own (an injected sidecar), so the applied manifest must be contained in the live object, not equal to it.
"""

import re
from decimal import Decimal
from typing import Final

from easel_operator.manifests.metadata import ANNOTATION_APPLIED_HASH
from easel_operator.objects import Json

# Members that identify an entry of a list, most telling first; a list whose entries have none is compared whole.
ENTRY_KEYS: Final = ("uid", "mountPath", "name", "containerPort", "key", "topologyKey", "type")
QUANTITY: Final = re.compile(r"^[+]?([0-9]+[.]?[0-9]*|[.][0-9]+)(?:([KMGTPE]i|[numkMGTPE])|[eE]([+-]?[0-9]{1,2}))?$")
DECIMAL_POWERS: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
BINARY_POWERS: Final = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


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
    if isinstance(wanted, dict):
        # An empty member (a map without entries, say) may be dropped by the server.
        live_members = live if isinstance(live, dict) else {}
        return all(
            contains(live_members.get(name), value) for name, value in wanted.items() if value not in ({}, [], None)
        )
    if isinstance(wanted, list):
        return isinstance(live, list) and _contains_entries(live, wanted)
    return live == wanted or _is_same_quantity(live, wanted)


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
    if isinstance(value, bool) or not isinstance(value, int | str):
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
