"""What a service itself meets: Redis, images, its model's source, and what the operator says of it."""

from typing import Final

from easel_contract import names
from easel_contract.conditions import ConditionType

from easel_cli.decide.service_view import build_view
from easel_cli.doctor.facts import CheckResult, ClusterFacts, Json, Level, ServiceFacts, Unknown, unknown
from easel_cli.doctor.placement_checks import check_gpu_nodes, check_quota, check_runtime_class, check_storage

PULL_FAULTS: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
REDIS_REASONS: Final = frozenset({"RedisUnavailable", "RedisEvicts", "RedisFull"})
UNREACHED: Final = "unreached"  # how a worker's word begins that got no answer from the Hub


def check_service(cluster: ClusterFacts, facts: ServiceFacts) -> list[CheckResult]:
    """All of them, in the order in which a service comes up."""
    runtime_class = check_runtime_class(cluster, facts)
    return [
        check_gpu_nodes(cluster, facts),
        *([runtime_class] if runtime_class is not None else []),
        *check_storage(cluster, facts),
        *check_quota(facts),
        check_images(facts),
        check_redis(facts),
        *check_hub(facts),
        *check_conditions(facts),
    ]


def check_images(facts: ServiceFacts) -> CheckResult:
    """Whether its pods' images could be pulled."""
    check = "Images"
    if isinstance(facts.pods, Unknown):
        return unknown(check, facts.pods, facts.label)
    statuses = [
        (pod, status)
        for pod in facts.pods
        for part in ("initContainerStatuses", "containerStatuses")
        for status in pod.get("status", {}).get(part) or ()
    ]
    for pod, status in statuses:
        waiting: Json = (status.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in PULL_FAULTS:
            return CheckResult(
                check,
                Level.FAILED,
                f"pod {pod['metadata']['name']} can't pull {status.get('image')}: {waiting.get('message', '')}",
                "push the image to where nodes can pull it, or give the chart imagePullSecrets and imageRegistry",
                facts.label,
            )
    started = [status for _, status in statuses if status.get("imageID")]
    if not started:
        return unknown(check, Unknown("no pod of it has been started, so nothing was pulled yet"), facts.label)
    images = ", ".join(sorted({str(status["image"]) for status in started}))
    return CheckResult(check, Level.OK, f"nodes have pulled {images}", service=facts.label)


def check_redis(facts: ServiceFacts) -> CheckResult:
    """Whether Redis is reached with the service's own Secret: a gateway asks it at each look at its readiness."""
    check = "Redis"
    said = facts.readiness
    if said is None:
        return unknown(check, Unknown("no gateway runs, and only its pods have the service's Secret"), facts.label)
    if isinstance(said, Unknown):
        return unknown(check, said, facts.label)
    secret = names.redis_secret_name(facts.service["metadata"]["name"])
    if said.get("reason") in REDIS_REASONS:
        return CheckResult(
            check,
            Level.FAILED,
            f"a gateway, with the Secret {secret}, says {said['reason']}: {said.get('message', '')}",
            "docs/platform/redis.md, or the installation's redis.url, its NetworkPolicies and Redis itself",
            facts.label,
        )
    if said.get("reason") in ("Draining", "Loading"):
        return unknown(check, Unknown(f"the gateway that was asked is {str(said['reason']).lower()}"), facts.label)
    return CheckResult(check, Level.OK, f"a gateway reaches it with the Secret {secret}", service=facts.label)


def check_hub(facts: ServiceFacts) -> list[CheckResult]:
    """Whether a worker gets an answer from the Hub, where anything of the service comes from there."""
    check = "Hub"
    if facts.hub is None:
        return []
    if isinstance(facts.hub, Unknown):
        loaded = _find_condition(facts, ConditionType.MODEL_LOADED)
        if loaded.get("status") == "True":
            return [CheckResult(check, Level.OK, "a worker has loaded the model", service=facts.label)]
        return [unknown(check, facts.hub, facts.label)]
    if facts.hub.startswith(UNREACHED):
        return [
            CheckResult(
                check,
                Level.FAILED,
                f"a worker gets no answer: {facts.hub.removeprefix(UNREACHED).strip(': ')}",
                "let workers out to the Hub (NetworkPolicies, spec.downloads.proxy), name a mirror in "
                "spec.downloads, or keep the model on a claim (easel init --model pvc://…)",
                facts.label,
            )
        ]
    return [CheckResult(check, Level.OK, f"a worker gets an answer from it ({facts.hub})", service=facts.label)]


def check_conditions(facts: ServiceFacts) -> list[CheckResult]:
    """What the operator says is wrong."""
    check = "Conditions"
    view = build_view(facts.service)
    name, namespace = view.name, view.namespace
    problems = [
        CheckResult(
            check,
            Level.WARNING if view.ready == "True" else Level.FAILED,
            f"{', '.join(problem.conditions)} ({problem.reason}): {problem.message}",
            f"easel status {name} -n {namespace}",
            facts.label,
        )
        for problem in view.problems
    ]
    return problems or [CheckResult(check, Level.OK, f"Ready={view.ready}, {view.reason}", service=facts.label)]


def _find_condition(facts: ServiceFacts, kind: ConditionType) -> Json:
    conditions = (facts.service.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] == kind), {})
