"""Merges overlays over the pod templates that Easel builds, by the rules of Kubernetes' strategic merge.

What an overlay may not say is the contract's (``resource/pod_template.py``), and refused before it comes here.
"""

from collections.abc import Iterable
from typing import Final

from easel_contract import names
from easel_contract.resource import PodTemplate
from easel_contract.resource.pod_template import DIRECTIVE, MERGE_KEYS

from easel_operator.objects import Json

# Entries of these have members of which only one may be set: an overlay's entry replaces the other whole.
REPLACED_ENTRIES: Final = frozenset({"env", "volumes", "resourceClaims"})
ANNOTATION_DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"  # that kubectl logs and exec take
# The API server drops these where they are false or 0 (their Go field is no pointer), or puts its default there, so
# that a manifest with them would never seem applied. Of others false and 0 say something.
DROPPED_WHERE_EMPTY: Final = frozenset(
    {
        *("hostNetwork", "hostPID", "hostIPC", "stdin", "stdinOnce", "tty", "readOnly", "hostPort"),
        *("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"),
        *("partition", "chapAuthDiscovery", "chapAuthSession", "sslEnabled"),
    }
)
KEPT_TEXTS: Final = frozenset({"storageClassName"})  # of texts this alone says something by being empty: no class
# Maps whose keys are whatever their author chose.
FREE_MAPS: Final = frozenset({"nodeSelector", "matchLabels", "labels", "annotations", "volumeAttributes", "options"})


def apply_overlays(template: Json, overlays: Iterable[PodTemplate | None], *, pod_selector: dict[str, str]) -> Json:
    """The pod template with each overlay merged over what is before it.

    Args:
        template: core/v1 PodTemplateSpec with all labels, annotations and the spec.
        overlays: what goes over it, the last one above all; None adds nothing.
        pod_selector: labels by which spread constraints that name none count their pods; without any they would count
            no pod at all, and who writes defaults for all services can't name them.
    """
    used = [each for each in overlays if each is not None]
    if not used:
        return template
    metadata, spec = template["metadata"], template["spec"]
    labels, annotations = metadata["labels"], metadata["annotations"]
    for overlay in used:
        labels = {**labels, **overlay.metadata.labels}
        annotations = {**annotations, **overlay.metadata.annotations}
        spec = _merge_members(spec, overlay.spec, ())
    spec = _without_empty(spec)
    for constraint in spec.get("topologySpreadConstraints", ()):
        constraint.setdefault("labelSelector", {"matchLabels": pod_selector})
    if len(spec["containers"]) > 1:
        annotations = {ANNOTATION_DEFAULT_CONTAINER: names.CONTAINER_NAME, **annotations}
    return {"metadata": {**metadata, "labels": labels, "annotations": annotations}, "spec": spec}


def merge_specs(overlays: Iterable[PodTemplate | None]) -> Json:
    """What overlays say of the pods' spec together, the last one above all."""
    merged: Json = {}
    for overlay in overlays:
        merged = merged if overlay is None else _merge_members(merged, overlay.spec, ())
    return merged


def _merge_members(below: Json, above: Json, path: tuple[str, ...]) -> Json:
    """Members of a map: null takes one away, ``$patch: replace`` all that were there."""
    is_replaced = above.get(DIRECTIVE) == "replace"
    merged = {} if is_replaced else dict(below)
    for name, value in above.items():
        if name == DIRECTIVE:
            continue
        if value is None or (isinstance(value, dict) and value.get(DIRECTIVE) == "delete"):
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value, (*path, name))
    return merged


def _merge(below: object, above: object, path: tuple[str, ...]) -> object:
    if isinstance(above, dict):
        return _merge_members(below if isinstance(below, dict) else {}, above, path)
    if isinstance(above, list):
        key = MERGE_KEYS.get(path)
        entries = below if isinstance(below, list) else []
        return above if key is None else _merge_entries(entries, above, path, key)
    return above


def _merge_entries(below: list[Json], above: list[Json], path: tuple[str, ...], key: str) -> list[Json]:
    """Entries that are the same by their key are merged where they stand, others come behind; ``$patch: delete`` takes
    one away. Of several in one overlay that share a key (a port by TCP and by UDP) each stands for itself."""
    merged = {entry[key]: entry for entry in below}
    new: list[Json] = []
    for value in dict.fromkeys(entry[key] for entry in above):
        same = [entry for entry in above if entry[key] == value]
        is_deleted = any(entry.get(DIRECTIVE) == "delete" for entry in same)
        before = merged.get(value)
        if is_deleted or before is None or len(same) > 1:
            merged.pop(value, None)
            new += [] if is_deleted else [_merge_members({}, entry, path) for entry in same]
        else:
            is_replaced = path[-1] in REPLACED_ENTRIES
            merged[value] = _merge_members({} if is_replaced else before, same[0], path)
    return [*merged.values(), *new]


def _without_empty(node: Json) -> Json:
    """Without what the API server would drop."""
    return {
        name: value if name in FREE_MAPS else _without_empty_below(value)
        for name, value in node.items()
        if not (value == "" and name not in KEPT_TEXTS)
        if not (name in DROPPED_WHERE_EMPTY and isinstance(value, int) and not value)
    }


def _without_empty_below(value: object) -> object:
    if isinstance(value, dict):
        return _without_empty(value)
    if isinstance(value, list):
        return [_without_empty_below(each) for each in value]
    return value
