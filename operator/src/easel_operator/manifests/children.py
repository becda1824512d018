"""All children of a service, in the order in which they are applied."""

from easel_contract import names

from easel_operator.manifests.configuration import build_config_map, build_redis_secret
from easel_operator.manifests.exposure import build_http_route, build_ingress, build_network_policies, build_service
from easel_operator.manifests.gateway import build_gateway_deployment, build_service_account
from easel_operator.manifests.hpa import build_gateway_hpa, build_hpa
from easel_operator.manifests.metadata import ChildContext, with_applied_hash
from easel_operator.manifests.model_cache import build_model_cache
from easel_operator.manifests.monitoring import build_monitoring
from easel_operator.manifests.pod import build_disruption_budget
from easel_operator.manifests.worker import build_worker_deployment
from easel_operator.objects import Json


def build_children(
    context: ChildContext, *, has_hpa: bool, is_tolerance_supported: bool, trial: ChildContext | None = None
) -> tuple[Json, ...]:
    """Manifests for server-side apply, what pods need before the pods.

    Args:
        context: the service and the installation.
        trial: the same of the worker Deployment, where some of its pods try what the others don't run.
        has_hpa: whether a HorizontalPodAutoscaler scales the workers; needs ``spec.scaling``.
        is_tolerance_supported: see build_hpa.
    """
    spec = context.spec
    children = [
        build_service_account(context),
        build_redis_secret(context),
        build_config_map(context, trial),
        *build_model_cache(context),
        build_service(context),
        build_gateway_deployment(context),
        build_worker_deployment(trial or context, replicas=spec.replicas),
    ]
    children += _build_budgets(context)
    if spec.gateway.autoscaling is not None:
        children.append(build_gateway_hpa(context, spec.gateway.autoscaling))
    if spec.network_policy is not None:
        children += build_network_policies(context, spec.network_policy)
    if spec.gateway.ingress is not None:
        children.append(build_ingress(context, spec.gateway.ingress))
    if spec.gateway.http_route is not None:
        children.append(build_http_route(context, spec.gateway.http_route))
    if spec.monitoring is not None:
        children += build_monitoring(context, spec.monitoring)
    if has_hpa and spec.scaling is not None:
        children.append(
            build_hpa(context, spec.scaling, is_tolerance_supported=is_tolerance_supported),
        )
    return tuple(with_applied_hash(child) for child in children)


def _build_budgets(context: ChildContext) -> list[Json]:
    """Budgets of what may have several pods: with a single one, there is nothing that stays while it is away."""
    owner, gateway, worker = context.owner, context.spec.gateway, context.spec.worker
    scaling = context.spec.scaling
    most_gateways = gateway.autoscaling.max_replicas if gateway.autoscaling is not None else gateway.replicas
    most_workers = scaling.max_replicas if scaling is not None else context.spec.replicas or 0
    budgets = (
        (names.gateway_name(owner.name), names.COMPONENT_GATEWAY, gateway.disruption_budget, most_gateways),
        (names.worker_name(owner.name), names.COMPONENT_WORKER, worker.disruption_budget, most_workers),
    )
    return [
        build_disruption_budget(owner, name=name, component=component, budget=budget)
        for name, component, budget, most_pods in budgets
        if most_pods > 1
    ]
