"""Why the cluster doesn't take pods, from the scheduler's and the admission plugins' words: each cause its own advice.

The words are those of Kubernetes' scheduler plugins (``ErrReason…`` in pkg/scheduler/framework/plugins) and of its
admission plugins (resourcequota, limitranger, podsecurity, webhook). What isn't known is quoted as it is.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from easel_contract.conditions import Reason

MAX_QUOTE_CHARACTERS: Final = 1024


@dataclass(frozen=True)
class PodNeeds:
    """What the advice has to name of the pods that aren't taken."""

    component: str  # names.COMPONENT_GATEWAY or names.COMPONENT_WORKER: the section of the spec
    limit_field: str  # the field that bounds the number of pods
    claim_name: str | None = None  # PersistentVolumeClaim that the pods mount
    gpu_resource: str | None = None  # extended resource that the pods ask for
    gpu_count: int = 0


@dataclass(frozen=True)
class Obstacle:
    """Why pods aren't taken, and what to do about it, in whole sentences."""

    reason: Reason
    advice: str


Advise = Callable[[re.Match[str], PodNeeds], str]
Rule = tuple[re.Pattern[str], Reason, Advise]


def explain_unschedulable(message: str, needs: PodNeeds) -> Obstacle:
    """What the scheduler's message asks for; every cause in it has its sentence, the most definite one the reason."""
    # What follows is about evicting others, and repeats the numbers.
    causes, _, _ = message.partition("preemption:")
    found = [
        Obstacle(reason, advise(match, needs))
        for pattern, reason, advise in SCHEDULER_RULES
        for match in _find_distinct(pattern, causes)
    ]
    if not found:
        return Obstacle(Reason.INSUFFICIENT_CAPACITY, f"Add nodes that take them, or lower {needs.limit_field}.")
    return Obstacle(found[0].reason, " ".join(dict.fromkeys(each.advice for each in found)))


def explain_refused(message: str, needs: PodNeeds) -> Obstacle:
    """What the API server's message asks for where it refuses to create pods."""
    for pattern, reason, advise in ADMISSION_RULES:
        match = pattern.search(message)
        if match is not None:
            return Obstacle(reason, advise(match, needs))
    return Obstacle(Reason.PODS_REFUSED, "Remove what the API server names.")


def quote(message: str) -> str:
    """Another component's message as a sentence, cut to what a condition has room for."""
    return f"{message.strip().rstrip('.')[:MAX_QUOTE_CHARACTERS]}."


