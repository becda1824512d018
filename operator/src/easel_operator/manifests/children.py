"""All children of a service, in the order in which they are applied."""

from easel_operator.manifests.configuration import build_config_map, build_redis_secret
from easel_operator.manifests.gateway import (
    build_gateway_deployment,
    build_gateway_disruption_budget,
    build_service,
    build_service_account,
)
from easel_operator.manifests.hpa import build_hpa
from easel_operator.manifests.metadata import ChildContext, with_applied_hash
from easel_operator.manifests.worker import build_worker_deployment
from easel_operator.objects import Json


def build_children(context: ChildContext, *, has_hpa: bool, is_tolerance_supported: bool) -> tuple[Json, ...]:
    """Manifests for server-side apply, what pods need before the pods.

    Args:
        context: the service and the installation.
        has_hpa: whether a HorizontalPodAutoscaler scales the workers; needs ``spec.scaling``.
        is_tolerance_supported: see build_hpa.
    """
    spec = context.spec
    children = [
        build_service_account(context),
        build_redis_secret(context),
        build_config_map(context),
        build_service(context),
        build_gateway_deployment(context),
        build_worker_deployment(context, replicas=spec.replicas),
    ]
    if spec.gateway.replicas > 1:  # with a single gateway, a budget would block every drain of its node
        children.append(build_gateway_disruption_budget(context))
    if has_hpa and spec.scaling is not None:
        children.append(
            build_hpa(context, spec.scaling, is_tolerance_supported=is_tolerance_supported),
        )
    return tuple(with_applied_hash(child) for child in children)