def _find_distinct(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    matches = {match[0]: match for match in pattern.finditer(text)}
    return list(matches.values())


def _advise_on_claim(what: str) -> Advise:
    def advise(match: re.Match[str], needs: PodNeeds) -> str:
        name = match.groupdict().get("claim") or needs.claim_name or "that the pods mount"
        return what.format(name=name)

    return advise


def _advise_on_room(match: re.Match[str], needs: PodNeeds) -> str:
    resource = match["resource"].rstrip(".")
    if resource == needs.gpu_resource:
        return f"Add nodes with {needs.gpu_count} {resource} free, or lower {needs.limit_field}."
    return (
        f"Add nodes with more {resource}, lower {resource} in spec.{needs.component}.resources.requests, or lower "
        f"{needs.limit_field}."
    )


def _advise_on_missing_resources(match: re.Match[str], needs: PodNeeds) -> str:
    what = re.sub(r" for: [^;]*", "", match["what"]).replace(";", ",").strip()
    return (
        f"ResourceQuota {match['quota']} asks for {what}: set them in spec.{needs.component}.resources, or give the "
        "namespace a LimitRange with defaults."
    )


def _advise(text: str) -> Advise:
    return lambda _, needs: text.format(component=needs.component, limit_field=needs.limit_field)


def _advise_on_taint(match: re.Match[str], needs: PodNeeds) -> str:
    taint = f" {match['taint']}" if match["taint"] else ""
    field = "worker.tolerations" if needs.component == "worker" else "gateway.podTemplate.spec.tolerations"
    return f"Add a toleration of the taint{taint} to spec.{field}, or add nodes without it."


def _advise_on_selector(_: re.Match[str], needs: PodNeeds) -> str:
    field = "spec.worker.nodeSelector and " if needs.component == "worker" else ""
    return (
        f"Correct {field}spec.{needs.component}.podTemplate.spec (nodeSelector, affinity), its default in the "
        "installation, or label the nodes that are meant."
    )


# The most definite first: a volume that doesn't exist stops a pod on every node.
SCHEDULER_RULES: Final[tuple[Rule, ...]] = (
    (
        re.compile(r'persistentvolumeclaim "(?P<claim>[^"]+)" (not found|is being deleted)'),
        Reason.VOLUME_UNAVAILABLE,
        _advise_on_claim("Create PersistentVolumeClaim {name}, or correct the name in the spec."),
    ),
    (
        re.compile(r'persistentvolumeclaim "(?P<claim>[^"]+)" bound to non-existent persistentvolume'),
        Reason.VOLUME_UNAVAILABLE,
        _advise_on_claim("The volume of PersistentVolumeClaim {name} is gone: make both anew."),
    ),
    (
        re.compile("unbound immediate PersistentVolumeClaims|available persistent volumes to bind"),
        Reason.VOLUME_UNAVAILABLE,
        _advise_on_claim(
            "No volume is bound to PersistentVolumeClaim {name}: see kubectl describe pvc {name} for what its "
            "StorageClass, size and access mode lack."
        ),
    ),
    (re.compile(r"Insufficient (?P<resource>[\w./-]+)"), Reason.INSUFFICIENT_CAPACITY, _advise_on_room),
    (
        re.compile("Too many pods"),
        Reason.INSUFFICIENT_CAPACITY,
        _advise("Nodes hold as many pods as they may: add nodes, or lower {limit_field}."),
    ),
    (
        re.compile("volume node affinity conflict"),
        Reason.VOLUME_UNAVAILABLE,
        _advise_on_claim(
            "The volume of PersistentVolumeClaim {name} can't be reached from these nodes: add nodes in its zone, or "
            "use a volume that all of them reach."
        ),
    ),
    (
        re.compile("exceed max volume count"),
        Reason.VOLUME_UNAVAILABLE,
        _advise_on_claim("Nodes have as many volumes attached as they may: add nodes."),
    ),
    (
        re.compile(r"untolerated taint(?:\(s\))?(?: (?P<taint>\{[^}]*\}))?"),
        Reason.NO_MATCHING_NODE,
        _advise_on_taint,
    ),
    (re.compile("didn't match Pod's node affinity"), Reason.NO_MATCHING_NODE, _advise_on_selector),
    (
        re.compile(r"node\(s\) were unschedulable"),
        Reason.NO_MATCHING_NODE,
        _advise("Nodes are cordoned: kubectl uncordon them, or add others."),
    ),
    (
        re.compile("didn't match pod topology|anti-affinity|affinity rules|didn't have free ports"),
        Reason.NO_MATCHING_NODE,
        _advise("Add nodes that satisfy the rule."),
    ),
    (
        re.compile("no nodes available"),
        Reason.NO_MATCHING_NODE,
        _advise("The cluster has no node: add one."),
    ),
)

ADMISSION_RULES: Final[tuple[Rule, ...]] = (
    (
        re.compile(r"failed quota: (?P<quota>[\w.-]+): must specify (?P<what>.+)"),
        Reason.RESOURCES_MISSING,
        _advise_on_missing_resources,
    ),
    (
        re.compile(r"exceeded quota: (?P<quota>[\w.-]+)"),
        Reason.QUOTA_EXCEEDED,
        lambda match, needs: f"Raise ResourceQuota {match['quota']} of the namespace, or lower {needs.limit_field}.",
    ),
    (
        re.compile(r"(minimum|maximum) \S+ usage per|limit to request ratio"),
        Reason.LIMIT_RANGE_VIOLATED,
        _advise("Change spec.{component}.resources to what the namespace's LimitRange allows, or change that."),
    ),
    (
        re.compile(r'violates PodSecurity "(?P<level>[^"]*)"'),
        Reason.POD_SECURITY_VIOLATED,
        lambda match, _: (
            f"Something has changed the pods so that they violate {match['level']}, which Easel's own satisfy: see "
            "what podTemplate and the cluster's webhooks add, or change the namespace's label "
            "pod-security.kubernetes.io/enforce."
        ),
    ),
    (
        re.compile(r'failed calling webhook "(?P<name>[^"]+)"'),
        Reason.ADMISSION_DENIED,
        lambda match, _: f"Webhook {match['name']} doesn't answer: see that its pods run.",
    ),
    (
        re.compile(
            r"(?P<kind>admission webhook|ValidatingAdmissionPolicy) [\"'](?P<name>[^\"']+)[\"'].* denied (the )?request"
        ),
        Reason.ADMISSION_DENIED,
        lambda match, needs: (
            f"The cluster's {match['kind']} {match['name']} refuses them: change spec.{needs.component} as it asks, or "
            "ask whoever runs it for an exception."
        ),
    ),
    (
        re.compile(r'serviceaccount "(?P<name>[^"]+)" not found'),
        Reason.PODS_REFUSED,
        lambda match, needs: (
            f"ServiceAccount {match['name']} is gone; the operator makes it anew, unless "
            f"spec.{needs.component}.podTemplate names one of yours."
        ),
    ),
    (
        re.compile(
            r"(?P<kind>PriorityClass) with name (?P<name>\S+) was found"
            r'|(?P<kind2>RuntimeClass) "(?P<name2>[^"]+)" not found'
        ),
        Reason.PODS_REFUSED,
        lambda match, needs: (
            f"Create {match['kind'] or match['kind2']} {match['name'] or match['name2']}, or correct "
            f"spec.{needs.component}.podTemplate, or the installation's default of it."
        ),
    ),
)
